"""The training stream: shuffling, augmentation seeds, and its continuation after a stop."""

import io
import itertools

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler

from pcka.detection import Trainer
from pcka.detection.engine.stream import TrainingStream, random_state, set_random_state

DICTS = [{"file_name": str(i), "height": 10, "width": 10 + (i % 3 != 0)} for i in range(11)]


def mapper(d):
    """Draw random numbers from the generators that augmentations use."""
    d["draw"] = (np.random.rand(), torch.rand(1).item())
    return d


def batches(count, *, workers=0, group=True, batch_size=2, skip=0, seed=5):
    stream = TrainingStream(
        DICTS, mapper, seed=seed, batch_size=batch_size, group_by_aspect=group, skip_steps=skip
    )
    loader = build_detection_train_loader(
        stream,
        mapper=None,
        total_batch_size=batch_size,
        aspect_ratio_grouping=group,
        num_workers=workers,
        seed=seed,
    )
    taken = itertools.islice(loader, count)
    return [[(x["file_name"], x["draw"]) for x in batch] for batch in taken]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_goes_on_where_it_stopped(workers, group, batch_size):
    options = {"group": group, "batch_size": batch_size}
    straight = batches(14, **options)
    for skip in (0, 1, 5, 9):
        resumed = batches(14 - skip, workers=workers, skip=skip, **options)
        assert resumed == straight[skip:], skip


def test_same_order_as_detectron2s_sampler():
    ours = [name for batch in batches(20, batch_size=1, group=False) for name, _ in batch]
    theirs = [str(i) for i in itertools.islice(TrainingSampler(len(DICTS), seed=5), 20)]
    assert ours == theirs


def test_every_epoch_is_complete_and_draws_anew():
    drawn = [x for batch in batches(22, batch_size=1, group=False) for x in batch]
    first, second = drawn[:11], drawn[11:]
    assert sorted(n for n, _ in first) == sorted(n for n, _ in second)
    assert len({d for _, d in drawn}) == 22


def test_groups_wide_and_tall_apart():
    shapes = {d["file_name"]: d["width"] > d["height"] for d in DICTS}
    for batch in batches(20):
        assert len({shapes[name] for name, _ in batch}) == 1


def test_random_state_round_trip_and_isolation():
    state = random_state()
    before = (np.random.rand(), torch.rand(1).item())
    set_random_state(state)
    batches(3)
    assert (np.random.rand(), torch.rand(1).item()) == before
    # A checkpoint holds this state, and torch's safe loader has to read it.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    set_random_state(torch.load(buffer, weights_only=True))
    assert (np.random.rand(), torch.rand(1).item()) == before


def test_detectron2s_augmentations_are_seeded_too(tiny):
    cfg = tiny()
    first = next(iter(Trainer.build_train_loader(cfg, seed=3)))
    np.random.rand(5)
    second = next(iter(Trainer.build_train_loader(cfg, seed=3)))
    assert [x["file_name"] for x in first] == [x["file_name"] for x in second]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True))


def test_a_dropped_sample_is_an_error():
    stream = TrainingStream(DICTS, lambda d: None, seed=0, batch_size=1, group_by_aspect=False)
    with pytest.raises(RuntimeError, match="dropped"):
        next(iter(stream))
