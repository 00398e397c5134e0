"""The shape of the program: who may know whom, and how long anything may be."""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FILE_LINES_MAX = 480
FUNCTION_LINES_MAX = 80

PURE = frozenset(
    {"__future__", "abc", "bisect", "collections", "copy", "dataclasses", "enum", "fractions", "functools", "hashlib"}
    | {"heapq", "ipaddress", "itertools", "math", "operator", "re", "types", "typing"}
)
"""What the core may import besides itself: no I/O, clock, randomness, threads or third party."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, also those inside functions; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def offences(paths: list[Path], allowed: Callable[[str], bool]) -> list[str]:
    found = [(path, line, name) for path in paths for line, name in imports(path)]
    return [f"{named(path)}:{line} imports {name}" for path, line, name in found if not allowed(name)]


def test_the_core_is_pure() -> None:
    files = sources("agent/core")
    assert len(files) > 5
    assert offences(files, lambda name: within(name, "agent.core") or name.split(".")[0] in PURE) == []


def test_only_the_composition_root_knows_the_exporters() -> None:
    """And the command line two: the witness, a program of its own that no agent ever runs, and for `check` the reader
    of a file that exporters use."""
    files = [path for path in sources("agent") if path != ROOT / "agent" / "runtime.py"]
    others = ("exporters.witness", "exporters.witness_plan", "exporters.web_config")
    found = offences(files, lambda name: not within(name, "exporters"))
    assert [text for text in found if not (text.startswith("agent/cli.py:") and text.endswith(others))] == []


def test_exporters_know_nothing_of_the_agent_but_its_vocabulary() -> None:
    vocabulary = ("agent.core.events", "agent.core.effects", "agent.core.ids", "agent.core.settings", "agent.core.view")
    allowed = (*vocabulary, "agent.__version__", "exporters")

    def fine(name: str) -> bool:
        ours = within(name, "agent") or within(name, "exporters")
        return not ours or name == "agent.core" or any(within(name, package) for package in allowed)

    observers = [path for path in sources("exporters") if not path.name.startswith("witness")]
    assert offences(observers, fine) == []
    # The witness observes no agent's events: it asks with the agents' frames for what their configuration names.
    witness = set(sources("exporters")) - set(observers)
    assert len(witness) > 3
    more = ("agent.drivers.frames", "agent.config")
    assert offences(sorted(witness), lambda name: fine(name) or any(within(name, it) for it in more)) == []


def test_engines_and_drivers_do_not_know_each_other() -> None:
    parts = ("engines", "drivers")
    for part, other in (parts, parts[::-1]):
        foreign = tuple(f"agent.{name}" for name in (other, "control", "lab", "config", "pump", "runtime", "cli"))
        files = sources(f"agent/{part}")
        assert offences(files, lambda name, foreign=foreign: not any(within(name, it) for it in foreign)) == []  # type: ignore[misc]


def test_files_are_short() -> None:
    lengths = {named(path): len(path.read_text().splitlines()) for path in sources("agent", "exporters", "tests")}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


def test_functions_are_short() -> None:
    long = [
        f"{named(path)}:{node.lineno} {node.name} has {length} lines"
        for path in sources("agent", "exporters")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_nothing_is_mocked() -> None:
    assert offences(sources("tests"), lambda name: not within(name, "unittest.mock") and not within(name, "mock")) == []


def test_every_part_says_what_it_is() -> None:
    silent = [
        named(path)
        for path in sources("agent", "exporters")
        if path.read_text().strip() and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_locks_are_hashed_and_name_no_place(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    pins = [line for line in lines if "==" in line and not line.lstrip().startswith("#")]
    assert len(pins) > 30
    assert [line for line in pins if not line.endswith(" \\")] == []
    assert [
        line
        for line in lines
        if "://" in line or "file:" in line.replace("requirements file:", "") or line.startswith("-")
    ] == []


def test_the_development_lock_has_the_same_pins() -> None:
    def pins(lock: str) -> set[str]:
        return {line.split()[0] for line in (ROOT / lock).read_text().splitlines() if "==" in line}

    assert pins("requirements.lock") <= pins("requirements-dev.lock")
    assert any(pin.startswith("setuptools==") for pin in pins("requirements.lock"))


def test_python_is_new_enough_for_what_is_promised() -> None:
    assert sys.version_info >= (3, 11)
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
