"""YAML text to plain data with the line of every value; and reading a file at all."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml

from agent.config.problem import ConfigError, Location, Origins, Place, Problem
from agent.config.values import show

FILE_BYTES_MAX = 8 << 20
"""The largest pool (16,384 VIPs with several addresses each) takes about 3 MB of YAML."""

DEPTH_MAX = 20
"""The configuration has five levels; the composer recurses in C, so that depth must be known to be small."""

NODES_MAX = 400_000
"""Aliases of aliases multiply: this many values is beyond every true configuration."""

# libyaml is fifty times as fast as the Python scanner: a pool of 16,384 VIPs loads in a second.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"
_TAGS = frozenset({"null", "bool", "int", "float", "str", "map", "seq", "timestamp", "merge", "value"})


def read_bytes(path: Path, limit: int = FILE_BYTES_MAX) -> bytes:
    """The file's content. Raises `ConfigError`: missing, no regular file, not readable, or beyond `limit` bytes."""

    def refuse(what: str, fix: str) -> ConfigError:
        return ConfigError([Problem(str(path), None, what, fix)])

    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise refuse("is a directory", "name the file in it")
        if not stat.S_ISREG(status.st_mode):
            raise refuse("is not a regular file", "name a file that can be read again on reload")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise refuse("does not exist", "create it, or name another file") from None
    except PermissionError:
        raise refuse("is not readable for this user", "run as root or give read permission") from None
    except (OSError, ValueError) as error:
        raise refuse(f"cannot be read: {error}", "name another file") from None
    if len(content) > limit:
        raise refuse(f"has more than {limit} bytes", "this is no configuration; name another file")
    return content


def read_yaml(path: Path) -> tuple[dict[str, Any], Origins]:
    """A configuration file's data. Raises `ConfigError` with the line."""
    content = read_bytes(path)
    file = str(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise ConfigError([Problem(file, line, f"byte 0x{byte:02x} is not UTF-8", "save the file as UTF-8")]) from None
    if found := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError([Problem(file, line, f"control character {show(found[0])}", "remove it")])
    data, origins = parse_yaml(text, file)
    if data is None:
        raise ConfigError([Problem(file, None, "is empty", "see docs/configuration.md for the shortest configuration")])
    if not isinstance(data, dict):
        raise ConfigError([Problem(file, 1, f"holds {show(data)}, not keys", "write `key: value` lines")])
    return data, origins


def parse_yaml(text: str, file: str) -> tuple[Any, Origins]:
    """Data of one YAML document and the place of each value. Raises `ConfigError`; duplicate keys are errors."""
    try:
        _bound(text, file)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        what = f"not YAML: {error.problem or error.context}"
        source = "" if line is None else "".join(text.split("\n")[line - 1 : line]).strip()
        if source:
            what += f" at {show(source)}"
        elif error.context_mark is not None:
            what += f" ({error.context} that begins on line {error.context_mark.line + 1})"
        raise ConfigError(
            [Problem(file, line, what, "check indentation, quotes and brackets here and just above")]
        ) from None
    except yaml.YAMLError as error:
        what = f"not YAML: {' '.join(str(error).split())}"
        raise ConfigError([Problem(file, None, what, "save it as plain UTF-8 text")]) from None
    reading = _Reading(file)
    data = None if root is None else reading.value(root, ())
    if reading.problems:
        raise ConfigError(reading.problems)
    return data, Origins(file, reading.places)


def _bound(text: str, file: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                line = None if event.start_mark is None else event.start_mark.line + 1
                raise ConfigError([Problem(file, line, f"more than {DEPTH_MAX} levels of nesting", "flatten it")])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reading:
    """One walk over a document's nodes."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: dict[Location, Place] = {}
        self.problems: list[Problem] = []
        self.nodes = 0

    def value(self, node: yaml.Node, location: Location) -> Any:
        self.nodes += 1
        line = node.start_mark.line + 1
        if self.nodes > NODES_MAX or len(location) > DEPTH_MAX:
            raise ConfigError([Problem(self.file, line, "aliases multiply without end", "write the values out")])
        self.places.setdefault(location, Place(self.file, line))
        if node.tag.removeprefix(_TAG) not in _TAGS:
            self.problems.append(Problem(self.file, line, f"tag {show(node.tag)} is not known", "remove the tag"))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*location, index)) for index, child in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(self.file, line, "a key is not a word", "write `key: value`"))
                continue
            key: str = key_node.value
            if key in result:
                first = self.places[(*location, key)].line
                self.problems.append(
                    Problem(self.file, line, f"{show(key)} is given twice", f"remove one; the first is on line {first}")
                )
                continue
            # The key's line: a value that is missing or a block starts on a later one.
            self.places[(*location, key)] = Place(self.file, line)
            result[key] = self.value(value_node, (*location, key))
        return result

    def _scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        try:
            match node.tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return text.lower() in ("yes", "true", "on")
                # `1:30` is a number to base 60 in YAML 1.1; nobody means that here.
                case "int" if ":" not in text:
                    return _integer(text)
                case "float" if ":" not in text:
                    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return text
        return text


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    unsigned = digits.lstrip("+-")
    if len(unsigned) > 1 and unsigned[0] == "0" and unsigned.isdecimal():
        return int(digits, 8)
    return int(digits, 0)
