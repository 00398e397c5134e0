"""Reader of wackamole.conf: Wackamole's own grammar, word for word (reference: its lexer and parser).

Gives what the file says; what that means here is `translate.py`. Keywords in any case; `=` stands alone; `#` starts a
comment anywhere outside quotes; an unquoted word ends at white space, `#` or a brace; of two readings the longer wins.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field

from agent.config.problem import Problem
from agent.config.tokens import Located, Token, Tokens, Wrong, quote
from agent.config.values import is_address

_STATEMENTS = frozenset(
    {"spread", "spreadretryinterval", "group", "control", "mature", "arp-cache", "balance", "prefer", "notify"}
    | {"virtualinterfaces", "vifs", "vips", "moduledir", "rundynamic", "perluselib", "perluse", "logfacility"}
)
_ONLY_INSIDE = frozenset({"acquisitionsperround", "interval", "none", "all", "throttle", "ping"})
_RESERVED = _STATEMENTS | _ONLY_INSIDE
_OPENERS = frozenset(_STATEMENTS - {"arp-cache"})
"""Words that begin a statement and cannot stand in a block: reading goes on there after an error."""

_ADDRESS = re.compile(
    r"(?:(?P<interface>[^ \t\r\n#{}:]+):)?(?P<address>[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)"
    r"/(?P<bits>[0-9]+)(?:n(?P<net>[0-9]+))?"
)
_TIME = re.compile(r"([0-9]+)([smh])", re.IGNORECASE)
_ACTION = re.compile(r"(?:on|post) (?:up|down)", re.IGNORECASE)
_UNQUOTED = re.compile(r"[^ \t\r\n#{}]+")
_QUOTED = re.compile(r"\"[^\"\r\n]*\"|'[^'\r\n]*'")
_SKIP = re.compile(r"(?:[ \t\r]+|#[^\n]*)+")
_TIME_UNITS = {"s": 1, "m": 60, "h": 3600}

ATTACHED_BITS = 24
"""Wackamole's default for nNET; it does not follow the netmask."""


@dataclass(frozen=True, slots=True)
class Address:
    interface: str | None
    address: str
    bits: int
    net: int
    """Prefix length of the directly attached network."""
    line: int


@dataclass(frozen=True, slots=True)
class Notify:
    """A range, or with `address` None the shared ARP cache."""

    address: Address | None
    throttle: int | None
    line: int


@dataclass(slots=True)
class Wackamole:
    """What a file says; None: nothing. Durations in seconds."""

    file: str
    spread: Located[str] | None = None
    retry_interval: Located[int] | None = None
    group: Located[str] | None = None
    control: Located[str] | None = None
    mature: Located[int] | None = None
    arp_cache: Located[int] | None = None
    balance: int | None = None
    """The line of the stanza."""
    acquisitions_per_round: Located[int | None] | None = None
    """Value None: all."""
    balance_interval: Located[int] | None = None
    vips: list[Located[list[Address]]] = field(default_factory=list)
    prefer: list[Address] = field(default_factory=list)
    notify: list[Notify] = field(default_factory=list)
    warnings: tuple[Problem, ...] = ()


def parse_wackamole(text: str, file: str) -> Wackamole:
    """Raises `ConfigError` with every syntax error."""
    tokens = Tokens(file, [])
    tokens.tokens = _lex(text, tokens)
    parser = _Parser(tokens)
    tokens.statements(parser.statement, lambda token: token.kind in _OPENERS)
    parser.result.warnings = tokens.finish()
    return parser.result


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
            else:
                token = _word(content, at, line, report)
                at += len(token.text) + (2 if token.quoted else 0)
                found.append(token)
    return [*found, Token("end", "", text.rstrip().count("\n") + 1)]


def _word(content: str, at: int, line: int, report: Tokens) -> Token:
    plain = _UNQUOTED.match(content, at)
    word = plain[0] if plain else content[at]
    quoted = _QUOTED.match(content, at)
    if quoted and len(quoted[0]) >= len(word):
        return Token("string", quoted[0][1:-1], line, quoted=True)
    action = _ACTION.match(content, at)
    if action and len(action[0]) >= len(word):
        return Token("action", action[0], line)
    if content[at] in "\"'" and not quoted:
        report.report(line, f"quote {content[at]} is not closed on this line", "close it, or remove it")
    elif not word.isprintable():
        report.report(line, f"{word.encode(errors='surrogateescape')!r} is not text", "save the file as plain UTF-8")
    lower = word.lower()
    if word == "=" or lower in _RESERVED:
        return Token(lower, word, line)
    for kind, pattern in (("number", re.compile("[0-9]+")), ("time", _TIME), ("address", _ADDRESS)):
        if pattern.fullmatch(word):
            return Token(kind, word, line)
    return Token("string", word, line)


