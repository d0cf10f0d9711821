"""Any network of timm that has a pyramid of features, as a detectron2 backbone."""

from itertools import pairwise
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor, nn

from pcka.errors import ConfigError
from pcka.timm_networks import any_size, import_timm, timm_model

from .fpn import build_fpn

# The names are those of a ResNet's stages at these strides, so that terms pair the two by name.
_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
NORMS = ("FrozenBN", "BN", "SyncBN")


class TimmBackbone(Backbone):
    """The maps of a network of timm at the strides 4, 8, 16 and 32.

    Images ``(B, 3, H, W)`` -> {"res2": ``(B, C2, H/4, W/4)``, ..., "res5": ``(B, C5, H/32,
    W/32)``}, as far as ``out_features`` names them. What follows the last of them is left out.
    The parameters are called ``network.<timm's name>``.

    Attributes:
        name: timm's name of the network.
    """

    def __init__(
        self, *, name: str, out_features: list[str], norm: str = "FrozenBN", freeze_at: int = 0
    ):
        """
        Args:
            name: the name of the network, or ``NAME.TAG``.
            out_features: names of ``res2`` ... ``res5``.
            norm: what becomes of the network's BatchNorm layers: FrozenBN, BN or SyncBN. Layers
                of other kinds (ConvNeXt's and Swin's LayerNorm) stay as they are.
            freeze_at: 1 freezes all before res2, 2 res2 as well, ..., like detectron2's ResNet.

        Raises:
            ConfigError: timm is missing or has no such network, the network has no pyramid of
                features or not these, or another norm.
        """
        super().__init__()
        if norm not in NORMS:
            raise ConfigError(
                f"MODEL.RESNETS.NORM of a network of timm is {', '.join(NORMS)}, got {norm!r}"
            )
        network: Any = timm_model(name, 0, **any_size(name))
        levels = _levels(network, name)
        absent = [level for level in out_features if level not in levels]
        if absent or not out_features:
            raise ConfigError(
                f"timm's {name} has the features {', '.join(levels)}, not {absent}: correct "
                "MODEL.RESNETS.OUT_FEATURES and MODEL.FPN.IN_FEATURES"
            )
        self.name = name
        self._out_features = [level for level in levels if level in out_features]
        info = network.feature_info
        self._shapes = {
            level: ShapeSpec(channels=info[levels[level]]["num_chs"], stride=_STRIDES[level])
            for level in self._out_features
        }
        ends = [info[index]["module"] for index in levels.values()]
        stem = [entry["module"] for entry in info if entry["reduction"] < _STRIDES["res2"]]
        frozen = _first_modules(network, stem[-1:], ends, freeze_at)
        self._indices = network.prune_intermediate_layers(
            [levels[level] for level in self._out_features], prune_norm=True, prune_head=True
        )
        self.network = network
        self._freeze(frozen, norm)

    def _freeze(self, paths: set[str], norm: str) -> None:
        """Freeze the weights that these modules hold themselves, and the BatchNorm as asked."""
        layers = import_timm().layers
        for path, module in list(self.network.named_modules()):
            if path in paths:
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
            if isinstance(module, nn.BatchNorm2d) and (path in paths or norm == "FrozenBN"):
                self.network.set_submodule(path, layers.freeze_batch_norm_2d(module))
        if norm == "SyncBN":
            self.network = layers.convert_sync_batchnorm(self.network)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.network.forward_intermediates(
            x, indices=self._indices, output_fmt="NCHW", intermediates_only=True
        )
        return dict(zip(self._out_features, maps, strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)


def _levels(network: nn.Module, name: str) -> dict[str, int]:
    """Return the index in timm's ``feature_info`` of each of res2 ... res5 that there is.

    Raises:
        ConfigError: the strides do not grow from map to map, as in a plain vision transformer.
    """
    info: Any = getattr(network, "feature_info", None)
    strides = [entry["reduction"] for entry in info] if isinstance(info, list) else []
    growing = len(strides) > 1 and all(a < b for a, b in pairwise(strides))
    levels = {level: strides.index(s) for level, s in _STRIDES.items() if s in strides}
    if not growing or not levels or not hasattr(network, "prune_intermediate_layers"):
        found = f"its maps have the strides {strides}" if strides else "it names no maps"
        raise ConfigError(
            f"timm's {name} has no pyramid of features ({found}), which an FPN needs: take a "
            "network with maps of the strides 4, 8, 16 and 32, such as resnet18, convnext_tiny or "
            "swin_tiny_patch4_window7_224"
        )
    return levels


def _first_modules(
    network: nn.Module, stem: list[str], ends: list[str], freeze_at: int
) -> set[str]:
    """Return the paths of the modules that ``freeze_at`` freezes, in the order of definition.

    Args:
        network: a network of timm, whose modules are defined in the order in which they run.
        stem: the last module before the maps of stride 4; empty if timm names none.
        ends: the modules that return the maps.
        freeze_at: 0 for none, 1 for the stem, 2 for the first of ``ends`` as well, ...
    """
    paths = [path for path, _ in network.named_modules()]
    if freeze_at <= 0:
        return set()
    if freeze_at == 1 and not stem and ends[0] in paths:
        return set(paths[: paths.index(ends[0])])
    last = stem[0] if freeze_at == 1 and stem else ends[min(max(freeze_at - 2, 0), len(ends) - 1)]
    if last not in paths:
        raise ConfigError(
            f"timm does not say which modules of {type(network).__name__} make up its stages, so "
            f"none can be frozen: set MODEL.BACKBONE.FREEZE_AT 0, got {freeze_at}"
        )
    end = max(i for i, path in enumerate(paths) if f"{path}.".startswith(f"{last}."))
    return set(paths[: end + 1])


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape: ShapeSpec) -> TimmBackbone:
    """Build :class:`TimmBackbone` from a config.

    Reads ``MODEL.TIMM.NAME``, ``MODEL.RESNETS.NORM``, ``MODEL.RESNETS.OUT_FEATURES`` and
    ``MODEL.BACKBONE.FREEZE_AT``. A file of timm's weights for the network is a ``MODEL.WEIGHTS``
    as it is.
    """
    if input_shape.channels != 3:
        raise ConfigError(
            f"a network of timm takes images of 3 channels, got {input_shape.channels}"
        )
    if "TIMM" not in cfg.MODEL:
        raise ConfigError("build_timm_backbone needs MODEL.TIMM: pcka.detection.add_pcka_config")
    return TimmBackbone(
        name=cfg.MODEL.TIMM.NAME,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        norm=cfg.MODEL.RESNETS.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build a network of timm with an FPN, p2 to p6."""
    return build_fpn(cfg, build_timm_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_retinanet_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build a network of timm with RetinaNet's FPN, p3 to p7."""
    return build_fpn(cfg, build_timm_backbone(cfg, input_shape), top="c5")


@BACKBONE_REGISTRY.register()
def build_fcos_timm_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build a network of timm with the FPN of FCOS, p3 to p7."""
    return build_fpn(cfg, build_timm_backbone(cfg, input_shape), top="p5")
