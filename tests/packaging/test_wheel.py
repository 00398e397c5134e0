"""The wheel has everything, and what is installed from it runs without this tree."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from agent import __version__

ROOT = Path(__file__).parents[2]

NOT_SHIPPED = (".md",)
"""Kinds of files that the program does not need. Whoever adds another kind adds it to package-data, or here."""


def files(source: Path) -> set[str]:
    packages = ("agent", "exporters", "dashboards", "alerts")
    found = (path for package in packages for path in (source / package).rglob("*") if path.is_file())
    return {str(path.relative_to(source)) for path in found if "__pycache__" not in path.parts}


def test_everything_that_the_program_reads_is_in_the_wheel(source: Path, wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in files(source) - packed if not name.endswith(NOT_SHIPPED)} == set()
    units = {f"agent/systemd/molehill.{kind}" for kind in ("service", "sysusers.conf", "tmpfiles.conf")}
    assert units <= packed
    assert not any(name.startswith("tests/") for name in packed)


def test_the_installed_commands_run(installed: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(installed / words[0]), *words[1:]]
        # Another directory, no PYTHONPATH: nothing of this tree can be imported.
        return subprocess.run(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)

    assert run("molehill", "version").stdout == f"molehill {__version__}\n"
    schema = json.loads(run("molehill", "schema").stdout)
    assert {"cluster", "engine", "vips"} <= set(schema["properties"])
    (tmp_path / "secret").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "secret").chmod(0o640)
    configuration = tmp_path / "molehill.yaml"
    configuration.write_text(
        f"""cluster: www
engine: {{members: {{www1: 192.0.2.1, www2: 192.0.2.2}}, secret_file: {tmp_path}/secret}}
vips: [{{addresses: ["lo:192.0.2.10/24"]}}]
"""
    )
    good = run("molehill", "check", "-c", str(configuration), "-n", "www1")
    assert good.returncode == 0, good.stderr
    configuration.write_text(configuration.read_text().replace("vips:", "vipps:"))
    bad = run("molehill", "check", "-c", str(configuration), "-n", "www1")
    assert bad.returncode == 1
    assert "vipps" in bad.stderr
    assert "Wackamole" in run("wackatrl", "--help").stdout


@pytest.mark.parametrize(("verb", "kind"), [("dashboards", ".json"), ("alerts", ".yml")])
def test_dashboards_and_alerts_come_out_of_the_wheel(installed: Path, tmp_path: Path, verb: str, kind: str) -> None:
    if not (ROOT / verb).is_dir():
        pytest.skip(f"this tree has no {verb}/ yet")
    subprocess.run([installed / "molehill", verb, tmp_path], cwd=tmp_path, check=True, capture_output=True)
    assert [path for path in tmp_path.rglob("*") if path.suffix == kind]


def test_the_installed_program_imports_nothing_of_the_tests_tools(installed: Path) -> None:
    """What only the development lock has must not be needed to start."""
    listed = subprocess.run([installed / "python", "-m", "pip", "list"], capture_output=True, text=True, check=True)
    assert not re.search(r"^(pytest|hypothesis|mypy|ruff|grafana)", listed.stdout, re.MULTILINE)
    code = "import agent.runtime, agent.lab.commands, agent.config.commands, agent.control.wackatrl"
    done = subprocess.run([installed / "python", "-P", "-c", code], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