class _Parser:
    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.result = Wackamole(tokens.file)

    def statement(self) -> None:
        token = self.tokens.next
        if token.kind not in _STATEMENTS:
            raise Wrong(token, *_unknown(token))
        self.tokens.take()
        result = self.result
        match token.kind:
            case "spread":
                result.spread = self._text(token, numbers=True)
            case "spreadretryinterval":
                result.retry_interval = self._time(token)
            case "group":
                result.group = self._text(token)
            case "control":
                result.control = self._text(token)
            case "mature":
                result.mature = self._time(token)
            case "arp-cache":
                result.arp_cache = self._time(token)
            case "logfacility":
                self._text(token)
                self.tokens.warn(
                    token.line, "LogFacility is not carried over", "Wackamole ignored it; logs go to stderr"
                )
            case "balance":
                self._balance(token)
            case "prefer":
                self._prefer(token)
            case "notify":
                self._notify(token)
            case "virtualinterfaces" | "vifs" | "vips":
                self._vips(token)
            case _:
                self._hook(token)

    def _equals(self, keyword: Token) -> None:
        self.tokens.expect(
            "=", f"'=' after {keyword.text}", f"write `{keyword.text} = VALUE` with white space around '='"
        )

    def _text(self, keyword: Token, numbers: bool = False) -> Located[str]:
        self._equals(keyword)
        token = self.tokens.next
        if token.kind == "string" or (numbers and token.kind == "number"):
            return Located(self.tokens.take().text, token.line)
        fix = f'write it in quotes: {keyword.text} = "{token.text}"' if token.text not in "{}=" else "write a value"
        raise Wrong(token, f"expected a string after {keyword.text}, not {quote(token)}", fix)

    def _time(self, keyword: Token) -> Located[int]:
        self._equals(keyword)
        token = self.tokens.next
        if token.kind != "time" or (found := _TIME.fullmatch(token.text)) is None:
            number = token.text if token.kind == "number" else "5"
            raise Wrong(
                token,
                f"expected a time after {keyword.text}, not {quote(token)}",
                f"write a whole number and s, m or h: `{keyword.text} = {number}s`",
            )
        self.tokens.take()
        if len(found[1]) > 9:
            raise Wrong(token, f"{token.text} is too long a time", "write less")
        if found[2] in "hH":
            self.tokens.warn(
                token.line,
                f"{keyword.text} = {token.text} was {found[1]} seconds in Wackamole (it did not multiply hours)",
                f"hours are taken; write `{found[1]}s` if that is what you want",
            )
        return Located(int(found[1]) * _TIME_UNITS[found[2].lower()], token.line)

    def _balance(self, keyword: Token) -> None:
        opening = self.tokens.expect("{", f"'{{' after {keyword.text}", "write `Balance { Interval = 4s }`")
        self.result.balance = keyword.line
        entries = 0
        for _ in self.tokens.block(opening, _ends_block):
            self.tokens.entry(self._balance_entry)
            entries += 1
        if not entries:
            raise Wrong(keyword, "Balance is empty", "remove it, or write `AcquisitionsPerRound = all` into it")

    def _balance_entry(self) -> None:
        token = self.tokens.take()
        if token.kind == "interval":
            self.result.balance_interval = self._time(token)
            return
        if token.kind != "acquisitionsperround":
            raise Wrong(
                token,
                f"{quote(token)} is not known in Balance",
                "write `AcquisitionsPerRound = all` or `Interval = 4s`, with white space around '='",
            )
        self._equals(token)
        value = self.tokens.next
        if value.kind not in ("all", "number"):
            raise Wrong(
                value, f"{quote(value)} is not a number of moves", "write `AcquisitionsPerRound = all` or a number"
            )
        self.tokens.take()
        if len(value.text) > 9:
            raise Wrong(value, f"{value.text} is too many", "write `all`")
        self.result.acquisitions_per_round = Located(None if value.kind == "all" else int(value.text), value.line)

    def _prefer(self, keyword: Token) -> None:
        token = self.tokens.next
        if self.tokens.accept("none"):
            return
        if opening := self.tokens.accept("{"):
            for _ in self.tokens.block(opening, _ends_block):
                if (address := self.tokens.entry(self._address)) is not None:
                    self.result.prefer.append(address)
            return
        if token.kind == "string":
            self.tokens.take()
            self.tokens.warn(
                token.line,
                f"Prefer {token.text} is not carried over",
                "Wackamole never looked names up; name the VIP's address: `Prefer 192.0.2.10/32`",
            )
            return
        self.result.prefer.append(self._address())

    def _notify(self, keyword: Token) -> None:
        token = self.tokens.next
        if self.tokens.accept("none"):
            return
        if self.tokens.accept("arp-cache"):
            self.result.notify.append(Notify(None, None, token.line))
            return
        opening = self.tokens.expect(
            "{", f"None, arp-cache or '{{' after {keyword.text}", "write `Notify { eth0:192.0.2.1/32 arp-cache }`"
        )
        for _ in self.tokens.block(opening, _ends_block):
            if (item := self.tokens.entry(self._notify_entry)) is not None:
                self.result.notify.append(item)

    def _notify_entry(self) -> Notify:
        token = self.tokens.next
        throttle = None
        if self.tokens.accept("arp-cache"):
            address = None
        else:
            address = self._address()
            if self.tokens.accept("throttle"):
                number = self.tokens.expect(
                    "number", "a number after throttle", "write `throttle 128`: targets a second, without '='"
                )
                throttle = int(number.text[:10])
        if (ping := self.tokens.accept("ping")) is not None:
            self.tokens.warn(ping.line, "ping is not carried over", "an ARP request is sent, which hosts do not ignore")
        if (late := self.tokens.accept("throttle")) is not None:
            self.tokens.accept("number")
            place = "is not allowed on arp-cache" if address is None else "stands before ping"
            raise Wrong(late, f"throttle {place}", "remove it" if address is None else "write `throttle 128 ping`")
        return Notify(address, throttle, token.line)

    def _vips(self, keyword: Token) -> None:
        opening = self.tokens.expect(
            "{", f"'{{' after {keyword.text}", f"write `{keyword.text} {{ {{ eth0:192.0.2.10/24 }} }}`"
        )
        for token in self.tokens.block(opening, _ends_block):
            if inner := self.tokens.accept("{"):
                group: list[Address] = []
                for _ in self.tokens.block(inner, _ends_block):
                    if (address := self.tokens.entry(self._address)) is not None:
                        group.append(address)
                if group:
                    self.result.vips.append(Located(group, token.line))
                elif self.tokens.tokens[self.tokens.position - 2].kind == "{":
                    self.tokens.report(token.line, "an empty group", "write addresses into it, or remove it")
            elif (address := self.tokens.entry(self._address)) is not None:
                self.result.vips.append(Located([address], token.line))

    def _hook(self, keyword: Token) -> None:
        with_equals = self.tokens.accept("=")
        if with_equals is not None and keyword.kind != "moduledir":
            raise Wrong(with_equals, f"{keyword.text} takes no '='", "remove the '='")
        if with_equals is None and keyword.kind == "moduledir":
            raise Wrong(self.tokens.next, f"'=' expected after {keyword.text}", f"write `{keyword.text} = DIRECTORY`")
        value = self.tokens.expect("string", f"a string after {keyword.text}", "write it in quotes")
        what = f"{keyword.text} {value.text}"
        if keyword.kind == "rundynamic":
            action = self.tokens.expect(
                "action",
                f"`on up`, `on down`, `post up` or `post down` after {what}",
                "write it with exactly one space",
            )
            what += f" {action.text}"
        self.tokens.warn(
            keyword.line,
            f"{what} is not carried over",
            "code is not loaded into the agent; write a program and name it under `hooks`",
        )

    def _address(self) -> Address:
        token = self.tokens.next
        found = _ADDRESS.fullmatch(token.text) if token.kind == "address" else None
        if found is None:
            raise Wrong(token, f"expected an address, not {quote(token)}", _address_fix(token))
        self.tokens.take()
        if not is_address(found["address"]):
            raise Wrong(
                token, f"{quote(token)}: {found['address']} is not an IPv4 address", "write four numbers up to 255"
            )
        bits, net = (int(number[:9]) for number in (found["bits"], found["net"] or str(ATTACHED_BITS)))
        if bits > 32 or net > 32:
            raise Wrong(
                token,
                f"{quote(token)}: {max(bits, net)} is not a prefix length",
                "write 0 to 32 (Wackamole went on with a masked one)",
            )
        return Address(found["interface"], found["address"], bits, net, token.line)


