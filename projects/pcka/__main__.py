"""``python -m pcka`` is the command ``pcka``."""

import sys

from pcka.cli import main

sys.exit(main())
