"""What a failed check of the simulator raises. Apart from the checkers, which can be compiled: see `compiled`."""

from __future__ import annotations


class Violation(AssertionError):
    """An invariant broke: the message names it."""
