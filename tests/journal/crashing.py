"""`molehill` whose core has an error that shows when a person asks for a balance round."""

import sys
from typing import Any

from agent import cli
from agent.core.node import Node


def broken(*_: Any) -> Any:
    raise KeyError("planted")


if __name__ == "__main__":
    Node._ask = broken  # type: ignore[method-assign]
    sys.exit(cli.main(sys.argv[1:]))