def _ends_block(token: Token) -> bool:
    return token.kind in _OPENERS


def _address_fix(token: Token) -> str:
    form = "write `eth0:192.0.2.10/24`"
    text = token.text
    interface, colon, rest = text.rpartition(":")
    if re.fullmatch(r"[0-9.]+", rest) and is_address(rest):
        return f"add the prefix length: `{text}/{ATTACHED_BITS}`"
    if colon and ":" in interface and re.fullmatch(r"[0-9./n]+", rest) and "." in rest:
        return f"name the interface without alias: `{interface.partition(':')[0]}:{rest}`"
    if text.count(":") > 1:
        return "Wackamole's file has no IPv6; `molehill convert` makes a molehill.yaml, which has"
    return form


def _unknown(token: Token) -> tuple[str, str]:
    if token.quoted or token.kind in ("{", "}", "=", "number", "time", "action", "address"):
        return f"expected a keyword, not {quote(token)}", "look at the line above for what is missing or too much"
    if "=" in token.text.strip("="):
        name, _, value = token.text.partition("=")
        return f"{quote(token)} is one word", f"put white space around '=': `{name} = {value}`"
    if token.kind in _ONLY_INSIDE:
        where = "Notify" if token.kind in ("throttle", "ping") else "Balance"
        return f"{quote(token)} stands outside of a block", f"it belongs into `{where} {{ ... }}`"
    close = difflib.get_close_matches(token.text.lower(), sorted(_STATEMENTS), n=1, cutoff=0.6)
    names = {"virtualinterfaces": "VirtualInterfaces", "spreadretryinterval": "SpreadRetryInterval"}
    fix = (
        f"did you mean {names.get(close[0], close[0].capitalize())}?"
        if close
        else "remove it, or make it a comment with '#'"
    )
    return f"unknown keyword {quote(token)}", fix
