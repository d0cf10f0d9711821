"""torchvision's classifiers, made fit for feature taps."""

import re
from collections.abc import Callable
from functools import partial

import torchvision
from torch import nn

from .features import name_features

_PUBLISHED_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classifiers that return logits alone.

    The two that are left out return auxiliary logits as well in training.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    return sorted(set(names) - {"googlenet", "inception_v3"})


def torchvision_model(num_classes: int, *, name: str) -> nn.Module:
    """Build a model of :func:`torchvision_names` with random weights.

    ResNets and their kin get ``features``; of the others, maps are named by module path.
    """
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # would overwrite the output of the module before it
    if isinstance(model, torchvision.models.DenseNet):
        model.register_load_state_dict_pre_hook(_rename_densenet)
    if isinstance(model, torchvision.models.ResNet):
        model.features = name_features(
            "layer1", "layer2", "layer3", "layer4", last="layer4", pooled="avgpool"
        )
    return model


def _rename_densenet(module: nn.Module, state_dict: dict, prefix: str, *unused: object) -> None:
    """Rename entries of the published files, ``norm.1.weight``, to what torchvision calls them."""
    for key in list(state_dict):
        if published := _PUBLISHED_DENSENET.fullmatch(key):
            state_dict[f"{published[1]}{published[2]}"] = state_dict.pop(key)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    name: partial(torchvision_model, name=name)
    for name in ("resnet18", "resnet34", "resnet50", "resnet101")
}
