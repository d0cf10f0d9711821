"""Names of other frameworks' parameters, and their names in detectron2.

mmdetection 2.x and 3.x, torchvision and timm share the names of a ResNet and differ in its prefix.
Heads are renamed where both sides have the same parametrisation.
"""

import re
from collections.abc import Iterable

BOTTOM_UP = "backbone.bottom_up."

MMDETECTION, TORCHVISION, CLASSIFIER = "mmdetection", "torchvision detection", "classifier"

_RESNET_PREFIX = {MMDETECTION: "backbone.", TORCHVISION: "backbone.body.", CLASSIFIER: ""}

# Stem, blocks and shortcuts of a ResNet or ResNeXt.
_STEM = re.compile(r"(conv|bn)1\.(\w+)")
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)")
_SHORTCUT = re.compile(r"layer(\d)\.(\d+)\.downsample\.([01])\.(\w+)")

# Level and layer of an FPN. Older torchvision has no layer index.
_FPN = re.compile(
    r"(?:neck\.(?P<kind>lateral|fpn)_convs|backbone\.fpn\.(?P<block>inner|layer)_blocks)"
    r"\.(?P<level>\d+)\.(?:(?P<layer>conv|bn|gn|0|1)\.)?(?P<rest>\w+)"
)
_EXTRA = re.compile(r"backbone\.fpn\.extra_blocks\.(p[67])\.(\w+)")

# mmdetection's heads. "{0}", "{1}", ... stand for the groups, "{n}" for the first plus one.
_HEADS = [
    (r"rpn_head\.rpn_conv\.(\w+)", "proposal_generator.rpn_head.conv.{0}"),
    (r"rpn_head\.rpn_cls\.(\w+)", "proposal_generator.rpn_head.objectness_logits.{0}"),
    (r"rpn_head\.rpn_reg\.(\w+)", "proposal_generator.rpn_head.anchor_deltas.{0}"),
    (r"roi_head\.bbox_head\.shared_fcs\.(\d+)\.(\w+)", "roi_heads.box_head.fc{n}.{1}"),
    (r"roi_head\.bbox_head\.fc_cls\.(\w+)", "roi_heads.box_predictor.cls_score.{0}"),
    (r"roi_head\.bbox_head\.fc_reg\.(\w+)", "roi_heads.box_predictor.bbox_pred.{0}"),
    (r"roi_head\.mask_head\.convs\.(\d+)\.conv\.(\w+)", "roi_heads.mask_head.mask_fcn{n}.{1}"),
    (r"roi_head\.mask_head\.upsample\.(\w+)", "roi_heads.mask_head.deconv.{0}"),
    (r"roi_head\.mask_head\.conv_logits\.(\w+)", "roi_heads.mask_head.predictor.{0}"),
    (r"bbox_head\.retina_cls\.(\w+)", "head.cls_score.{0}"),
    (r"bbox_head\.retina_reg\.(\w+)", "head.bbox_pred.{0}"),
]
_CASCADE = re.compile(r"roi_head\.bbox_head\.(\d)\.(?:shared_fcs\.(\d+)|fc_(cls|reg))\.(\w+)")
_SUBNET = re.compile(r"bbox_head\.(cls|reg)_convs\.(\d+)\.conv\.(\w+)")

# Reasons why a key is left out, by framework; the first pattern that matches counts.
_REASONS = {
    MMDETECTION: [
        (r"roi_head\.mask_head\.\d", "detectron2 has one mask head, mmdetection's cascade three"),
        (r"bbox_head\.", "a dense head without a counterpart of the same parametrisation"),
        (r"ema_|.*\.ema", "a moving average beside the weights themselves"),
    ],
    TORCHVISION: [
        (
            r"rpn\.|roi_heads\.|head\.",
            "torchvision rounds its anchors to whole pixels: this head expects other boxes",
        )
    ],
    CLASSIFIER: [(r"fc\.|head\.|classifier\.", "a detector has no classifier of images")],
}


