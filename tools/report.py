#!/usr/bin/env python3
"""Gather tables and pictures of finished runs on one HTML page that needs no network.

tools/report.py output/run [output/other ...] [--out report.html]
tools/report.py output/demo --images 3              the folder of tools/compare.py

Runs of detectors or of classifiers; the page is one file, for a desktop or a phone.
"""

import argparse
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*pkg_resources.*")

from pcka.errors import ConfigError  # noqa: E402
from pcka.experiments.report import report_page  # noqa: E402

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE")
    parser.add_argument("--title", default="", help="instead of the comparison's or the runs'")
    parser.add_argument("--images", type=int, default=6, help="that a picture of images shows")
    args = parser.parse_args()
    if args.images < 1:
        parser.error(f"--images is a number of images, got {args.images}")
    if not args.out.resolve().parent.is_dir():
        parser.error(f"--out: there is no folder {args.out.resolve().parent}")
    try:
        page = report_page(args.runs, images=args.images, title=args.title)
    except ConfigError as error:
        sys.exit(f"report.py: error: {error}")
    args.out.write_text(page, encoding="utf-8")
    print(f"{args.out}: {len(page) / 1e6:.1f} MB")
