#!/usr/bin/env python3
"""Draw what the student of a finished distillation took over from its teacher.

tools/pictures.py RUN [--alone RUN] [--out DIR] [--images N]
                  [--student-layers NAME ...] [--teacher-layers NAME ...]

RUN is the output folder of a detector (tools/train_net.py) or of a classifier
(python -m classification.train). CKA between all layers of both networks; of a detector also the
Gram matrices that PatchCKA compares, of a classifier those of the logits.
"""

import argparse
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*pkg_resources.*")

from pcka.experiments.folders import task_of_run  # noqa: E402
from pcka.experiments.task import task_of  # noqa: E402


def main(args: argparse.Namespace) -> None:
    figures = task_of(task_of_run(args.run)).pictures(
        args.run,
        alone=args.alone,
        images=args.images,
        image=args.image,
        student_layers=args.student_layers,
        teacher_layers=args.teacher_layers,
    )
    out = args.out or args.run / "pictures"
    for name, figure in figures:
        out.mkdir(parents=True, exist_ok=True)
        figure.savefig(out / f"{name}.png")
        print(out / f"{name}.png", flush=True)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 4:
        raise argparse.ArgumentTypeError(f"4 or more, not {text!r}")
    return int(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run with a teacher")
    parser.add_argument("--alone", default="", metavar="RUN", help="the student trained alone, to "
                        "stand in the place of the untrained one")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the pictures; default: RUN/pictures")
    parser.add_argument("--images", type=positive, help="over which layers are compared; default: "
                        "16 of a detector, 512 of a classifier")  # fmt: skip
    parser.add_argument("--image", type=int, help="a detector's, for Gram matrices; default: 0")
    parser.add_argument("--student-layers", nargs="+", default=(), metavar="NAME")
    parser.add_argument("--teacher-layers", nargs="+", default=(), metavar="NAME")
    try:
        main(parser.parse_args())
    except ValueError as error:  # ConfigError and CheckpointError among them
        sys.exit(f"pictures.py: error: {error}")
