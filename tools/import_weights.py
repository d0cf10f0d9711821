#!/usr/bin/env python3
"""Convert weights of other frameworks: ``pcka import-weights`` from a checkout."""

import sys

from pcka.detection.importers.command import main

if __name__ == "__main__":
    sys.exit(main())
