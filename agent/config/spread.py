"""Reader of spread.conf (Spread 5.0.1's grammar; the older ones are part of it). Keywords are case-sensitive.

Gives what the file says; what that means here is `translate.py`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

from agent.config.problem import Problem
from agent.config.tokens import Located, Token, Tokens, Wrong, quote
from agent.config.values import is_address

DEFAULT_PORT = 4803
NAME_MAX = 19
DAEMONS_MAX = 128
SEGMENTS_MAX = 20

TIMEOUTS = (
    *("TokenTimeout", "HurryTimeout", "AliveTimeout", "JoinTimeout", "RepTimeout"),
    *("SegTimeout", "GatherTimeout", "FormTimeout", "LookupTimeout"),
)
"""In milliseconds."""

_FLAGS = frozenset(
    {"ALL", "NONE", "EXIT", "PRINT", "DEBUG", "DATA_LINK", "NETWORK", "PROTOCOL", "SESSION", "CONFIGURATION"}
    | {"MEMBERSHIP", "FLOW_CONTROL", "STATUS", "EVENTS", "GROUPS", "MEMORY", "SKIPLIST", "ACM", "SECURITY"}
)
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_PRIORITIES = ("pDEBUG", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")

_OPTIONS: dict[str, str | tuple[str, ...]] = {
    "EventPriority": _PRIORITIES,
    "EventLogFile": "string",
    "DangerousMonitor": "boolean",
    "SocketPortReuse": ("on", "off", "auto", "ON", "OFF", "AUTO"),
    "RuntimeDir": "string",
    "DaemonUser": "string",
    "DaemonGroup": "string",
    "RequiredAuthMethods": "string",
    "AllowedAuthMethods": "string",
    "AccessControlPolicy": "string",
    "MaxSessionMessages": "number",
    "ActiveIPVersion": ("IPv4", "IPv6"),
    "Window": "number",
    "PersonalWindow": "number",
    "AcceleratedWindow": "number",
    "AcceleratedRing": "boolean",
    "WideAreaNetwork": "boolean",
    "ExcludeSegAddrsFromHash": "boolean",
    "IgnoreMulticastJoinErrors": "boolean",
    **dict.fromkeys(TIMEOUTS, "number"),
}

_KEYWORDS = frozenset({"Spread_Segment", "DebugFlags", "EventTimeStamp", "EventPreciseTimeStamp", *_OPTIONS})

_SKIP = re.compile(r"(?:[ \t\r\v\f]+|#[^\n]*)+")
_BRACKETED = re.compile(r"\[[^\]\s{}#]*\](?::[0-9]+)?;?")
_QUOTED = re.compile(r"\"[^\"\r\n]*\"|'[^'\r\n]*'")
_WORD = re.compile(r"[^ \t\r\n\v\f#{}\[\]]+")


@dataclass(frozen=True, slots=True)
class Daemon:
    name: str
    address: str | None
    """None: only the name is given, and is to be looked up."""
    line: int
    extras: tuple[str, ...] = ()
    """What it has besides: VirtualID, interfaces."""


@dataclass(slots=True)
class Segment:
    addresses: list[str]
    port: int
    line: int
    daemons: list[Daemon] = field(default_factory=list)


@dataclass(slots=True)
class Spread:
    file: str
    segments: list[Segment] = field(default_factory=list)
    options: dict[str, Located[str]] = field(default_factory=dict)
    """Every option given, as written; flags joined, booleans `true` or `false`."""
    warnings: tuple[Problem, ...] = ()


def parse_spread(text: str, file: str) -> Spread:
    """Raises `ConfigError` with every error of syntax, and when there is no daemon."""
    tokens = Tokens(file, [])
    tokens.tokens = _lex(text, tokens)
    parser = _Parser(tokens)
    tokens.statements(parser.statement, lambda token: not token.quoted and token.text in _KEYWORDS)
    result = parser.result
    if not any(segment.daemons for segment in result.segments) and not tokens.problems:
        line = result.segments[0].line if result.segments else tokens.next.line
        fix = "write `Spread_Segment 192.0.2.255:4803 { www1 192.0.2.1  www2 192.0.2.2 }`"
        tokens.report(line, "no segment with a daemon", fix)
    result.warnings = tokens.finish()
    return result


def _lex(text: str, report: Tokens) -> list[Token]:
    found: list[Token] = []
    for line, content in enumerate(text.split("\n"), 1):
        at = 0
        while at < len(content):
            if skip := _SKIP.match(content, at):
                at = skip.end()
            elif content[at] in "{}":
                found.append(Token(content[at], content[at], line))
                at += 1
            elif quoted := _QUOTED.match(content, at):
                found.append(Token("word", quoted[0][1:-1], line, quoted=True))
                at = quoted.end()
            elif word := _BRACKETED.match(content, at) or _WORD.match(content, at):
                at = word.end()
                if not word[0].isprintable():
                    what = f"{word[0].encode(errors='surrogateescape')!r} is not text"
                    report.report(line, what, "save the file as plain UTF-8")
                # A lone semicolon, or the one that ends a daemon, says nothing.
                if text_left := word[0].rstrip(";"):
                    found.append(Token("=" if text_left == "=" else "word", text_left, line))
            else:
                report.report(line, f"'{content[at]}' without its other bracket", "write IPv6 as in [ff02::1]:4803")
                at += 1
    return [*found, Token("end", "", text.rstrip().count("\n") + 1)]


class _Parser:
    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.result = Spread(tokens.file)
        self.names: dict[str, int] = {}

    def statement(self) -> None:
        token = self.tokens.next
        if token.quoted or token.text not in _KEYWORDS:
            raise Wrong(token, *_unknown(token))
        self.tokens.take()
        options = self.result.options
        match token.text:
            case "Spread_Segment":
                self._segment(token)
            case "DebugFlags":
                options[token.text] = self._flags(token)
            case "EventTimeStamp":
                given = self._value(token).text if self.tokens.next.kind == "=" else "[%a %d %b %Y %H:%M:%S]"
                options[token.text] = Located(given, token.line)
            case "EventPreciseTimeStamp":
                options[token.text] = Located("true", token.line)
            case _:
                options[token.text] = self._option(token)

    def _value(self, keyword: Token) -> Token:
        form = f"write `{keyword.text} = VALUE` with white space around '='"
        self.tokens.expect("=", f"'=' after {keyword.text}", form)
        if _ends_block(self.tokens.next):
            raise Wrong(self.tokens.next, f"expected a value after {keyword.text}, not {quote(self.tokens.next)}", form)
        return self.tokens.expect("word", f"a value after {keyword.text}", form)

    def _option(self, keyword: Token) -> Located[str]:
        kind = _OPTIONS[keyword.text]
        value = self._value(keyword)
        text = value.text
        if isinstance(kind, tuple):
            if text not in kind:
                raise Wrong(value, f"{quote(value)} is no {keyword.text}", f"write one of {', '.join(kind)}")
        elif kind == "boolean":
            if text.lower() not in _BOOLEANS:
                raise Wrong(value, f"{quote(value)} is not true or false", f"write `{keyword.text} = false`")
            text = "true" if _BOOLEANS[text.lower()] else "false"
        elif kind == "number" and not re.fullmatch(r"[0-9]{1,9}", text):
            unit = " of milliseconds" if keyword.text in TIMEOUTS else ""
            raise Wrong(
                value,
                f"{quote(value)} is not a number of up to 9 digits",
                f"write a bare number{unit}: `{keyword.text} = 1000`",
            )
        return Located(text, keyword.line)

    def _flags(self, keyword: Token) -> Located[str]:
        form = "write `DebugFlags = { PRINT EXIT }`"
        self.tokens.expect("=", "'=' after DebugFlags", form)
        opening = self.tokens.expect("{", "'{' after DebugFlags =", form)
        flags = []
        for token in self.tokens.block(opening, _ends_block):
            self.tokens.take()
            if token.text.removeprefix("!") not in _FLAGS and token.text != "!":
                self.tokens.report(
                    token.line, f"{quote(token)} is not a debug flag", f"known are {', '.join(sorted(_FLAGS))}"
                )
            flags.append(token.text)
        return Located(" ".join(flags), keyword.line)

    def _segment(self, keyword: Token) -> None:
        segment = Segment([], DEFAULT_PORT, keyword.line)
        while self.tokens.next.kind == "word" and not _ends_block(self.tokens.next):
            self._segment_address(segment, self.tokens.take())
        if not segment.addresses:
            raise Wrong(
                self.tokens.next, f"expected an address after Spread_Segment, not {quote(self.tokens.next)}", _SEGMENT
            )
        opening = self.tokens.expect("{", "'{' after the segment's address", _SEGMENT)
        self.result.segments.append(segment)
        if len(self.result.segments) > SEGMENTS_MAX:
            raise Wrong(keyword, f"more than {SEGMENTS_MAX} segments", "Spread has no more either")
        for _ in self.tokens.block(opening, _ends_block):
            if (daemon := self.tokens.entry(self._daemon)) is not None:
                segment.daemons.append(daemon)
        if not segment.daemons:
            self.tokens.report(keyword.line, "a segment without daemons", "list them: `www1 192.0.2.1`")

    def _segment_address(self, segment: Segment, token: Token) -> None:
        address, colon, port = token.text.rpartition(":")
        if token.text.endswith("]") or not colon:
            address, port = token.text, str(DEFAULT_PORT)
        bare = address.strip("[]").partition("%")[0]
        if not is_address(bare) or (":" in bare) != address.startswith("["):
            raise Wrong(token, f"{quote(token)} is not a segment's address", _SEGMENT)
        if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
            raise Wrong(token, f"{quote(token)} has no port from 1 to 65535", _SEGMENT)
        if not segment.addresses:
            segment.port = int(port)
        segment.addresses.append(bare)

    def _daemon(self) -> Daemon:
        token = self.tokens.expect("word", "a daemon", "write `www1 192.0.2.1`")
        name, address = token.text, token.text.strip("[]")
        if not is_address(address):
            following = self.tokens.next
            candidate = following.text.strip("[]")
            address = candidate if following.kind == "word" and is_address(candidate) else ""
            if address:
                self.tokens.take()
            elif following.kind == "word" and re.match(r"[0-9.]+$|\[", following.text):
                self.tokens.take()
                self._extras()
                raise Wrong(following, f"{quote(following)} is not an IP address", f"write `{name} 192.0.2.1`")
            if len(name) > NAME_MAX:
                self.tokens.warn(
                    token.line, f"daemon name {quote(token)} is longer than Spread's {NAME_MAX}", "it is kept"
                )
        else:
            name = address
        extras = self._extras()
        if (first := self.names.setdefault(name, token.line)) != token.line or any(
            daemon.name == name for segment in self.result.segments for daemon in segment.daemons
        ):
            raise Wrong(token, f"daemon {quote(token)} is given twice", f"rename one; the first is on line {first}")
        return Daemon(name, address or None, token.line, tuple(extras))

    def _extras(self) -> list[str]:
        """`VirtualID = N` and `{ [M] [C] [D] IP ... }`."""
        extras = []
        if self.tokens.next.text == "VirtualID":
            keyword = self.tokens.take()
            value = self._value(keyword)
            if not re.fullmatch(r"-?[0-9]{1,10}", value.text):
                raise Wrong(value, f"{quote(value)} is not a VirtualID", "write `VirtualID = 1`")
            extras.append(f"VirtualID = {value.text}")
        if opening := self.tokens.accept("{"):
            words = []
            for token in self.tokens.block(opening, _ends_block):
                self.tokens.take()
                if token.text not in ("M", "C", "D") and not is_address(token.text.strip("[]")):
                    self.tokens.report(
                        token.line, f"{quote(token)} is not an interface's address", "write `C 192.0.2.1`"
                    )
                words.append(token.text)
            extras.append("{ " + " ".join(words) + " }")
        return extras


_SEGMENT = "write `Spread_Segment 192.0.2.255:4803 { www1 192.0.2.1 }`"


def _ends_block(token: Token) -> bool:
    return not token.quoted and token.text in _KEYWORDS


def _unknown(token: Token) -> tuple[str, str]:
    if token.kind in ("{", "}", "=") or token.quoted:
        return f"expected a keyword, not {quote(token)}", "look at the line above for what is missing or too much"
    if "=" in token.text:
        name, _, value = token.text.partition("=")
        return f"{quote(token)} is one word", f"put white space around '=': `{name} = {value}`"
    same = {keyword.lower(): keyword for keyword in _KEYWORDS}
    close = difflib.get_close_matches(token.text.lower(), sorted(same), n=1, cutoff=0.6)
    if not close:
        return f"unknown keyword {quote(token)}", "remove it, or make it a comment with '#'"
    case = " (case matters)" if close[0] == token.text.lower() else ""
    return f"unknown keyword {quote(token)}", f"did you mean {same[close[0]]}?{case}"
