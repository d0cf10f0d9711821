"""Outputs of a network's layers, by name, for one batch after the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcka.core import Taps
from pcka.errors import ConfigError, nearest


class LayerReader:
    """A reader of the outputs of some layers, in evaluation mode and without gradient.

    Outputs are copied at once, so that a network that works in place does not change them. Hooks
    exist only during the call.

    ::

        reader = LayerReader(resnet, ["layer1", "layer2.0.bn1", "fc"])
        reader(images)["layer1"]

    Args:
        model: the network; it and all of its parts keep their mode.
        layers: paths of submodules, or modules by name. A module may also return a mapping, whose
            entries then have their own names.
        forward: runs the model on a batch; None calls it.
        strides: pixels of the input per cell, by the name of an output. If given, only these
            outputs are read. ``layer_similarity(pool="cells")`` needs it.

    Raises:
        ConfigError: a path that is no submodule; the message names the nearest one. Or no layer.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | Mapping[str, nn.Module],
        *,
        forward: Callable[[Any], Any] | None = None,
        strides: Mapping[str, int] | None = None,
    ):
        if not isinstance(layers, Mapping):
            layers = dict(zip(layers, submodules(model, layers), strict=True))
        if not layers:
            raise ConfigError(f"no layer of {type(model).__name__} is named: name one or more")
        self.model = model
        self.strides = None if strides is None else dict(strides)
        self.names = tuple(layers if strides is None else strides)
        self._taps = Taps(layers, copy=True)
        self._forward = model if forward is None else forward

    @torch.no_grad()
    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Return the outputs by name, in the order of ``names``.

        Raises:
            ValueError: a layer that did not run, or did not return a tensor.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with self._taps.record() as outputs:
                self._forward(batch)
        finally:
            for module, training in modes:
                module.training = training
        for name in self.names:
            if not isinstance(outputs.get(name), Tensor):
                found = "did not run" if name not in outputs else "gives no tensor"
                raise ValueError(f"layer {name!r} of {type(self.model).__name__} {found}")
        return {name: outputs[name] for name in self.names}


def submodules(model: nn.Module, paths: Sequence[str]) -> list[nn.Module]:
    """Return the submodules of these paths; ConfigError for a wrong one, with the nearest."""
    known = dict(model.named_modules())
    for path in paths:
        check_layer(path, [name for name in known if name], where=type(model).__name__)
    return [known[path] for path in paths]


def check_layer(name: str, known: Sequence[str], *, where: str) -> None:
    """Raise ConfigError that names the nearest layers unless ``name`` is one of ``known``."""
    if name in known:
        return
    close = nearest(name, known)
    hint = f", did you mean {close!r}?" if close else ":"
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    raise ConfigError(f"{where} has no layer {name!r}{hint} It has {listed}")
