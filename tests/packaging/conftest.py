"""What is installed elsewhere: a wheel of this tree, in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "-qq", "--no-input", "--disable-pip-version-check")
PACKAGED = ("agent", "exporters", "dashboards", "alerts")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "image: builds a container image (minutes; only with MOLEHILL_IMAGE=1)")


def run(*words: str | Path) -> str:
    """What the command printed. It must end well."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with what the lock names, which includes what builds wheels."""
    made = tmp_path_factory.mktemp("environment") / "molehill"
    run(sys.executable, "-m", "venv", made)
    run(made / "bin" / "python", *PIP, "install", "--require-hashes", "-r", ROOT / "requirements.lock")
    return made


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what wheels are built from: setuptools writes beside its sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="session")
def wheel(environment: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    python = environment / "bin" / "python"
    run(python, *PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", directory, source)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(environment: Path, wheel: Path) -> Path:
    """The directory of the commands after the steps of docs/install.md."""
    run(environment / "bin" / "python", *PIP, "install", "--no-deps", wheel)
    return environment / "bin"
