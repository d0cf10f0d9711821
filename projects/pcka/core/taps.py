"""Named intermediate tensors of an unmodified model, read by forward hooks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Through = Callable[[str, Tensor], Tensor]


class Taps:
    """Record the outputs of some submodules while the model's own forward runs.

    ::

        taps = Taps({"backbone": model.backbone})
        with taps.record() as features:
            losses = model(inputs)
        features["p3"]  # (B, C, H, W), attached to the graph

    A module that returns a mapping (a detectron2 backbone) contributes its entries under their own
    names. One that returns a tensor contributes it under the name given here. Hooks exist only
    inside ``record``, so nothing is kept alive between steps and copies of the model are clean.

    Args:
        modules: the modules by the names of their outputs.
        copy: record copies. Without copies, a model that changes an output in place, as
            ``ReLU(inplace=True)`` does, would change the record, and that raises an error.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, copy: bool = False):
        self.modules = dict(modules)
        self.copy = copy

    @contextmanager
    def record(self, through: Through | None = None) -> Iterator[dict[str, Tensor]]:
        """Yield the dictionary that fills as the modules run; the last call of a module counts.

        Args:
            through: given a name and a tensor, returns what the model goes on with in its place.

        Raises:
            ValueError: the model changed a recorded tensor afterwards; the message names it.
        """
        features: dict[str, Tensor] = {}
        versions: dict[str, int | None] = {}

        def hook_for(name: str):
            def hook(module, args, output):
                found = output if isinstance(output, Mapping) else {name: output}
                if through is not None:
                    found = {key: through(key, value) for key, value in found.items()}
                    output = found if isinstance(output, Mapping) else found[name]
                if self.copy:
                    found = {
                        key: value.clone() if isinstance(value, Tensor) else value
                        for key, value in found.items()
                    }
                features.update(found)
                versions.update({key: _version(value) for key, value in found.items()})
                return output if through is not None else None

            return hook

        handles = [m.register_forward_hook(hook_for(n)) for n, m in self.modules.items()]
        try:
            yield features
        finally:
            for handle in handles:
                handle.remove()
        changed = [key for key, version in versions.items() if version != _version(features[key])]
        if changed:
            raise ValueError(
                f"feature {changed[0]!r} is changed in place by what follows it (x += y, or "
                "inplace=True), so that its own output is gone: name the feature after it, or the "
                "one before"
            )


def _version(value: object) -> int | None:
    """Return how often a tensor was changed in place, as far as torch counts it."""
    if not isinstance(value, Tensor) or torch.compiler.is_compiling() or value.is_inference():
        return None
    return value._version