def framework(keys: Iterable[str]) -> str | None:
    """Return the framework that uses these names, one of the three above, or None."""
    keys = set(keys)
    for name, prefix in reversed(_RESNET_PREFIX.items()):
        if f"{prefix}conv1.weight" in keys or any(k.startswith(f"{prefix}layer1.") for k in keys):
            return name
    return None


def detectron2_names(keys: Iterable[str], source: str) -> dict[str, str]:
    """Return detectron2's name of every key that has one there."""
    keys = list(keys)
    laterals = {m["level"] for k in keys if (m := _FPN.fullmatch(k)) and _is_lateral(m)}
    # FCOS uses RetinaNet's names of convolutions, but multiplies boxes by a learnt scale.
    fcos = any(k.startswith("bbox_head.conv_centerness.") for k in keys)
    names = {}
    for key in keys:
        # The coarsest lateral reads C5, so the number of laterals gives the finest level.
        name = _resnet_name(key, source) or _fpn_name(key, first_level=6 - len(laterals))
        if name is None and source == MMDETECTION and not (fcos and key.startswith("bbox_head.")):
            name = _head_name(key)
        if name is not None:
            names[key] = name
    return names


def reason_unmapped(key: str, source: str) -> str:
    """Return the reason, in words, why a key has no name in detectron2."""
    for pattern, reason in _REASONS[source]:
        if re.match(pattern, key):
            return reason
    return f"not a name that {source} gives to a part of ResNet, FPN or a known head"


def _resnet_name(key: str, source: str) -> str | None:
    """Turn ``layer1.0.bn2.weight`` into ``backbone.bottom_up.res2.0.conv2.norm.weight``."""
    prefix = _RESNET_PREFIX[source]
    if not key.startswith(prefix):
        return None
    key = key.removeprefix(prefix)
    if m := _STEM.fullmatch(key):
        return f"{BOTTOM_UP}stem.conv1{_norm(m[1])}.{m[2]}"
    if m := _BLOCK.fullmatch(key):
        return f"{BOTTOM_UP}res{int(m[1]) + 1}.{m[2]}.conv{m[4]}{_norm(m[3])}.{m[5]}"
    if m := _SHORTCUT.fullmatch(key):
        return f"{BOTTOM_UP}res{int(m[1]) + 1}.{m[2]}.shortcut{_norm(m[3])}.{m[4]}"
    return None


def _fpn_name(key: str, first_level: int) -> str | None:
    if m := _EXTRA.fullmatch(key):
        return f"backbone.top_block.{m[1]}.{m[2]}"
    if not (m := _FPN.fullmatch(key)):
        return None
    level = first_level + int(m["level"])
    if level > 5:
        return f"backbone.top_block.p{level}.{m['rest']}"
    kind = "lateral" if _is_lateral(m) else "output"
    return f"backbone.fpn_{kind}{level}{_norm(m['layer'])}.{m['rest']}"


def _head_name(key: str) -> str | None:
    for pattern, name in _HEADS:
        if m := re.fullmatch(pattern, key):
            return name.format(*m.groups(), n=int(m[1]) + 1 if m[1].isdigit() else None)
    if m := _CASCADE.fullmatch(key):
        stage, fc, kind, rest = m.groups()
        if fc:
            return f"roi_heads.box_head.{stage}.fc{int(fc) + 1}.{rest}"
        return f"roi_heads.box_predictor.{stage}.{_PREDICTOR[kind]}.{rest}"
    if m := _SUBNET.fullmatch(key):
        # Each convolution is followed by its ReLU, so indices are even.
        return f"head.{'cls' if m[1] == 'cls' else 'bbox'}_subnet.{2 * int(m[2])}.{m[3]}"
    return None


_PREDICTOR = {"cls": "cls_score", "reg": "bbox_pred"}


def _is_lateral(match: re.Match) -> bool:
    return match["kind"] == "lateral" or match["block"] == "inner"


def _norm(layer: str | None) -> str:
    return ".norm" if layer in ("bn", "gn", "1") else ""
