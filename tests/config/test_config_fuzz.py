"""Whatever the files hold, the answer is a configuration or a ConfigError with places and fixes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config.convert import to_yaml
from agent.config.load import Loaded, load, load_wackamole
from agent.config.models import Configuration
from agent.config.problem import ConfigError
from agent.config.spread import parse_spread
from agent.config.wackamole import parse_wackamole

SEED = Path(__file__).parent.parent / "seed"
KEYWORDS = [
    *("Spread", "SpreadRetryInterval", "Group", "Control", "Mature", "Arp-Cache", "Balance", "AcquisitionsPerRound"),
    *("Interval", "Prefer", "Notify", "VirtualInterfaces", "VIFs", "VIPs", "ModuleDir", "RunDynamic", "PerlUse"),
    *("PerlUseLib", "LogFacility", "None", "all", "throttle", "ping", "=", "{", "}", "5s", "1h", "5", "e:10.0.0.1/24"),
    *("10.0.0.0/8", "e:10.0.0.1/32n16", "/x", "g", "'q q'", '"x ', "#c", "\n", "on up", "Spread=4803"),
    *("e:1:10.0.0.1/24", "999.1.1.1/24"),
]
SPREAD_WORDS = [
    *("Spread_Segment", "10.0.0.255:4803", "[ff02::1]:4803", "10.0.0.1", "n1", "n2", "VirtualID", "=", "{", "}", ";"),
    *("C", "D", "M", "5000", "true", "DebugFlags", "PRINT", "EventTimeStamp", "TokenTimeout", "HurryTimeout", "x"),
    *("WideAreaNetwork", "DaemonUser", "\n", "#c", "[", "]", "'", '"', "2001:db8::1", "EventLogFile"),
]

WORDS = st.sampled_from(KEYWORDS) | st.text(max_size=8)
SPREAD_TEXT = st.lists(st.sampled_from(SPREAD_WORDS) | st.text(max_size=8), max_size=40).map(" ".join)
SMALL = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def told(error: ConfigError) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.severity == "error"
        assert problem.what
        assert problem.fix
        assert problem.line is None or problem.line >= 1
        assert "\n" not in problem.what + problem.fix


def told_line(error: ConfigError) -> None:
    assert any(problem.line is not None for problem in error.problems)


@SMALL
@given(st.lists(WORDS, max_size=40).map(" ".join))
def test_wackamole_words(text: str) -> None:
    with suppress(ConfigError):
        assert parse_wackamole(text, "w").file == "w"


@SMALL
@given(SPREAD_TEXT)
def test_spread_words(text: str) -> None:
    with suppress(ConfigError):
        assert parse_spread(text, "s").segments


@SMALL
@given(st.binary(max_size=80), st.integers(0, 300), st.integers(0, 20), st.booleans())
def test_damaged_pairs(tmp_path: Path, junk: bytes, at: int, cut: int, in_spread: bool) -> None:
    paths = {name: tmp_path / name for name in ("wackamole.conf", "spread.conf")}
    for number, (name, path) in enumerate(paths.items()):
        content = (SEED / name).read_bytes()
        path.write_bytes(content[:at] + junk + content[at + cut :] if bool(number) == in_spread else content)
    try:
        loaded = load_wackamole(*paths.values(), node="www1", secret=tmp_path / "none")
    except ConfigError as error:
        told(error)
    else:
        same(loaded, tmp_path)


def same(loaded: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(loaded.configuration))
    assert load(path).configuration == loaded.configuration


KEYS = st.sampled_from([*Configuration.model_fields, "members", "heartbeat", "addresses", "name", "range", "zz"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["5s", "e:10.0.0.1/24", "arp-cache", "all", "192.0.2.1", "www1", "/x", ":80", "http://h/"])
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=12
)
GOOD: dict[str, Any] = {
    "cluster": "www",
    "node": "www1",
    "engine": {"members": {"www1": "192.0.2.1", "www2": "192.0.2.2"}, "insecure": True},
    "vips": [{"addresses": ["e:192.0.2.9/24"]}],
}


@SMALL
@given(st.dictionaries(st.sampled_from(list(Configuration.model_fields)), TREES, min_size=1, max_size=4))
def test_trees_under_true_keys(tmp_path: Path, tree: dict[str, Any]) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **tree}))
    try:
        loaded = load(path)
    except ConfigError as error:
        told(error)
        told_line(error)
    else:
        same(loaded, tmp_path)


@SMALL
@given(st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@,? \n\t", max_size=60).map(str.encode))
def test_bytes_as_yaml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    told(caught.value)


OVERRIDE_KEYS = st.lists(st.sampled_from(["engine", "vips", "0", "members", "www1", "node", "lease", "é"]), max_size=4)


@SMALL
@given(
    OVERRIDE_KEYS.map(".".join) | st.text(max_size=9), TREES.map(yaml.safe_dump) | st.text(max_size=9), st.booleans()
)
def test_overrides(tmp_path: Path, key: str, value: str, pair: bool) -> None:
    override = [f"{key}={value}"]
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    try:
        if pair:
            load_wackamole(SEED / "wackamole.conf", SEED / "spread.conf", overrides=override, secret=tmp_path / "none")
        else:
            same(load(path, overrides=override), tmp_path)
    except ConfigError as error:
        told(error)
