"""Teachers from detectron2's LazyConfig files: ViTDet, RegNet, ``new_baselines`` of the zoo.

Such a file is Python, and reading it runs it: use only files from a source that you trust.
"""

from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from pcka.detection.config import ConfigError


def load_lazy_config(path: str, overrides: list) -> DictConfig:
    """Run a LazyConfig file.

    Args:
        path: the ``.py`` file.
        overrides: strings ``key=value``, such as ``model.backbone.square_pad=1344``.

    Raises:
        ConfigError: a file that fails or defines no ``model``, or an override of another form.
    """
    for override in overrides:
        if not isinstance(override, str) or "=" not in override:
            raise ConfigError(
                f"MODEL.PCKA.TEACHER.OPTS of the LazyConfig {path} are strings such as "
                f"'model.backbone.square_pad=1344', got {override!r}"
            )
    try:
        lazy = LazyConfig.apply_overrides(LazyConfig.load(path), overrides)
    except Exception as error:  # the file is code and may raise anything
        raise ConfigError(
            f"cannot read the teacher's LazyConfig {path}: {type(error).__name__}: {error}"
        ) from error
    if "model" not in lazy:
        raise ConfigError(
            f"teacher config {path} defines no `model`: it has {', '.join(lazy) or 'nothing'}"
        )
    return lazy


def lazy_input_format(lazy: DictConfig, path: str) -> str:
    """Return the channel order that the model was trained on, from its training data or itself.

    Raises:
        ConfigError: no key says it, or two keys disagree.
    """
    keys = ("dataloader.train.mapper.image_format", "model.input_format")
    found = {key: OmegaConf.select(lazy, key) for key in keys}
    formats = {value for value in found.values() if value}
    if len(formats) != 1:
        raise ConfigError(
            f"teacher config {path} does not say in which channel order its model reads images "
            f"({', '.join(f'{k}: {v}' for k, v in found.items())}): set {keys[0]}=BGR or =RGB in "
            "MODEL.PCKA.TEACHER.OPTS"
        )
    return formats.pop()


def build_lazy_model(lazy: DictConfig, path: str) -> nn.Module:
    """Build the detector of a LazyConfig, with random weights.

    Raises:
        ConfigError: a detector that cannot be built.
    """
    try:
        return instantiate(lazy.model)
    except Exception as error:  # as above
        raise ConfigError(
            f"cannot build the teacher of {path}: {type(error).__name__}: {error}"
        ) from error
