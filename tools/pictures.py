#!/usr/bin/env python3
"""Draw what a finished student took over: ``pcka pictures`` from a checkout."""

import sys

from pcka.experiments.pictures import main

if __name__ == "__main__":
    sys.exit(main())
