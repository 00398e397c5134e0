"""`python -m agent` is `molehill`."""

import sys

from agent.cli import main

sys.exit(main())
