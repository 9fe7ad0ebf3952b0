"""``python -m rscd`` is ``rscd``."""

import sys

from rscd.cli import main

sys.exit(main())
