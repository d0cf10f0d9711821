"""Converting another framework's state dict for the model of a detectron2 config."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from pcka.detection.config import ConfigError

from .inputs import is_version_1, relu_before_p7
from .names import BOTTOM_UP, MMDETECTION, detectron2_names, framework, reason_unmapped

_BN_EPS = 1e-5  # in detectron2
# mmdetection's stds of box deltas, one row per stage of a cascade; other heads use the first.
_DELTA_STDS = [(0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)]
_HEADS_OF_ANCHORS = ("rpn_head.rpn_cls.", "rpn_head.rpn_reg.", "bbox_head.retina_")


@dataclass
class Conversion:
    """The converted state, and a report on every key.

    Attributes:
        source: the framework.
        state: tensors by detectron2's names.
        mapped: detectron2's name of each converted key.
        unmapped: the reason for each key that was left out.
        wrong_shape: both shapes of each key that does not fit.
        missing: names of the model that no key filled.
        problems: why the backbone, or the FPN where the file has one, is not complete. Heads may
            be missing, since a teacher of features runs none.
        notes: remarks for the user.
    """

    source: str
    state: dict[str, Tensor] = field(default_factory=dict, repr=False)
    mapped: dict[str, str] = field(default_factory=dict)
    unmapped: dict[str, str] = field(default_factory=dict)
    wrong_shape: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self) -> str:
        """Return one line per key of either side, then notes, problems and a summary."""
        shapes = {name: tuple(self.state[name].shape) for name in self.mapped.values()}
        lines = [f"mapped: {key} -> {name} {shapes[name]}" for key, name in self.mapped.items()]
        lines += [f"unmapped: {key}: {why}" for key, why in self.unmapped.items()]
        lines += [f"other shape: {key}: {why}" for key, why in self.wrong_shape.items()]
        lines += [f"without a source: {name}" for name in self.missing]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"problem: {problem}" for problem in self.problems]
        lines.append(
            f"{self.source}: {len(self.mapped)} mapped, {len(self.unmapped)} unmapped, "
            f"{len(self.wrong_shape)} of another shape, {len(self.missing)} without a source"
        )
        return "\n".join(lines)


def convert(
    state: Mapping[str, Tensor], cfg: CfgNode, *, meta: Mapping | None = None, bn_eps: float = 1e-5
) -> Conversion:
    """Rename and rearrange ``state`` for the model that ``cfg`` describes.

    Args:
        state: a state dict of mmdetection 2.x or 3.x, torchvision (classification, detection) or
            timm.
        cfg: a plain detectron2 config.
        meta: an mmdetection file's own description.
        bn_eps: eps of the batch norms that the weights were trained with. detectron2 has 1e-5;
            another value is folded into ``running_var``.

    Raises:
        ConfigError: names that no known framework uses.
    """
    meta = dict(meta or {})
    source = framework(state)
    if source is None:
        raise ConfigError(
            "no ResNet of mmdetection, torchvision or timm in this file; its keys are like "
            + ", ".join(list(state)[:3])
        )
    wanted = build_model(cfg).state_dict()
    has_bottom_up = any(name.startswith(BOTTOM_UP) for name in wanted)
    result = Conversion(source)
    taken: dict[str, str] = {}
    names = detectron2_names(state, source)
    homeless = []
    for key, tensor in state.items():
        name = names.get(key)
        if name and not has_bottom_up:
            name = name.replace(BOTTOM_UP, "backbone.")
        if name is None:
            result.unmapped[key] = reason_unmapped(key, source)
        elif name not in wanted and key.endswith("num_batches_tracked"):
            result.unmapped[key] = "a counter that only training with batch statistics needs"
        elif not name.startswith("backbone.") and is_version_1(meta):
            result.unmapped[key] = "mmdetection 1.x: background is class 0, anchors are rounded"
        elif name not in wanted:
            result.unmapped[key] = f"the config's model has no {name}"
            homeless += [name] if name.startswith("backbone.") else []
        elif name in taken:
            result.unmapped[key] = f"{name} comes from {taken[name]} already"
        else:
            taken[name] = key
            tensor = _rearranged(key, name, tensor, cfg)
            if name.endswith("running_var") and bn_eps != _BN_EPS:
                tensor = tensor + (bn_eps - _BN_EPS)
            if tensor.shape == wanted[name].shape:
                # A copy, because saving a slice would write the whole tensor that it is cut from.
                result.state[name] = tensor.to(wanted[name].dtype, copy=True).contiguous()
                result.mapped[key] = name
            else:
                shapes = f"{tuple(tensor.shape)}, {tuple(wanted[name].shape)} in {name}"
                result.wrong_shape[key] = shapes
    absent = [name for name in wanted if name not in taken]
    result.missing = [name for name in absent if not name.endswith("num_batches_tracked")]
    _judge(result, names, homeless)
    result.notes += _notes(result, meta)
    return result


def _rearranged(key: str, name: str, tensor: Tensor, cfg: CfgNode) -> Tensor:
    """Return the tensor in detectron2's order of anchors and scale of box deltas."""
    if key.startswith(_HEADS_OF_ANCHORS):
        # mmdetection's inner loop is over sizes, detectron2's over aspect ratios.
        anchors = cfg.MODEL.ANCHOR_GENERATOR
        sizes, ratios = len(anchors.SIZES[0]), len(anchors.ASPECT_RATIOS[0])
        if len(tensor) % (sizes * ratios) == 0:
            tensor = tensor.unflatten(0, (ratios, sizes, -1)).transpose(0, 1).flatten(0, 2)
    elif ".bbox_pred." in name and name.startswith("roi_heads."):
        stage = name.split(".")[2]
        if stage.isdigit():
            weights = cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS[int(stage)]
            stds = _DELTA_STDS[int(stage)]
        else:
            weights, stds = cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS, _DELTA_STDS[0]
        scale = torch.tensor(stds, dtype=torch.float64) * torch.tensor(weights)
        if len(tensor) % 4 == 0:
            scale = scale.repeat(len(tensor) // 4).view(-1, *[1] * (tensor.dim() - 1))
            tensor = tensor * scale.to(tensor.dtype)
    return tensor


def _judge(result: Conversion, names: Mapping, homeless: list[str]) -> None:
    """Collect the problems of backbone and FPN."""
    has_fpn = any("backbone.fpn_" in name for name in names.values())
    part = "backbone and FPN" if has_fpn else "backbone"

    def required(name: str) -> bool:
        of_fpn = name.startswith(("backbone.fpn_", "backbone.top_block."))
        return name.startswith("backbone.") and (has_fpn or not of_fpn)

    absent = [name for name in result.missing if required(name)]
    wrong = [key for key in result.wrong_shape if required(names[key])]
    for keys, what in (
        (absent, f"of the config's {part} have no source"),
        (wrong, "have another shape"),
        (homeless, "of the file have no place in the config's model"),
    ):
        if keys:
            shown = ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")
            result.problems.append(f"{len(keys)} entries {what}: {shown}")
    if not has_fpn and any(name.startswith("backbone.fpn_") for name in result.missing):
        result.notes.append(
            "the file has no FPN: good to initialise a student (MODEL.WEIGHTS), not for a teacher"
        )


def _notes(result: Conversion, meta: dict) -> list[str]:
    """Return notes on where equal weights do not compute the same function."""
    if result.source != MMDETECTION:
        return []
    names = result.mapped.values()
    notes = []
    if "backbone.top_block.p7.weight" in names and not relu_before_p7(meta):
        notes.append(
            "p7 (not p3 to p6) differs unless the weights were trained with "
            "relu_before_extra_convs=True: detectron2 applies a ReLU before it"
        )
    if any(name.startswith("roi_heads.box_predictor.0.") for name in names):
        notes.append(
            "box deltas of the cascade are scaled from mmdetection's default stds to the config's "
            "BBOX_REG_WEIGHTS. Scores differ a little: detectron2 averages the stages' "
            "probabilities, mmdetection their logits"
        )
    if any(not name.startswith("backbone.") for name in names):
        notes.append(
            "heads were renamed for mmdetection's default anchors and box coders (the config's "
            "have to be the same); measure AP before relying on them"
        )
    return notes
