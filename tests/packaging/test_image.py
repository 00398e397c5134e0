"""The Dockerfile: built from nothing but Debian's packages, and its agent run as a container's user would.

Takes minutes and 1.5 GB, so only with MOLEHILL_IMAGE=1 (`make image`). There is no Docker here: buildah stands for it.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from agent.lab import network
from agent.lab.lab import Lab, down
from agent.lab.plan import Host, Plan, generate

pytestmark = pytest.mark.image

BUILD = Path(__file__).with_name("build_image.sh")
CAPABILITIES = ("--cap-add", "CAP_NET_ADMIN", "--cap-add", "CAP_NET_RAW")


class Image:
    def __init__(self, directory: Path) -> None:
        self._storage = ("--root", str(directory / "storage"), "--runroot", str(directory / "run"))

    def command(self, *words: str) -> list[str]:
        return ["buildah", *self._storage, "--storage-driver", "vfs", *words]

    def buildah(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0 or not check, f"{words}: {done.stderr}"
        return done

    def configuration(self) -> dict[str, Any]:
        """What a container of the image is started with."""
        found: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", "molehill:test").stdout)
        return dict(found["Docker"]["config"])

    @contextmanager
    def container(self) -> Iterator[str]:
        name = self.buildah("from", "--pull-never", "molehill:test").stdout.strip()
        try:
            yield name
        finally:
            self.buildah("rm", name)

    def run(self, container: str, *words: str, capabilities: bool = True) -> subprocess.CompletedProcess[str]:
        given = CAPABILITIES if capabilities else ()
        return self.buildah("run", "--isolation", "chroot", *given, container, "--", *words, check=False)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if os.environ.get("MOLEHILL_IMAGE") != "1":
        pytest.skip("takes minutes: MOLEHILL_IMAGE=1, or `make image`")
    if os.geteuid() != 0 or shutil.which("buildah") is None or shutil.which("debootstrap") is None:
        pytest.skip("needs root, buildah and debootstrap: apt-get install buildah debootstrap")
    directory = tmp_path_factory.mktemp("image")
    done = subprocess.run([BUILD, directory], capture_output=True, text=True, check=False, timeout=2400)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    yield Image(directory)
    shutil.rmtree(directory, ignore_errors=True)


def test_what_a_container_is_started_with(image: Image) -> None:
    configuration = image.configuration()
    assert configuration["Entrypoint"] == ["molehill"]
    assert configuration["Cmd"] == ["run"]
    assert configuration["User"] == "molehill"
    assert "/-/healthy" in json.dumps(configuration["Env"])
    assert configuration["Healthcheck"]["Test"][0] == "CMD"


def test_its_command_starts_for_the_images_user(image: Image) -> None:
    with image.container() as container:
        assert image.run(container, "molehill", "version").stdout == f"molehill {__version__}\n"
        identity = image.run(container, "id", "-u")
        assert identity.stdout == "748\n", identity
        refused = image.run(container, "molehill", "version", capabilities=False)
        assert refused.returncode != 0
        assert "operation not permitted" in refused.stderr, "without the capabilities it does not start half"
        files = image.run(container, "sh", "-c", "ls -d /opt/molehill/bin/pip* /source 2> /dev/null; true").stdout
        assert files == "", "nothing of the build is left"


@pytest.mark.netns
@pytest.mark.lab
def test_its_agent_holds_vips_and_answers_the_health_check(image: Image) -> None:
    """In a node's namespace of a lab, as the host's network would be."""
    name = f"i{os.getpid() % 1_000_000}"
    down(name)
    with image.container() as container:

        def containerised(plan: Plan, host: Host, directory: Path) -> list[str]:
            for path in (directory / "molehill.yaml", directory / "secret"):
                path.chmod(0o640)
                shutil.chown(path, group=748)
            os.chmod(directory, 0o755)
            inside = f"{directory}:{directory}:ro"
            told = [*plan.agent_arguments, "-n", host.name]
            words = ["molehill", "run", *(word.replace("{state}", str(directory)) for word in told)]
            run = ("run", "--isolation", "chroot", "--network", "host", *CAPABILITIES, "--volume", inside)
            return image.command(*run, container, "--", *words)

        try:
            lab = Lab.create(generate(name, 1, 2, network.free_management_network()), containerised, agents=False)
            lab.start("www1")
            wait_held(lab)
            health = image.configuration()["Healthcheck"]["Test"][1:]
            inside = ["ip", "netns", "exec", lab.plan.namespace("www1"), *image.command("run", "--isolation", "chroot")]
            asked = [*inside, "--network", "host", container, "--", *health]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            process = lab.agent("www1")
            assert process is not None
        finally:
            down(name)


def wait_held(lab: Lab) -> None:
    """The control socket is inside the container: the kernel's addresses are what can be seen."""
    deadline = time.monotonic() + 60
    while not all(who == ["www1"] for who in lab.holders().values()):
        assert lab.agent("www1") is not None, lab.log("www1").read_text()
        assert time.monotonic() < deadline, lab.log("www1").read_text()
        select.select([], [], [], 0.05)


def test_nothing_of_this_machine_is_named() -> None:
    text = Path(__file__).parents[2].joinpath("Dockerfile").read_text()
    bases = [line.split()[1] for line in text.splitlines() if line.startswith("FROM ")]
    assert set(bases) == {"debian:bookworm-slim"}
    assert socket.gethostname() not in text
    assert not any(word in text for word in ("index-url", "find-links", "trusted-host", "http_proxy"))
    assert "--require-hashes -r requirements.lock" in text
