"""The YAML text of a config, with a comment on every number that was chosen."""

import json
import textwrap
from collections.abc import Iterable

from .choices import Choices
from .profile import Profile
from .students import Student

# detectron2's backbones of these depths start from its own ImageNet weights.
_IMAGENET = {depth: f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl" for depth in (50, 101)}


def config_text(
    profile: Profile,
    choices: Choices,
    student: Student,
    *,
    file: str,
    teacher: tuple[str, str],
    device: str,
    output_dir: str,
) -> str:
    """Return the config of a distilled student.

    Args:
        profile: the data.
        choices: the numbers that fit the data.
        student: the detector.
        file: the name of the config, for its command.
        teacher: its config and its weights; "" takes the model zoo's.
        device: the device of the run.
        output_dir: the folder of the run.
    """
    imagenet = _IMAGENET.get(student.depth, "")
    start = (
        "from ImageNet, as in detectron2's zoo; its first stages and norms stay frozen"
        if imagenet
        else "from scratch: detectron2 has no ImageNet weights of this depth"
    )
    patches = list(choices.levels.values())
    classes = _comment_lines(profile.classes)
    lines = [
        f"# {_named(student)}, taught by {teacher[0]}.",
        f"#   pcka train --config-file {file}",
        f"# Written by pcka init: {len(profile.sizes)} training images in {_quoted(profile.path)}.",
        "VERSION: 2",
        "MODEL:",
        '  META_ARCHITECTURE: "DistilledDetector"',
        f"  DEVICE: {_quoted(device)}",
        f"  WEIGHTS: {_quoted(imagenet)}  # {start}",
        f"  MASK_ON: {student.masks}",
        "  BACKBONE:",
        f"    NAME: {_quoted(student.backbone)}",
        f"    FREEZE_AT: {2 if imagenet else 0}",
        "  RESNETS:",
        f"    DEPTH: {student.depth}",
        *(["    RES2_OUT_CHANNELS: 64"] if student.depth < 50 else []),
        f"    NORM: {_quoted('FrozenBN' if imagenet else 'BN')}",
        f"    OUT_FEATURES: {_list(student.stages)}",
        "  FPN:",
        f"    IN_FEATURES: {_list(student.stages)}",
        *_heads(choices, student, len(profile.classes), classes),
        "  PCKA:",
        f"    STUDENT_META_ARCHITECTURE: {_quoted(student.architecture)}",
        "    TEACHER:",
        f"      CONFIG_FILE: {_quoted(teacher[0])}",
        f"      WEIGHTS: {_quoted(teacher[1])}" + ("" if teacher[1] else "  # the zoo's"),
        "    TERMS:",
        '      - NAME: "pcka"',
        f"        FEATURES: {_list(choices.levels)}",
        '        LOSS: "PatchCKA"',
        "        # 16 patches or more on each level of the smallest image, if it has them.",
        f'        LOSS_ARGS: {{grouping: "batch", center: True, patch_size: {patches}}}',
        "        WEIGHT: {ratio: 1}  # nothing to search; see docs/theory.md",
        "DATASETS:",
        "  FOLDERS:",
        f"    - {{NAME: {_quoted(profile.name)}, PATH: {_quoted(profile.path)}}}",
        f"  TRAIN: ({_quoted(profile.train)},)",
        f"  TEST: ({_quoted(profile.valid)},)",
        "INPUT:",
        "  # The median of the shorter sides, between 256 and 800.",
        f"  MIN_SIZE_TRAIN: ({choices.short},)",
        f"  MAX_SIZE_TRAIN: {choices.long}",
        f"  MIN_SIZE_TEST: {choices.short}",
        f"  MAX_SIZE_TEST: {choices.long}",
        "SOLVER:",
        f"  IMS_PER_BATCH: {choices.batch}",
        f"  BASE_LR: {student.rate * choices.batch / 16:g}  # {student.rate} for a batch of 16",
        "  # 24 passes over the images or 3,000 iterations, the longer of both.",
        f"  MAX_ITER: {choices.iterations}",
        f"  STEPS: {choices.steps}",
        f"  CHECKPOINT_PERIOD: {choices.period}",
        "TEST:",
        f"  EVAL_PERIOD: {choices.period}",
        "SEED: 1",
        f"OUTPUT_DIR: {_quoted(output_dir)}",
    ]
    return "\n".join(lines) + "\n"


def teacher_text(student: Student, depth: int, *, base: str, file: str, output_dir: str) -> str:
    """Return the config of a teacher that is trained first, on top of the student's."""
    imagenet = _IMAGENET[depth]
    return "\n".join(
        [
            f"# The teacher of {base}: the same detector with a ResNet-{depth}. Train it first.",
            f"#   pcka train --config-file {file}",
            f"_BASE_: {_quoted(base)}",
            "VERSION: 2",
            "MODEL:",
            f"  META_ARCHITECTURE: {_quoted(student.architecture)}",
            f"  WEIGHTS: {_quoted(imagenet)}",
            "  BACKBONE: {FREEZE_AT: 2}",
            f'  RESNETS: {{DEPTH: {depth}, NORM: "FrozenBN", RES2_OUT_CHANNELS: 256}}',
            '  PCKA: {TERMS: [], TEACHER: {CONFIG_FILE: "", WEIGHTS: ""}}  # taught by none',
            f"OUTPUT_DIR: {_quoted(output_dir)}",
            "",
        ]
    )


def _heads(choices: Choices, student: Student, count: int, classes: list[str]) -> list[str]:
    comment = f"  # {classes[0]}" if len(classes) == 1 else ""
    above = [f"    # {line}" for line in classes] if len(classes) > 1 else []
    anchors = [
        "  ANCHOR_GENERATOR:",
        "    # Quantiles of the boxes after resizing; the ratios are height to width.",
        f"    SIZES: {[[size] for size in choices.anchors]}",
        f"    ASPECT_RATIOS: {[choices.ratios]}",
    ]
    if student.architecture == "RetinaNet":
        octaves = [[round(size * 2 ** (i / 3)) for i in range(3)] for size in choices.anchors]
        anchors[2] = f"    SIZES: {octaves}"
        return [*anchors, "  RETINANET:", *above, f"    NUM_CLASSES: {count}{comment}"]
    if student.architecture == "FCOS":
        return ["  FCOS:", *above, f"    NUM_CLASSES: {count}{comment}"]
    heads = [
        *anchors,
        "  RPN:",
        f"    IN_FEATURES: {_list(student.anchor_levels)}",
        "    PRE_NMS_TOPK_TRAIN: 2000",
        "    PRE_NMS_TOPK_TEST: 1000",
        "    POST_NMS_TOPK_TRAIN: 1000",
        "    POST_NMS_TOPK_TEST: 1000",
        "  ROI_HEADS:",
        '    NAME: "StandardROIHeads"',
        f"    IN_FEATURES: {_list(student.levels)}",
        *above,
        f"    NUM_CLASSES: {count}{comment}",
        "  ROI_BOX_HEAD:",
        '    NAME: "FastRCNNConvFCHead"',
        "    NUM_FC: 2",
        "    POOLER_RESOLUTION: 7",
    ]
    if student.masks:
        heads += [
            "  ROI_MASK_HEAD:",
            '    NAME: "MaskRCNNConvUpsampleHead"',
            "    NUM_CONV: 4",
            "    POOLER_RESOLUTION: 14",
        ]
    return heads


def _comment_lines(names: Iterable[str]) -> list[str]:
    """Return names as lines of a comment; line breaks within a name would end the comment."""
    printable = ("".join(c if c.isprintable() else " " for c in name) for name in names)
    return textwrap.wrap(", ".join(printable), 70, break_long_words=False, break_on_hyphens=False)


def _named(student: Student) -> str:
    kind = "Mask R-CNN" if student.masks else "Faster R-CNN"
    name = kind if student.architecture == "GeneralizedRCNN" else student.architecture
    return f"{name} with a ResNet-{student.depth}-FPN"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _list(names) -> str:
    return json.dumps(list(names))
