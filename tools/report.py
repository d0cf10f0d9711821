#!/usr/bin/env python3
"""Gather finished runs on one HTML page: ``pcka report`` from a checkout."""

import sys

from pcka.experiments.pages.command import main

if __name__ == "__main__":
    sys.exit(main())
