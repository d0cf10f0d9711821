"""Files of timm's own weights, loaded into a detector with a network of timm."""

import logging
from collections.abc import Mapping

from torch import Tensor, nn

from pcka.checkpoint_files import CheckpointError
from pcka.checkpoints import without_prefix

from .timm_backbone import TimmBackbone

_COUNTER = "num_batches_tracked"  # frozen normalisation has none, and nothing needs it

logger = logging.getLogger(__name__)


def names_in_detector(
    state: Mapping[str, Tensor], model: nn.Module, path: str
) -> dict[str, Tensor] | None:
    """Return the weights of a classifier of timm under the names of a detector's backbone.

    Args:
        state: tensors by name, as a file holds them.
        model: the detector, or a backbone alone.
        path: the path of the file, for the message.

    Returns:
        None where the model has no network of timm, or the file is that of a detector.

    Raises:
        CheckpointError: the file is no detector's, and does not fill the network.
    """
    found = [(p, m) for p, m in model.named_modules() if isinstance(m, TimmBackbone)]
    whole = model.state_dict().keys()
    if len(found) != 1 or whole & without_prefix(state, whole)[0].keys():
        return None
    [(prefix, backbone)] = found
    wanted = {k: v for k, v in backbone.network.state_dict().items() if not k.endswith(_COUNTER)}
    plain, _ = without_prefix(state, wanted)
    if not wanted.keys() & plain.keys() and (renamed := _by_order(state, wanted)):
        logger.warning(
            f"{path} names the entries differently than timm's {backbone.name}. They are taken in "
            f"their order, in which all {len(wanted)} have the shape and kind that is wanted, from "
            f"{next(iter(state))} on"
        )
        plain = renamed
    misfits = [key for key in wanted if key not in plain or plain[key].shape != wanted[key].shape]
    if misfits:
        key = next((key for key in misfits if key in plain), misfits[0])
        shape = tuple(plain[key].shape) if key in plain else "missing"
        raise CheckpointError(
            f"{path} is neither a detector of this config nor timm's {backbone.name}: "
            f"{len(wanted) - len(misfits)} of {len(wanted)} entries of the network fit, others do "
            f"not, such as {key} ({shape} in the file, {tuple(wanted[key].shape)} wanted): give "
            "weights of the network that MODEL.TIMM.NAME names"
        )
    prefix = f"{prefix}.network." if prefix else "network."
    return {prefix + key: plain[key] for key in wanted}


def _by_order(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Return the first entries of a file under the names wanted, where all of them correspond.

    Other programs define the layers of a network in the order in which timm does, under names
    of their own (EfficientNet-Lite). What follows, such as a classifier, is left out.

    Returns:
        None where an entry has another shape or another last part of its name (``weight``).
    """
    entries = [(k, v) for k, v in state.items() if not k.endswith(_COUNTER)]
    pairs = list(zip(wanted.items(), entries, strict=False))
    fits = len(pairs) == len(wanted) and all(
        key.rpartition(".")[2] == other.rpartition(".")[2] and value.shape == found.shape
        for (key, value), (other, found) in pairs
    )
    return {key: found for (key, _), (_, found) in pairs} if fits else None
