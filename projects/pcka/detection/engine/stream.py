"""A stream of training images that a resumed run continues where it stopped.

detectron2's loader starts from the first image after a resume, and draws augmentations from
worker processes whose random state no checkpoint holds. Here every draw is a function of
(seed, position in the stream), and a resumed loader starts at the right position.
"""

import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import IterableDataset, get_worker_info


class TrainingStream(IterableDataset):
    """Endless mapped samples, shuffled per epoch as detectron2's ``TrainingSampler`` does.

    Args:
        dicts: data set dictionaries in detectron2's format.
        mapper: dictionary -> training sample; its random draws are seeded per sample.
        seed: determines shuffling and augmentation; equal on all processes.
        batch_size: images per process and step.
        group_by_aspect: whether the loader batches wide and tall images apart, on which depends
            how many images a number of steps has consumed.
        skip_steps: training steps that are done already.
    """

    def __init__(
        self,
        dicts: list[dict],
        mapper: Callable[[dict], dict],
        *,
        seed: int,
        batch_size: int,
        group_by_aspect: bool,
        skip_steps: int = 0,
    ):
        self.dicts = DatasetFromList(dicts, copy=True)
        self.sizes = np.array([(d["height"], d["width"]) for d in dicts])
        self.fingerprint = _fingerprint(dicts)
        self.mapper = mapper
        self.seed = seed
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()
        # With grouping, workers deliver single samples; without it, whole batches.
        self._chunk = 1 if group_by_aspect else batch_size
        self._waiting, self._start = self._replay(skip_steps, batch_size, group_by_aspect)

    def positions(self) -> Iterator[tuple[int, int]]:
        """Yield ``(position, index)`` of this process's share of the stream, from the beginning."""
        shuffle = torch.Generator()
        shuffle.manual_seed(self.seed)
        epochs = (torch.randperm(len(self.sizes), generator=shuffle).tolist() for _ in iter(int, 1))
        stream = enumerate(itertools.chain.from_iterable(epochs))
        return itertools.islice(stream, self.rank, None, self.world_size)

    def _replay(
        self, steps: int, batch_size: int, group_by_aspect: bool
    ) -> tuple[list[tuple[int, int]], int]:
        """Return what ``steps`` steps left waiting in half-full batches, and how many they drew."""
        if not steps:
            return [], 0
        buckets: tuple[list, list] = ([], [])
        done = 0
        for drawn, (position, index) in enumerate(self.positions(), start=1):
            height, width = self.sizes[index]
            bucket = buckets[0 if group_by_aspect and width > height else 1]
            bucket.append((position, index))
            if len(bucket) == batch_size:
                bucket.clear()
                done += 1
            if done == steps:
                return sorted(buckets[0] + buckets[1]), drawn
        raise AssertionError("the stream is endless")

    def __iter__(self) -> Iterator[dict]:
        rest = itertools.islice(self.positions(), self._start, None)
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for turn, (position, index) in enumerate(itertools.chain(self._waiting, rest)):
            # The loader asks its workers in turn, so they share the stream in its order.
            if turn // self._chunk % workers != worker:
                continue
            with _seeded(self.seed, position):
                sample = self.mapper(self.dicts[index])
            if sample is None:
                raise RuntimeError(f"the mapper dropped {self.dicts[index]['file_name']}")
            yield sample


def _fingerprint(dicts: list[dict]) -> dict:
    """Return what identifies training data wherever it lies: names and numbers of annotations."""
    entries = (
        f"{os.path.basename(d['file_name'])} {len(d.get('annotations', ()))}\n" for d in dicts
    )
    digest = hashlib.sha256("".join(entries).encode()).hexdigest()
    return {"images": len(dicts), "digest": digest}


class _seeded:
    """A context with random state derived from ``(seed, position)``, restored afterwards."""

    def __init__(self, seed: int, position: int):
        self.seed = np.random.SeedSequence([seed, position]).generate_state(1)[0].item()

    def __enter__(self):
        self.saved = random_state()
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.random.default_generator.manual_seed(self.seed)

    def __exit__(self, *exc):
        set_random_state(self.saved)


def random_state() -> dict:
    """Return the state of the CPU generators as tensors and plain values, which load safely."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [
            name,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.random.default_generator.get_state(),
    }


def set_random_state(state: dict) -> None:
    """Restore what :func:`random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.random.default_generator.set_state(state["torch"])
