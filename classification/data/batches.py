"""The images of a batch: order, shares of processes, seeds, and the held-out split.

Everything here is a function of its arguments alone, so that a run can be taken up at any batch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pcka.errors import ConfigError

_HOLDOUT_SEED = 2024  # its own, so that runs of different seeds are tuned on the same images


def seed_of(*key: int) -> int:
    """Mix whole numbers such as (seed, epoch) into a seed for a generator."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*key: int) -> torch.Generator:
    """Make a CPU generator that is a function of ``key``."""
    return torch.Generator().manual_seed(seed_of(*key))


def train_spans(samples: int, batch_size: int, world_size: int) -> list[tuple[int, int]]:
    """Return ``[start, stop)`` of every global batch in the order of an epoch.

    The last, partial batch is kept. Between several processes it is cut to a multiple of their
    number: their shares then have one size, which gathered Gram matrices need.

    Raises:
        ConfigError: ``batch_size`` does not divide among the processes.
    """
    if batch_size % world_size:
        raise ConfigError(
            f"train.batch_size {batch_size} is that of all processes together and does not divide "
            f"among {world_size}: take a multiple of {world_size}"
        )
    end = samples - samples % batch_size % world_size
    return [(start, min(start + batch_size, end)) for start in range(0, end, batch_size)]


def share_of(span: tuple[int, int], rank: int, world_size: int) -> slice:
    """Return the part of a global batch that process ``rank`` takes."""
    start, stop = span
    size = (stop - start) // world_size
    return slice(start + rank * size, start + (rank + 1) * size)


def split_per_class(labels: Sequence[int] | Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Split into two disjoint sets of indices, the second with ``fraction`` of every class.

    The same call gives the same split, whatever the seed of the run.

    Args:
        labels: class of every image, ``(N,)``.
        fraction: a number in (0, 1); each class gives at least one image and keeps at least one.

    Returns:
        sorted indices ``(N - M,)`` and ``(M,)``.

    Raises:
        ConfigError: a class has one image.
    """
    classes = torch.as_tensor(labels)
    draws = generator(_HOLDOUT_SEED)
    kept, held = [], []
    for label in classes.unique():
        members = (classes == label).nonzero().flatten()
        if len(members) < 2:
            raise ConfigError(
                f"data.holdout needs two training images of every class; class {int(label)} has one"
            )
        members = members[torch.randperm(len(members), generator=draws)]
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held.append(members[:count])
        kept.append(members[count:])
    return torch.cat(kept).sort().values, torch.cat(held).sort().values
