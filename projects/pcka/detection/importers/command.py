"""Turn weights of mmdetection, torchvision or timm into a detectron2 checkpoint.

pcka import-weights FILE --config-file CONFIG --output NEW.pth [--style pytorch|caffe]
                    [--bn-eps EPS] [--json] [KEY VALUE ...]

CONFIG (a path or a name of the model zoo) describes the same network. The command prints what
became of every key; nothing is written unless the backbone and, if the file has one, the FPN are
whole. From a checkout, tools/import_weights.py is the same command.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from pcka.cli import exit_status
from pcka.detection import ConfigError, load_config, student_config
from pcka.detection.importers import (
    check_output,
    convert,
    input_settings,
    read_weights,
    settings_to_change,
    write_checkpoint,
)
from pcka.detection.modeling.teacher_source import zoo_file


def import_weights(args: argparse.Namespace) -> None:
    """Convert one file, and print the report."""
    check_output(args.output)
    path = args.config_file if os.path.isfile(args.config_file) else zoo_file(args.config_file)
    cfg = student_config(load_config(path, ["MODEL.DEVICE", "cpu", *args.opts]))
    state, meta = read_weights(args.file)
    result = convert(state, cfg, meta=meta, bn_eps=args.bn_eps)
    settings = input_settings(result.source, meta, args.style)
    changes = settings_to_change(settings, cfg)
    if args.json:
        report = {key: value for key, value in vars(result).items() if key != "state"}
        print(json.dumps({**report, "settings": settings, "change": changes}, indent=1))
    else:
        print(result.report())
        print(
            "these weights expect",
            *(f"  {key}: {value}" for key, value in settings.items()),
            sep="\n",
        )
        if changes:
            pairs = [word for pair in changes.items() for word in pair]
            print(f"the config has others; set these there, or\n  MODEL.PCKA.TEACHER.OPTS: {pairs}")
    if result.problems:
        raise ConfigError(
            f"nothing written: {'; '.join(result.problems)}. The features would not be the file's: "
            "give a config of the same network (MODEL.RESNETS.DEPTH, NUM_GROUPS, WIDTH_PER_GROUP, "
            "RES2_OUT_CHANNELS; MODEL.FPN; MODEL.BACKBONE.NAME)"
        )
    write_checkpoint(result.state, args.output, author=f"{result.source}, by pcka")
    print(f"wrote {args.output}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help=".pth, .pt, .bin or .safetensors")
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", required=True, help="a new .pth file")
    parser.add_argument("--style", choices=("pytorch", "caffe"), help="if the file does not tell")
    parser.add_argument(
        "--bn-eps", type=float, default=1e-5, help="0 for torchvision's COCO_V1 detectors"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("opts", nargs="*", help="config overrides")
    args = parser.parse_intermixed_args(argv)
    return exit_status("import_weights.py", lambda: import_weights(args))


if __name__ == "__main__":
    sys.exit(main())
