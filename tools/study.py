#!/usr/bin/env python3
"""Train settings over seeds and compare them: ``pcka study`` from a checkout."""

import sys

from pcka.experiments.study.command import main

if __name__ == "__main__":
    sys.exit(main())
