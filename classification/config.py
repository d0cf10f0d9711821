"""The config of a training run: frozen dataclasses, filled from YAML files and KEY VALUE pairs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from pcka.core import TermSpec
from pcka.errors import ConfigError
from pcka.keys import leaves
from pcka.yaml_files import read_with_bases

from .config_sections import DataConfig, ModelConfig, TeacherConfig, TrainConfig, check
from .config_tree import build, merge_pairs


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run.

    Args:
        output_dir: folder that it writes to.
        seed: the seed of initialisation, order of images and augmentation.
        device: ``auto`` takes a GPU where there is one; else as torch names it.
        data, student, teacher, train: see their classes; no teacher: plain training.
        terms: distillation losses, each with its weight.
        ce_weight: factor of the cross-entropy with the labels.
    """

    output_dir: str
    seed: int = 1
    device: str = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    student: ModelConfig
    teacher: TeacherConfig | None = None
    terms: tuple[TermSpec, ...] = ()
    ce_weight: float = 1.0
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        check(bool(self.output_dir), "output_dir", "the name of a folder", self.output_dir)
        check(0 <= self.seed < 2**63, "seed", "in [0, 2^63)", self.seed)
        if self.device != "auto":
            try:
                torch.device(self.device)
            except RuntimeError as error:
                raise ConfigError(
                    f"device is auto, or a device of torch such as cpu or cuda:0, got "
                    f"{self.device!r}"
                ) from error
        check(self.ce_weight >= 0, "ce_weight", "not negative", self.ce_weight)
        names = [term.name for term in self.terms]
        check(len(set(names)) == len(names), "terms", "a list of different names", names)
        if self.distils and self.teacher is None:
            raise ConfigError("terms need a teacher: set teacher.name and teacher.weights")
        if not self.distils and self.ce_weight == 0:
            raise ConfigError("ce_weight is 0 and no term is on: there is nothing to train with")
        ratios = [term.name for term in self.terms if term.is_ratio and term.strength > 0]
        if ratios and (self.ce_weight == 0 or self.train.compile):
            raise ConfigError(
                f"terms.{ratios[0]}.weight is a ratio to the gradient of the cross-entropy, which "
                + (
                    "a compiled network does not give at a feature: set train.compile false"
                    if self.ce_weight
                    else "ce_weight 0 turns off: raise it"
                )
                + ", or give the weight as a number"
            )
        ends = [term.build_schedule().off_at for term in self.terms if term.strength > 0]
        if self.ce_weight == 0 and max(ends) < 1:
            raise ConfigError(
                f"ce_weight is 0 and every term is off from {max(ends)} of the training on: raise "
                "schedule.off_at of one to 1"
            )

    @property
    def distils(self) -> bool:
        """Whether any term is on; otherwise this is plain training and needs no teacher."""
        return any(term.strength > 0 for term in self.terms)


def load_config(files: Sequence[str | Path], opts: Sequence[str] = ()) -> Config:
    """A run from YAML files, merged in order, and KEY VALUE pairs, merged last.

    Args:
        files: each may name the files it builds on under ``_BASE_``: a path or a list of paths,
            relative to the file. Mappings merge key by key, lists replace. A base that several
            files share is merged once, first.
        opts: ``["train.lr", "0.1", "data.root=/x", "terms.kd.weight", "2"]``; values in YAML.

    Raises:
        ConfigError: names the file or key, its value, and what it may be.
    """
    tree = read_with_bases(files)
    merge_pairs(tree, opts)
    return build(Config, tree)


def to_dict(cfg: Config) -> dict[str, Any]:
    """``cfg`` as YAML has it: mappings, lists and plain values."""
    return _plain(asdict(cfg))


def save_config(cfg: Config, path: str | Path) -> None:
    """Write ``cfg`` so that ``load_config([path])`` gives an equal one."""
    text = yaml.safe_dump(to_dict(cfg), sort_keys=False, allow_unicode=True)
    Path(path).write_text(text, encoding="utf-8")


def config_differences(a: Config, b: Config, *, ignore: Sequence[str] = ()) -> list[str]:
    """Dotted keys whose values differ, sorted; terms go by name, ``terms.kd.weight``.

    Args:
        ignore: keys that may differ; ``train`` covers all of ``train.*``.
    """
    left, right = (leaves(to_dict(cfg)) for cfg in (a, b))
    absent = object()
    return [
        key
        for key in sorted(left.keys() | right.keys())
        if left.get(key, absent) != right.get(key, absent)
        and not any(key == i or key.startswith(f"{i}.") for i in ignore)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return value
