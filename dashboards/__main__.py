"""`python -m dashboards [DIR]`: makes the JSON files anew, by default those beside this file."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    try:
        from dashboards.generate import generate
    except ImportError as error:
        print(f"dashboards: {error}; install the development requirements (grafana-foundation-sdk)", file=sys.stderr)
        return 1
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, text in generate().items():
        (directory / name).write_text(text)
        print(directory / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
