"""Each file in broken/ gives exactly the messages in expected.txt: file, line, value, fix; all of them in one go."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.load import load, load_wackamole
from agent.config.problem import ConfigError

HERE = Path(__file__).parent
BROKEN = HERE / "broken"
SEED = HERE.parent / "seed"
NO_SECRET = Path("/nonexistent/secret")

EXPECTED: dict[str, list[str]] = {}
for message in (HERE / "expected.txt").read_text().splitlines():
    EXPECTED.setdefault(message.partition(":")[0], []).append(message)

# What the YAML library says differs between its C and Python parts.
SYNTAX = {
    "syntax.yaml": ("syntax.yaml:4: not YAML: ", " at 'insecure: true'; check indentation, quotes and brackets"),
    "tab.yaml": ("tab.yaml:3: not YAML: ", " at 'port: 4803'; check indentation, quotes and brackets"),
}


def messages(path: Path) -> list[str]:
    is_spread = path.name.endswith(".spread.conf")
    pair = (SEED / "wackamole.conf", path) if is_spread else (path, SEED / "spread.conf")
    with pytest.raises(ConfigError) as caught:
        load(path) if path.suffix == ".yaml" else load_wackamole(*pair, node="www1", secret=NO_SECRET)
    assert all(problem.severity == "error" for problem in caught.value.problems)
    return str(caught.value).replace(f"{BROKEN}/", "").splitlines()


def test_every_broken_file_is_expected() -> None:
    assert {path.name for path in BROKEN.iterdir()} == EXPECTED.keys() | SYNTAX.keys()
    assert len(EXPECTED) >= 30


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_messages(name: str) -> None:
    assert messages(BROKEN / name) == EXPECTED[name]


@pytest.mark.parametrize("name", sorted(SYNTAX))
def test_yaml_syntax(name: str) -> None:
    (message,) = messages(BROKEN / name)
    start, rest = SYNTAX[name]
    assert message.startswith(start)
    assert rest in message


def test_both_files_of_a_pair_report() -> None:
    with pytest.raises(ConfigError) as caught:
        load_wackamole(BROKEN / "spaces-missing.conf", BROKEN / "brace.spread.conf", node="www1")
    assert [(Path(problem.file).name, problem.line) for problem in caught.value.problems] == [
        ("spaces-missing.conf", 1),
        ("spaces-missing.conf", 3),
        ("brace.spread.conf", 1),
    ]


@pytest.mark.parametrize("kind", ["missing", "directory", "device", "unreadable name", "huge"])
def test_files_that_are_no_files(kind: str, tmp_path: Path) -> None:
    path, what = {
        "missing": (tmp_path / "none.yaml", "does not exist"),
        "directory": (tmp_path, "is a directory"),
        "device": (Path("/dev/zero"), "is not a regular file"),
        "unreadable name": (Path("a\0b"), "cannot be read"),
        "huge": (tmp_path / "huge.yaml", "has more than 8388608 bytes"),
    }[kind]
    if kind == "huge":
        with path.open("wb") as file:
            file.truncate(9 << 20)
    for pair in (False, True):
        with pytest.raises(ConfigError) as caught:
            load_wackamole(path, SEED / "spread.conf", node="www1") if pair else load(path)
        assert str(caught.value).startswith(f"{path}: {what}")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a, *a]\n",
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "[" * 100_000,
        "cluster: " + "{a: " * 30 + "1" + "}" * 30,
    ],
)
def test_bombs_cost_little_and_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "without end" in str(caught.value) or "nesting" in str(caught.value)


def test_garbage_reports_a_readable_number_of_problems(tmp_path: Path) -> None:
    path = tmp_path / "words.conf"
    path.write_text("\n".join(f"word{number} = x" for number in range(5000)))
    with pytest.raises(ConfigError) as caught:
        load_wackamole(path, SEED / "spread.conf", node="www1")
    assert 50 <= len(str(caught.value).splitlines()) <= 52
