"""`molehill check`, `schema` and `convert` as an operator meets them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import commands
from agent.config.load import load
from exporters import web_config

SEED = Path(__file__).parent.parent / "seed"
PAIR = ["--wackamole-conf", str(SEED / "wackamole.conf"), "--spread-conf", str(SEED / "spread.conf"), "-n", "www1"]
BROKEN = Path(__file__).parent / "broken"


def check(args: argparse.Namespace) -> int:
    return commands.check(args, web_config.complaint)


def run(verb: Callable[[argparse.Namespace], int], *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--live", action="store_true")
    commands.add_arguments(parser)
    return verb(parser.parse_args(arguments))


def test_check_of_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(check, *PAIR) == 0
    out, err = capsys.readouterr()
    assert out.startswith("OK cluster www, node www1, 2 members, 1 VIPs, ")
    assert f"warning: {SEED}/wackamole.conf:13: notify eth4:192.168.1.1/32 is on no VIP's network" in err


def test_check_prints_all_errors_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(check, "-c", str(BROKEN / "vips.yaml")) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 10


def test_check_refuses_what_run_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(check, *PAIR, "--set", "engine.kind=corosync") == 1
    assert "--set engine.kind=corosync: engine 'corosync' is not in force yet" in capsys.readouterr().err


def test_check_warns_of_an_even_number_of_votes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(check, *PAIR, "--set", "partition=quorum") == 0
    assert "an even number of votes (2)" in capsys.readouterr().err


def test_check_says_what_is_not_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(check, *PAIR, "--set", "checks=[{name: x, link: eth4}]") == 0
    assert "warning: --set checks=[{name: x, link: eth4}]: not in force yet: checks" in capsys.readouterr().err


def test_check_live_looks_at_this_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(check, *PAIR, "--live", "--set", "vips=[{addresses: ['no-such-nic:192.168.3.145/24']}]") == 1
    assert "interface no-such-nic does not exist" in capsys.readouterr().err


def test_check_reads_the_web_config_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "web.yml"
    for text, complaint in (
        ("# nothing yet\n\nbasic_auth_user: {}\n", f"{file}:3: 'basic_auth_user' is not taken here; remove it"),
        ("basic_auth_users:\n  ops: sesame\n", f"{file}:2: the password of 'ops' is no bcrypt hash; make one"),
        ("a: [\n", f"{file}:2: "),
    ):
        file.write_text(text)
        assert run(check, *PAIR, "--set", f"http.web_config={file}") == 1
        assert complaint in capsys.readouterr().err
    file.write_text("http_server_config: {http2: true}\n")
    assert run(check, *PAIR, "--set", f"http.web_config={file}") == 0
    file.unlink()
    assert run(check, *PAIR, "--set", f"http.web_config={file}") == 1
    assert f"{file}: No such file or directory; make it readable" in capsys.readouterr().err


@pytest.mark.parametrize("option", [0, 2])
def test_one_file_of_the_pair_is_not_enough(option: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(check, *PAIR[option : option + 2]) == 1
    missing = PAIR[2 - option]
    assert capsys.readouterr().err == f"{PAIR[option]}: {missing} is missing; name both files: each has one half\n"


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands.convert, *PAIR, "--set", "engine.members.www3=192.168.3.142") == 0
    path = tmp_path / "molehill.yaml"
    path.write_text(capsys.readouterr().out)
    assert list(load(path).configuration.engine.members) == ["www1", "www2", "www3"]
    assert path.read_text().startswith("# ")


def test_convert_needs_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands.convert) == 2
    assert "--wackamole-conf FILE --spread-conf FILE" in capsys.readouterr().err
    assert run(commands.convert, *PAIR[:2], "--spread-conf", "/nonexistent") == 1
    assert capsys.readouterr().err == "/nonexistent: does not exist; create it, or name another file\n"


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(commands.schema) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "molehill.yaml"
