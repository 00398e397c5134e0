"""Words of the two ancestors' configuration files, with their lines; and reading on after an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from agent.config.problem import PROBLEMS_MAX, ConfigError, Problem, Severity
from agent.config.values import show

T = TypeVar("T")


class Located(NamedTuple, Generic[T]):
    """A value and the line that it was read from."""

    value: T
    line: int


class Token(NamedTuple):
    kind: str
    """The lexer's class of it (`word`, `{`, ...); `end` after the last one."""
    text: str
    """As written; of a quoted string without its quotes."""
    line: int
    quoted: bool = False


class Wrong(Exception):
    """The present statement cannot be read on."""

    def __init__(self, token: Token, what: str, fix: str) -> None:
        super().__init__(what)
        self.token, self.what, self.fix = token, what, fix


@dataclass(slots=True)
class Tokens:
    """The rest of a file. Problems are collected; reading goes on behind them."""

    file: str
    tokens: list[Token]
    problems: list[Problem] = field(default_factory=list)
    position: int = 0

    @property
    def next(self) -> Token:
        return self.tokens[self.position]

    def take(self) -> Token:
        token = self.tokens[self.position]
        if token.kind != "end":
            self.position += 1
        return token

    def accept(self, kind: str) -> Token | None:
        return self.take() if self.next.kind == kind else None

    def expect(self, kind: str, what: str, fix: str) -> Token:
        if self.next.kind != kind:
            raise Wrong(self.next, f"expected {what}, not {quote(self.next)}", fix)
        return self.take()

    def report(self, line: int, what: str, fix: str, severity: Severity = "error") -> None:
        """Raises `ConfigError` when there are too many already: this is no such file at all."""
        self.problems.append(Problem(self.file, line, what, fix, severity))
        if severity == "error" and sum(problem.severity == "error" for problem in self.problems) > PROBLEMS_MAX:
            raise ConfigError(problem for problem in self.problems if problem.severity == "error")

    def warn(self, line: int, what: str, fix: str) -> None:
        self.report(line, what, fix, "warning")

    def statements(self, statement: Callable[[], None], starts: Callable[[Token], bool]) -> None:
        """Reads statements to the end of the file; after an error goes on at the next word that `starts` one.

        So does a word that begins a line and has a `=`: probably a misspelt keyword, an error of its own.
        """
        while self.next.kind != "end":
            before = self.position
            try:
                statement()
            except Wrong as wrong:
                self.report(wrong.token.line, wrong.what, wrong.fix)
                if self.position == before:
                    self.take()
                while self.next.kind != "end" and not (starts(self.next) or self._assigns()):
                    self.take()

    def _assigns(self) -> bool:
        word, following = self.tokens[self.position : self.position + 2]
        first = self.position == 0 or self.tokens[self.position - 1].line < word.line
        return first and word.kind not in "{}=" and (following.kind == "=" or "=" in word.text)

    def block(self, opening: Token, ends: Callable[[Token], bool]) -> Iterator[Token]:
        """The first token of each entry up to the closing brace, which is taken.

        An entry that is wrong costs itself only. A word that `ends` the block shows that its brace is missing.
        """
        while not self.accept("}"):
            if self.next.kind == "end" or ends(self.next):
                raise Wrong(opening, "'{' has no '}'", f"add '}}' before {quote(self.next)} (line {self.next.line})")
            yield self.next

    def entry(self, read: Callable[[], T]) -> T | None:
        """One entry of a block; None when it was wrong and is reported. The rest of its line is passed over."""
        before = self.position
        try:
            return read()
        except Wrong as wrong:
            self.report(wrong.token.line, wrong.what, wrong.fix)
            if self.position == before:
                self.take()
            while self.next.line == wrong.token.line and self.next.kind not in ("{", "}", "end"):
                self.take()
            return None

    def finish(self) -> tuple[Problem, ...]:
        """The warnings. Raises `ConfigError` if there are errors."""
        errors = [problem for problem in self.problems if problem.severity == "error"]
        if errors:
            raise ConfigError(sorted(errors, key=lambda problem: problem.line or 0))
        return tuple(self.problems)


def quote(token: Token) -> str:
    return "the end of the file" if token.kind == "end" else show(token.text)
