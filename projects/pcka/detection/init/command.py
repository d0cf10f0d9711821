"""Write a config that trains a distilled detector on a folder of data.

    pcka init DATA --student faster_rcnn_r50 [--teacher CONFIG [--teacher-weights FILE]]
              [--output pcka.yaml]

DATA is a folder in any format that DATASETS.FOLDERS reads. The config is complete and commented:
classes, image sizes, anchors, patches and schedule follow from the data. A picture of nine training
images with their labels lies beside it. Without --teacher, a second config describes one to train
first. --teacher takes a config, or a name of detectron2's model zoo.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import get_cfg

from pcka.cli import exit_status
from pcka.detection.config import add_pcka_config
from pcka.detection.modeling.teacher_source import teacher_config
from pcka.errors import ConfigError
from pcka.files import write_text

from .choices import choose
from .picture import draw_labels
from .profile import Profile, read_profile, table
from .students import DEEPER, STUDENTS, Student, student_of
from .text import config_text, teacher_text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = _parser().parse_args(argv)
    return exit_status("pcka init", lambda: init(args))


def init(args: argparse.Namespace) -> None:
    """Look at the data and write the files.

    Raises:
        ConfigError: data that cannot be trained on, an unknown student or teacher, or a file that
            is there already.
    """
    student = student_of(args.student)
    file = Path(args.output)
    own = file.with_name(f"{file.stem}_teacher{file.suffix}")
    picture = file.with_name(f"{file.stem}_labels.png")
    written = [file, picture, *([] if args.teacher else [own])]
    for path in written:
        if path.exists():
            raise ConfigError(f"{path} exists already: name another file by --output")
    teacher = _teacher(args, own)
    profile = read_profile(args.data)
    _check(profile, student)
    levels = _shared_levels(student, teacher, own)
    choices = choose(profile, student.anchor_levels, levels)
    if not choices.levels:
        raise ConfigError(f"{profile.path}: the images are too small for patches on any level")
    print(table(profile))
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_labels(profile, picture)  # first, because an image that cannot be read leaves no file then
    text = config_text(
        profile,
        choices,
        student,
        file=str(file),
        teacher=teacher,
        device="cuda" if torch.cuda.is_available() else "cpu",
        output_dir=f"output/{file.stem}",
    )
    write_text(file, text)
    if not args.teacher:
        deeper = teacher_text(
            student,
            DEEPER[student.depth],
            base=file.name,
            file=str(own),
            output_dir=f"output/{own.stem}",
        )
        write_text(own, deeper)
    print(f"\nWritten: {', '.join(map(str, written))}. Next:")
    for path in [*([] if args.teacher else [own]), file]:
        print(f"  pcka train --config-file {shlex.quote(str(path))}")


def _teacher(args: argparse.Namespace, own: Path) -> tuple[str, str]:
    """Return the config and the weights of the teacher."""
    if not args.teacher:
        if args.teacher_weights:
            raise ConfigError("--teacher-weights needs the config of the teacher: give --teacher")
        return str(own), f"output/{own.stem}/model_final.pth"
    if Path(args.teacher).expanduser().is_file():
        if not args.teacher_weights:
            raise ConfigError(f"--teacher {args.teacher} is a file: give --teacher-weights as well")
        return args.teacher, args.teacher_weights
    return args.teacher, args.teacher_weights


def _shared_levels(student: Student, teacher: tuple[str, str], own: Path) -> tuple[str, ...]:
    """Return the levels that the terms may read: those that the teacher's FPN has as well."""
    if teacher[0] == str(own):  # the same detector, deeper
        return student.levels
    if teacher[0].endswith(".py"):  # a LazyConfig, which names its levels in code
        return student.levels
    cfg = get_cfg()
    add_pcka_config(cfg)
    cfg.MODEL.PCKA.TEACHER.CONFIG_FILE, cfg.MODEL.PCKA.TEACHER.WEIGHTS = teacher
    stages = teacher_config(cfg).MODEL.FPN.IN_FEATURES
    shared = tuple(level for level in student.levels if f"res{level[1]}" in stages)
    if not shared:
        raise ConfigError(
            f"--teacher {teacher[0]} has none of the student's levels of an FPN "
            f"({', '.join(student.levels)}): take another teacher"
        )
    return shared


def _check(profile: Profile, student: Student) -> None:
    if student.masks and not profile.masks:
        raise ConfigError(
            f"{profile.path}: not every box has a mask, which this student needs: take "
            "--student faster_rcnn_r50"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcka init",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", metavar="DATA", help="folder of data")
    parser.add_argument(
        "--student", default="faster_rcnn_r50", help=f"one of {', '.join(STUDENTS)}"
    )
    parser.add_argument("--teacher", default="", help="a config, or a name of the model zoo")
    parser.add_argument("--teacher-weights", default="", metavar="FILE")
    parser.add_argument("--output", default="pcka.yaml", metavar="FILE")
    return parser
