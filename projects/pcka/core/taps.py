"""Named intermediate tensors of an unmodified model, read by forward hooks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class Taps:
    """Record the outputs of some submodules while the model's own forward runs.

    ::

        taps = Taps({"backbone": model.backbone})
        with taps.record() as features:
            losses = model(inputs)
        features["p3"]  # (B, C, H, W), attached to the graph

    A module that returns a mapping (a detectron2 backbone) contributes its entries by their own
    names, one that returns a tensor contributes it by the name given here. Hooks are there only
    inside ``record``, so nothing is kept alive between steps and copies of the model are clean.

    Args:
        modules: by the names of their outputs.
        copy: record copies. A model that goes on in place, such as one with
            ``ReLU(inplace=True)``, would otherwise change what was recorded.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, copy: bool = False):
        self.modules = dict(modules)
        self.copy = copy

    @contextmanager
    def record(self) -> Iterator[dict[str, Tensor]]:
        """Yield the dictionary that fills as the modules run; the last call of a module counts."""
        features: dict[str, Tensor] = {}

        def hook_for(name: str):
            def hook(module, args, output):
                found = output if isinstance(output, Mapping) else {name: output}
                if self.copy:
                    found = {
                        key: value.clone() if isinstance(value, Tensor) else value
                        for key, value in found.items()
                    }
                features.update(found)

            return hook

        handles = [m.register_forward_hook(hook_for(n)) for n, m in self.modules.items()]
        try:
            yield features
        finally:
            for handle in handles:
                handle.remove()
