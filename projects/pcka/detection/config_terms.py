"""The entries of MODEL.PCKA.TERMS: their keys, and the terms that they describe."""

from detectron2.config import CfgNode

from pcka.core import LOSSES, TermSpec
from pcka.errors import ConfigError, unknown_key

from .config import META_ARCHITECTURE
from .config_files import fit_types


def term_template() -> CfgNode:
    """Return the keys of one entry of MODEL.PCKA.TERMS with their defaults."""
    term = CfgNode()
    term.NAME = "pcka"
    # Student features: FPN levels (p2...) or stages of its bottom-up network (res2...).
    term.FEATURES = []
    # The teacher's counterparts, if named differently; empty pairs by name, else by stride.
    term.TEACHER_FEATURES = []
    term.LOSS = "PatchCKA"
    # Arguments of the loss; a list gives one value per feature.
    term.LOSS_ARGS = CfgNode(new_allowed=True)
    # A factor of the loss, or {ratio: number}: see pcka.core.balance.
    term.WEIGHT = 1.0
    # identity, or conv1x1 (conv1x1_bn_relu) to bring the student's width to the teacher's.
    term.ADAPTER = "identity"
    # Change of WEIGHT over the iterations: kind, end, warmup, off_at of pcka.core.Schedule.
    term.SCHEDULE = CfgNode(new_allowed=True)
    return term


def term_specs(cfg: CfgNode) -> list[TermSpec]:
    """Return the active terms of MODEL.PCKA.TERMS, with LOSS_WEIGHT multiplied in.

    Raises:
        ConfigError: an unknown key, or a value that is not allowed.
    """
    scale = cfg.MODEL.PCKA.LOSS_WEIGHT
    if not scale >= 0:
        raise ConfigError(f"MODEL.PCKA.LOSS_WEIGHT is a number >= 0, got {scale}")
    period = cfg.MODEL.PCKA.GRADIENT_PERIOD
    if period < 0:
        raise ConfigError(
            f"MODEL.PCKA.GRADIENT_PERIOD is a number of iterations, or 0 for off, got {period}"
        )
    specs = []
    for index, entry in enumerate(cfg.MODEL.PCKA.TERMS or []):
        where = f"MODEL.PCKA.TERMS[{index}]"
        if not isinstance(entry, dict):
            raise ConfigError(f"{where} is a mapping such as {{NAME: pcka, ...}}, got {entry!r}")
        template = term_template()
        for key in entry:
            if key not in template:
                raise ConfigError(f"{where}: {unknown_key(key, template)}")
        try:
            entry = CfgNode(entry)
            # yacs refuses a mapping in place of a number.
            weight = dict(entry.pop("WEIGHT")) if isinstance(entry.get("WEIGHT"), dict) else None
            fit_types(template, entry)
            template.merge_from_other_cfg(entry)
            spec = TermSpec(
                name=template.NAME,
                features=tuple(template.FEATURES),
                teacher_features=tuple(template.TEACHER_FEATURES),
                loss=template.LOSS,
                loss_args=dict(template.LOSS_ARGS),
                weight=_scaled(template.WEIGHT if weight is None else weight, scale),
                adapter=template.ADAPTER,
                schedule=dict(template.SCHEDULE),
            )
            if LOSSES[spec.loss].inputs == "logits":
                raise spec.error(f"{spec.loss} relates logits; the features of a detector are maps")
            for position in range(len(spec.features)):
                spec.build_loss(position)
            specs.append(spec)
        except (ValueError, AssertionError) as error:
            raise ConfigError(f"{where}: {error}") from error
    return [spec for spec in specs if spec.strength > 0]


def _scaled(weight: float | dict, scale: float) -> float | dict:
    """Multiply a weight, or the ratio that stands in its place."""
    if not isinstance(weight, dict):
        return weight * scale
    numbers = {k: v for k, v in weight.items() if type(v) in (int, float)}
    return {**weight, **{key: value * scale for key, value in numbers.items()}}


def distils(cfg: CfgNode) -> bool:
    """Return whether a config has active terms; without any, it is plain detectron2."""
    return cfg.MODEL.META_ARCHITECTURE == META_ARCHITECTURE and bool(term_specs(cfg))
