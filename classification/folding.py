"""Folding BatchNorm into the convolution before it, which saves a layer of a frozen network."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@torch.no_grad()
def fold_batch_norm(model: nn.Module, images: Tensor, kept: Collection[nn.Module] = ()) -> int:
    """Fold, in place, every BatchNorm that alone reads the output of a convolution.

    The convolution takes over scale and shift, and the BatchNorm becomes an identity, so that hooks
    on other modules stay. Which layer reads what is seen in one forward.

    Args:
        model: a network in evaluation mode.
        images: ``(B, 3, H, W)``, of the forward.
        kept: modules whose outputs somebody reads; these outputs stay.

    Returns:
        The number of BatchNorm layers that were folded.
    """
    calls = _Calls(model)
    with calls.reads:
        model(images)
    calls.close()
    names = {module: name for name, module in model.named_modules()}
    outputs = [set(module.modules()) for module in kept]
    folded = 0
    for norm, read in calls.inputs.items():
        conv = calls.convolutions.get(id(read))
        if (
            conv is not None
            and calls.count[conv] == calls.count[norm] == 1
            and calls.reads.count[id(read)] == calls.reads.count[id(conv.weight)] == 1
            and norm.running_mean is not None
            and all(conv not in inner or norm in inner for inner in outputs)
            and norm not in kept
        ):
            model.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
            model.set_submodule(names[norm], nn.Identity())
            folded += 1
    return folded


class _Calls:
    """The outputs of convolutions and the inputs of BatchNorm layers in a forward of ``model``."""

    def __init__(self, model: nn.Module):
        self.reads = _Reads()
        self.count: Counter[nn.Module] = Counter()
        self.convolutions: dict[int, nn.Conv2d] = {}  # by the identity of their outputs
        self.inputs: dict[nn.BatchNorm2d, Tensor] = {}
        self._hooks = [
            module.register_forward_hook(self._note)
            for module in model.modules()
            if type(module) in (nn.Conv2d, nn.BatchNorm2d)
        ]

    def _note(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.count[module] += 1
        if isinstance(module, nn.Conv2d):
            self.convolutions[id(output)] = module
        elif isinstance(module, nn.BatchNorm2d):
            self.inputs[module] = args[0]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


class _Reads(TorchDispatchMode):
    """Counts how many operations read a tensor, by its identity."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self._tensors: list[Any] = []  # kept, so that no identity is used twice

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.count.update(map(id, read))
        output = function(*args, **(kwargs or {}))
        self._tensors.append((read, output))
        return output
