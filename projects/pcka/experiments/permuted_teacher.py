r"""Weights that test why a Gram matrix per channel and one over all channels teach differently.

    python -m pcka.experiments.permuted_teacher --config-file configs/quickstart/pcka.yaml \
        --output FOLDER

The config is that of a student with a trained teacher. Two files are written, each for an ordinary
run with one more pair:

- FOLDER/teacher_permuted.pth, for MODEL.PCKA.TEACHER.WEIGHTS: the same detector with the channels
  of its FPN's output in another order (one for all levels), and with heads that read this order. A
  Gram matrix over all channels (grouping `batch`) is the same as before. With `channel` the
  student's channels are now compared with other ones.
- FOLDER/student_fpn.pth, for MODEL.WEIGHTS: the layers of the teacher's FPN that fit the student's;
  everything else starts at random. If the bottom-up networks are equally wide, this is the whole
  FPN. If they are not, as in the quickstart, the lateral 1x1 convolutions do not fit. The 3x3
  output convolutions and their norms alone did not give the student's channels the meaning of the
  teacher's (docs/ablations.md).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from pcka.cli import exit_status
from pcka.detection import ConfigError, build_teacher, load_config, student_config
from pcka.detection.importers import write_checkpoint


@torch.no_grad()
def permute_fpn(detector: Any, order: Tensor) -> None:
    """Reorder the channels of an FPN's output, and the heads that read them, in place.

    Args:
        detector: Faster, Mask or Cascade R-CNN, whose FPN pools its last level.
        order: ``(C,)``; channel i of each level becomes what ``order[i]`` was.

    Raises:
        ConfigError: another detector, or a norm that mixes channels.
    """
    fpn = detector.backbone
    if not (
        isinstance(fpn, FPN)
        and isinstance(fpn.top_block, LastLevelMaxPool | None)
        and hasattr(detector, "roi_heads")
        and not any(
            isinstance(m, nn.GroupNorm) for conv in fpn.output_convs for m in conv.modules()
        )
    ):
        raise ConfigError(
            "only the FPN of a Faster, Mask or Cascade R-CNN is permuted, without GroupNorm and "
            "without convolutions of its own for p6 and p7"
        )
    for conv in fpn.output_convs:
        for value in conv.state_dict().values():  # its weight, bias and norm
            if value.dim():
                value.copy_(value[order])
    for layer in _readers(detector):
        weight = layer.get_parameter("weight")
        # A linear layer reads (C, H, W), flattened.
        weight.copy_(weight.unflatten(1, (len(order), -1))[:, order].flatten(1, 2))


def _readers(detector: Any) -> list[nn.Module]:
    """Return the first layer of every head, which reads the FPN."""
    heads: list[Any] = [detector.proposal_generator.rpn_head]
    for name in ("box_head", "mask_head", "keypoint_head"):
        head = getattr(detector.roi_heads, name, None)
        heads += [] if head is None else head if isinstance(head, nn.ModuleList) else [head]
    layers = nn.Conv2d | nn.Linear
    return [next(m for m in head.modules() if isinstance(m, layers)) for head in heads]


def shared_fpn(student: Any, teacher: Any) -> dict[str, Tensor]:
    """Return entries of the teacher's FPN for the student, for each layer all of whose entries fit.

    Raises:
        ConfigError: no layer fits.
    """
    found: dict[str, Tensor] = {}
    for name, layer in student.backbone.named_children():
        theirs = getattr(teacher.backbone, name, None)
        if not name.startswith("fpn_") or theirs is None:
            continue
        state = theirs.state_dict()
        if _shapes(state) == _shapes(layer.state_dict()):
            found |= {f"backbone.{name}.{key}": value for key, value in state.items()}
    if not found:
        raise ConfigError("no layer of the teacher's FPN has the shape of the student's")
    return found


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def write_files(args: argparse.Namespace) -> None:
    """Write both files, and print their names."""
    cfg = load_config(args.config_file, ["MODEL.DEVICE", "cpu", *args.opts])
    teacher = build_teacher(cfg).model
    shared = shared_fpn(build_model(student_config(cfg)), teacher)
    path = os.path.join(args.output, "student_fpn.pth")
    write_checkpoint(shared, path, author="the teacher's FPN, by pcka")
    print(f"wrote {path}: {', '.join(dict.fromkeys(key.split('.')[1] for key in shared))}")
    channels = teacher.backbone.output_shape()["p2"].channels
    permute_fpn(
        teacher, torch.randperm(channels, generator=torch.Generator().manual_seed(args.seed))
    )
    path = os.path.join(args.output, "teacher_permuted.pth")
    write_checkpoint(teacher.state_dict(), path, author="permuted by pcka")
    print(f"wrote {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0, help="of the permutation")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_intermixed_args(argv)
    return exit_status("permuted_teacher", lambda: write_files(args))


if __name__ == "__main__":
    sys.exit(main())
