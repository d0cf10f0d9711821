"""Export the student of a finished run to a file that runs without this project.

pcka export RUN [--format onnx|torchscript] [--output FILE] [--size HxW]

RUN is the output folder of a detector (pcka train) or of a classifier (pcka classify). The file is
run on validation images and compared with the network before it gets its name. FILE.json beside it
holds the class names, how an image is prepared, and the differences that were found.
"""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pcka.cli import exit_status
from pcka.errors import ConfigError
from pcka.files import replacing, write_json

from .comparison import TOLERANCES, compare
from .exported_file import (
    FORMATS,
    Traceable,
    as_function,
    check_format,
    load_traced,
    versions,
    write_traced,
)
from .outputs import check_new_files
from .quiet import quiet_libraries
from .runs import TrainedRun, find_run

_DETECTOR_IMAGES, _CLASSIFIER_IMAGES = 4, 8  # that a file is checked on

Size = tuple[int, int]

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="pcka export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--format", default="onnx", help=f"{' or '.join(FORMATS)}; default: onnx")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="a new file; default: RUN/student.onnx or .ts"
    )
    parser.add_argument(
        "--size",
        metavar="HxW",
        help="a fixed height and width of the input; default: any (detector), or those of the "
        "training images (classifier)",
    )
    args = parser.parse_args(argv)
    quiet_libraries()
    return exit_status("pcka export", lambda: export(args))


def export(args: argparse.Namespace) -> None:
    """Write the file and its description, and say how far it is from the network.

    Raises:
        ConfigError: what cannot be exported, or written; nothing is written then.
        RunError: a file that computes something else than the network.
    """
    check_format(args.format)
    size = _size(args.size) if args.size is not None else None
    run = find_run(args.run)
    output = args.output or run.folder / f"student{FORMATS[args.format]}"
    about = output.with_name(f"{output.name}.json")
    check_new_files(output, about)
    make = _detector if run.kind == "detection" else _classifier
    traceable, inputs, data, description = make(run, size)
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as part:
        write_traced(traceable, part, args.format)
        file = load_traced(part, args.format)
        found = compare(
            as_function(traceable.module), file, inputs, traceable.outputs, traceable.cut_off
        )
    check = {
        "images": sum(len(x) if x.ndim == 4 else 1 for x in inputs),
        "of": data,
        "results": found.results,
        "largest_difference": found.largest,
        "tolerance": {name: TOLERANCES[name] for name in found.largest},
    }
    if not found.results:
        logger.warning("the network detects nothing on these images: only that was compared")
    write_json(
        about,
        {
            "file": output.name,
            "format": args.format,
            "task": run.kind,
            **description,
            "check": check,
            "versions": versions(),
        },
    )
    differences = ", ".join(f"{name} {value:.1e}" for name, value in found.largest.items())
    print(
        f"{output}: differs from the network on {check['images']} images of {data} by at most "
        f"{differences}"
    )


def _detector(run: TrainedRun, size: Size | None) -> tuple[Traceable, list, str, dict[str, Any]]:
    from .detector import open_detector
    from .export_detector import describe_detector, sample_inputs, traceable_detector

    detector = open_detector(run, torch.device("cpu"))
    inputs, data = sample_inputs(detector, _DETECTOR_IMAGES, size)
    traceable = traceable_detector(detector, inputs[0], size)
    return traceable, inputs, data, describe_detector(detector, size)


def _classifier(run: TrainedRun, size: Size | None) -> tuple[Traceable, list, str, dict[str, Any]]:
    # Imported lazily: classifiers need no detectron2.
    from .classifier import open_classifier
    from .export_classifier import describe_classifier, sample_images, traceable_classifier

    classifier = open_classifier(run, torch.device("cpu"))
    size = size or (classifier.image_size, classifier.image_size)
    images, data = sample_images(classifier, _CLASSIFIER_IMAGES, size)
    traceable = traceable_classifier(classifier, size)
    return traceable, [images], data, describe_classifier(classifier, size)


def _size(text: str) -> Size:
    match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text)
    if not match:
        raise ConfigError(f"--size is height x width in pixels, such as 480x640, got {text!r}")
    return int(match[1]), int(match[2])


if __name__ == "__main__":
    sys.exit(main())
