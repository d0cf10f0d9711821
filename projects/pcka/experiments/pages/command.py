"""Gather tables and pictures of finished runs on one HTML page that needs no network.

pcka report output/run [output/other ...] [--output report.html]
pcka report output/demo --images 3              the folder of a study

The runs are those of detectors or of classifiers. The page is one file, for a desktop or a phone.
From a checkout, tools/report.py is the same command.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

# detectron2 warns at import under newer torch and setuptools.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*pkg_resources.*")

from pcka.cli import exit_status  # noqa: E402
from pcka.files import write_text  # noqa: E402

from .report import report_page  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="pcka report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--output", "--out", type=Path, default=Path("report.html"), metavar="FILE")
    parser.add_argument("--title", default="", help="title of the page, in place of the study's")
    parser.add_argument("--images", type=int, default=6, help="images of a picture")
    args = parser.parse_args(argv)
    if args.images < 1:
        parser.error(f"--images is a number of images, got {args.images}")
    if not args.output.resolve().parent.is_dir() or args.output.is_dir():
        parser.error(f"--output: {args.output} is a folder, or lies in one that is not there")
    return exit_status("report.py", lambda: write(args))


def write(args: argparse.Namespace) -> None:
    """Write the page, and say how large it is."""
    page = report_page(args.runs, images=args.images, title=args.title)
    write_text(args.output, page)
    print(f"{args.output}: {len(page) / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
