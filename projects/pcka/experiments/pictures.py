"""Draw what the student of a finished distillation took over from its teacher.

pcka pictures RUN [--alone RUN] [--output DIR] [--images N]
              [--student-layers NAME ...] [--teacher-layers NAME ...]

RUN is the output folder of a detector (pcka train) or of a classifier (pcka classify). The command
draws CKA between all layers of both networks. For a detector it also draws the Gram matrices that
PatchCKA compares, and for a classifier those of the logits. From a checkout, tools/pictures.py is
the same command.
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

from .finished_runs import kind_of_run  # noqa: E402
from .study.kinds import drawing_of  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="pcka pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a finished run with a teacher")
    parser.add_argument(
        "--alone",
        default="",
        metavar="RUN",
        help="the student trained alone, in place of its initial weights",
    )
    parser.add_argument(
        "--output", "--out", type=Path, help="folder of the pictures; default: RUN/pictures"
    )
    parser.add_argument(
        "--images",
        type=_four_or_more,
        help="images for the comparison of layers; default: 16 (detector) or 512 (classifier)",
    )
    parser.add_argument(
        "--image",
        type=int,
        help="number of the image whose Gram matrices are drawn (detectors); default: 0",
    )
    parser.add_argument("--student-layers", nargs="+", default=(), metavar="NAME")
    parser.add_argument("--teacher-layers", nargs="+", default=(), metavar="NAME")
    args = parser.parse_args(argv)
    return exit_status("pictures.py", lambda: draw(args))


def draw(args: argparse.Namespace) -> None:
    """Draw the pictures into their folder, and name each."""
    figures = drawing_of(kind_of_run(args.run)).run_pictures(
        args.run,
        alone=args.alone,
        images=args.images,
        image=args.image,
        student_layers=args.student_layers,
        teacher_layers=args.teacher_layers,
    )
    output = args.output or args.run / "pictures"
    for name, figure in figures:
        output.mkdir(parents=True, exist_ok=True)
        figure.savefig(output / f"{name}.png")
        print(output / f"{name}.png", flush=True)


def _four_or_more(text: str) -> int:
    if not text.isdecimal() or int(text) < 4:
        raise argparse.ArgumentTypeError(f"4 or more, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
