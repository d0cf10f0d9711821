"""torchvision's classifiers, made fit for feature taps."""

from functools import partial

import torchvision
from torch import nn

from .features import name_features


def torchvision_names() -> list[str]:
    """Its models that return logits alone: these two return auxiliary ones too in training."""
    names = torchvision.models.list_models(module=torchvision.models)
    return sorted(set(names) - {"googlenet", "inception_v3"})


def torchvision_model(num_classes: int, *, name: str) -> nn.Module:
    """A model of :func:`torchvision_names`, with random weights.

    ResNets and their kin get ``features``; of the others, maps are named by module path.
    """
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # would overwrite the output of the module before it
    if isinstance(model, torchvision.models.ResNet):
        model.features = name_features(
            "layer1", "layer2", "layer3", "layer4", last="layer4", pooled="avgpool"
        )
    return model


MODELS = {
    name: partial(torchvision_model, name=name)
    for name in ("resnet18", "resnet34", "resnet50", "resnet101")
}
