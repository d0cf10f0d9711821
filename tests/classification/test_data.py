"""Batches: the same at every start and on every number of processes, cropped as a loop would."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from pcka.classification.config_sections import DataConfig
from pcka.classification.data import build_data
from pcka.classification.data.batches import generator, split_per_class, train_spans
from pcka.classification.data.digits import read_digits
from pcka.classification.data.tensors import (
    ImageSet,
    Normalize,
    TensorEvalLoader,
    TensorTrainLoader,
    crop_and_mirror,
    draw,
)
from pcka.errors import ConfigError

STATISTICS = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "device": "cpu"}


@pytest.fixture(scope="module")
def images():
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 3, 8, 8), generator=chance, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(50))


def train_loader(images, **changes):
    options = {"batch_size": 8, "padding": 2, "flip": True, "seed": 3, **STATISTICS, **changes}
    return TensorTrainLoader(images, **options)


def equal(a, b):
    a, b = list(a), list(b)
    return len(a) == len(b) and all(
        torch.equal(x, y)
        for left, right in zip(a, b, strict=True)
        for x, y in zip(left, right, strict=True)
    )


def test_crops_and_mirrors_as_a_loop_does(images):
    draws = draw(50, padding=2, flip=True, generator=generator(1))
    out = crop_and_mirror(images.images, draws, padding=2)
    for i, image in enumerate(images.images.numpy()):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        top, left, mirror = (int(d[i]) for d in draws)
        crop = padded[:, top : top + 8, left : left + 8]
        assert np.array_equal(out[i].numpy(), crop[:, :, ::-1] if mirror else crop)


def test_images_that_are_not_square():
    image = torch.arange(1, 7, dtype=torch.uint8).view(1, 1, 2, 3)
    draws = draw(1, padding=1, flip=False, generator=generator(0))._replace(
        top=torch.tensor([2]), left=torch.tensor([0])
    )
    expected = [[0, 4, 5], [0, 0, 0]]
    assert crop_and_mirror(image, draws, padding=1)[0, 0].tolist() == expected


def test_draws_are_uniform_and_independent():
    top, left, mirror = draw(90_000, padding=4, flip=True, generator=generator(0))
    counts = torch.stack([top.bincount(minlength=9), left.bincount(minlength=9)])
    assert counts.shape == (2, 9)
    # 10,000 expected; the standard deviation is 94.
    assert (counts - 10_000).abs().max() < 450
    both = torch.stack([top, left, mirror]).double()
    assert both.corrcoef().fill_diagonal_(0).abs().max() < 0.015
    assert abs(mirror.double().mean() - 0.5) < 0.008
    assert not draw(1000, padding=0, flip=False, generator=generator(0)).mirror.any()


def test_normalize_is_torchvisions():
    from torchvision.transforms import v2

    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    mean, std = STATISTICS["mean"], STATISTICS["std"]
    expected = v2.functional.normalize(pixels.double() / 255, mean, std)
    out = Normalize(mean, std, "cpu")(pixels)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-6)


def test_an_epoch_has_every_image_once_and_keeps_the_last_batch(images):
    batches = list(train_loader(images).epoch(0))
    assert [len(labels) for _, labels in batches] == [8] * 6 + [2]
    assert len(train_loader(images)) == 7 and train_loader(images).samples == 50
    assert torch.cat([labels for _, labels in batches]).sort().values.tolist() == list(range(50))


def test_labels_stay_with_their_images(images):
    loader = train_loader(images, padding=0, flip=False)
    for pixels, labels in loader.epoch(5):
        assert torch.equal(pixels, loader.normalize(images.images[labels]))


def test_a_batch_follows_from_seed_epoch_and_number(images):
    whole = list(train_loader(images).epoch(4))
    loader = train_loader(images)
    list(loader.epoch(0))
    torch.manual_seed(99)
    assert equal(loader.epoch(4, first_batch=5), whole[5:])
    assert not list(loader.epoch(4, first_batch=7))
    assert not equal(loader.epoch(3), whole)
    assert not equal(train_loader(images, seed=4).epoch(4), whole)


def test_the_global_generator_is_left_alone(images):
    before = torch.get_rng_state()
    list(train_loader(images).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world_size", [2, 4])
def test_shares_make_up_the_batch_of_one_process(images, world_size):
    options = {"world_size": world_size}
    ranks = [train_loader(images, rank=r, **options).epoch(2) for r in range(world_size)]
    single = list(train_loader(images).epoch(2))
    parts = list(zip(*ranks, strict=True))
    for shares, (pixels, labels) in zip(parts, single, strict=False):
        kept = sum(len(y) for _, y in shares)
        assert len({len(y) for _, y in shares}) == 1
        assert kept == len(labels) - len(labels) % world_size
        assert torch.equal(torch.cat([x for x, _ in shares]), pixels[:kept])
        assert torch.equal(torch.cat([y for _, y in shares]), labels[:kept])
    # The last batch of 2 is dropped where 4 processes cannot share it.
    assert len(parts) == len(train_loader(images, **options)) == (7 if world_size == 2 else 6)


def test_evaluation_has_every_image_once_over_all_processes(images):
    seen = []
    for rank in range(3):
        loader = TensorEvalLoader(images, batch_size=7, rank=rank, world_size=3, **STATISTICS)
        batches = list(loader.epoch(0))
        assert len(loader) == len(batches) and loader.samples == 50
        assert equal(loader.epoch(1, first_batch=1), batches[1:])
        for pixels, labels in batches:
            assert torch.equal(pixels, loader.normalize(images.images[labels]))
            seen += labels.tolist()
    assert sorted(seen) == list(range(50))


def test_spans():
    assert train_spans(10, 4, 1) == [(0, 4), (4, 8), (8, 10)]
    assert train_spans(11, 4, 2) == [(0, 4), (4, 8), (8, 10)]
    assert train_spans(9, 4, 2) == [(0, 4), (4, 8)]
    assert train_spans(3, 64, 1) == [(0, 3)]
    with pytest.raises(ConfigError, match=r"train.batch_size 6 .* multiple of 4"):
        train_spans(100, 6, 4)


def test_split_is_stratified_disjoint_and_fixed():
    labels = torch.tensor([0] * 40 + [1] * 10 + [2] * 2).roll(7)
    kept, held = split_per_class(labels, 0.2)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(52))
    assert Counter(labels[held].tolist()) == {0: 8, 1: 2, 2: 1}
    torch.manual_seed(5)
    assert torch.equal(split_per_class(labels.tolist(), 0.2)[1], held)
    with pytest.raises(ConfigError, match=r"two training images of every class; class 1 has one"):
        split_per_class([0, 0, 1], 0.5)


def test_digits():
    train, test, classes = read_digits()
    assert classes == tuple("0123456789")
    assert (len(train.images), len(test.images)) == (1438, 359)
    assert train.images.shape[1:] == (3, 32, 32) and train.images.dtype == torch.uint8
    assert train.images.max() == 255
    grey = train.images.double() / 255
    default = DataConfig()
    assert abs(grey.mean() - default.mean[0]) < 0.002 and abs(grey.std() - default.std[0]) < 0.002


def test_holdout_never_sees_the_test_images():
    options = {"batch_size": 100, "seed": 1, "device": "cpu"}
    whole = build_data(DataConfig(), **options)
    tuned = build_data(DataConfig(holdout=0.25), **options)
    assert (whole.train.samples, whole.val.samples) == (1438, 359)
    assert tuned.train.samples + tuned.val.samples == 1438
    assert abs(tuned.val.samples - 1438 / 4) <= 5
    assert whole.image_size == 32 and len(whole.classes) == 10

    def rows(pixels):
        return {image.numpy().tobytes() for image in pixels}

    everything = rows(whole.train.images)
    assert rows(tuned.train.images) | rows(tuned.val.images) == everything
    assert not rows(tuned.val.images) & rows(whole.val.images)


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch):
    """Write both data sets with 20 images per file, in the published format."""
    chance = np.random.default_rng(0)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    for reader, key, classes in ((CIFAR10, "labels", 10), (CIFAR100, "fine_labels", 100)):
        folder = tmp_path / reader.base_folder
        folder.mkdir()
        for name, _ in [*reader.train_list, *reader.test_list]:
            content = {
                "data": chance.integers(0, 256, (20, 3072), dtype=np.uint8),
                key: [i % classes for i in range(20)],
            }
            (folder / name).write_bytes(pickle.dumps(content))
        names = {reader.meta["key"]: [f"class {i}" for i in range(classes)]}
        (folder / reader.meta["filename"]).write_bytes(pickle.dumps(names))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "samples", "classes"), [("cifar10", 100, 10), ("cifar100", 20, 100)]
)
def test_cifar(tiny_cifar, name, samples, classes):
    cfg = DataConfig(name=name, root=str(tiny_cifar), crop_padding=0, flip=False)
    data = build_data(cfg, batch_size=10, seed=0, device="cpu")
    assert (data.train.samples, data.val.samples, len(data.classes)) == (samples, 20, classes)
    assert data.image_size == 32
    reader = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name](tiny_cifar, train=False)
    pixels, labels = next(data.val.epoch(0))
    first = torch.from_numpy(reader.data[0]).permute(2, 0, 1).double() / 255
    expected = (first - torch.tensor(cfg.mean).view(3, 1, 1)) / torch.tensor(cfg.std).view(3, 1, 1)
    torch.testing.assert_close(pixels[0].double(), expected, rtol=0, atol=1e-5)
    assert labels.tolist() == reader.targets[:10]


def test_cifar_that_is_not_there(tmp_path):
    cfg = DataConfig(name="cifar100", root=str(tmp_path))

    def words():
        with pytest.raises(ConfigError) as info:
            build_data(cfg, batch_size=10, seed=0, device="cpu")
        return str(info.value)

    folder = tmp_path / "cifar-100-python"
    assert f"{folder} is missing. Set data.root" in words()
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"")
    assert f"tar -xzf {tmp_path}/cifar-100-python.tar.gz -C {tmp_path}" in words()
    folder.mkdir()
    (folder / "train").write_bytes(b"half")
    assert f"{folder} lacks test, meta: remove it and extract" in words()
    for name in ("test", "meta"):
        (folder / name).write_bytes(b"half")
    assert f"{folder} holds damaged files" in words()
