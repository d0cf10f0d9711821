"""Folders and .zip files of images, in memory and from disk, and their mistakes."""

import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from pcka.classification.config_sections import DataConfig
from pcka.classification.data import build_data
from pcka.classification.data.files import FileTrainLoader
from pcka.classification.data.tensors import TensorTrainLoader
from pcka.errors import ConfigError

CLASSES = ("ant", "bee", "cat")


def picture(seed, size=(12, 12), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def folder(tmp_path):
    """Write three classes with 4 images each to train and 2 to evaluate, of several file types."""
    root = tmp_path / "images"
    for split, count in (("train", 4), ("test", 2)):
        for number, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                suffix = (".png", ".webp", ".bmp", ".PNG")[i]
                mode = "L" if i == 2 else "RGB"
                path = root / split / name / f"{i}{suffix}"
                picture(100 * number + i, mode=mode).save(path, lossless=True)
    (root / "train" / "ant" / "notes.txt").write_text("not an image")
    (root / "train" / "ant" / "._0.png").write_text("what a Mac leaves behind")
    return root


def pack(root):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return path


def build(root, *, batch_size=4, rank=0, world_size=1, seed=1, **changes):
    cfg = DataConfig(**{"name": "folder", "root": str(root), "workers": 0, **changes})
    return build_data(
        cfg, batch_size=batch_size, seed=seed, device="cpu", rank=rank, world_size=world_size
    )


def same(a, b):
    a, b = list(a), list(b)
    assert len(a) == len(b) > 0
    for (x, y), (u, v) in zip(a, b, strict=True):
        assert torch.equal(x, u) and torch.equal(y, v)


def test_pixels_and_labels_are_imagefolders(folder):
    (folder / "train" / "ant" / "._0.png").unlink()  # ImageFolder would read it as an image
    data = build(folder)
    expected = ImageFolder(folder / "train")
    assert data.classes == tuple(expected.classes) == CLASSES and data.image_size == 12
    assert data.train.labels.tolist() == expected.targets
    for pixels, (image, _) in zip(data.train.images, expected, strict=True):
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))
    assert data.val.samples == 6


def test_a_zip_is_the_same_data(folder):
    a, b = build(folder), build(pack(folder))
    assert a.classes == b.classes
    same(a.train.epoch(0), b.train.epoch(0))
    same(a.val.epoch(0), b.val.epoch(0))


def test_image_size_resizes_and_cuts(folder):
    picture(1, size=(40, 20)).save(folder / "train" / "ant" / "0.png")
    with pytest.raises(ConfigError, match=r"ant/0.png has 40x20 pixels: set data.image_size"):
        build(folder)
    Image.new("RGB", (30, 20), (9, 9, 9)).save(folder / "train" / "ant" / "0.png")
    data = build(folder, image_size=6)
    assert data.train.images.shape == (12, 3, 6, 6)
    assert (data.train.images[0] == 9).all()


def test_another_size_names_the_file(folder):
    picture(1, size=(13, 12)).save(folder / "test" / "bee" / "1.webp", lossless=True)
    with pytest.raises(ConfigError, match=r"test/bee/1.webp has 13x12 pixels, others 12x12"):
        build(folder)


def test_val_goes_before_test(folder):
    shutil.copytree(folder / "test", folder / "val")
    (folder / "val" / "cat" / "1.webp").unlink()
    assert build(folder).val.samples == 5


def test_holdout_needs_no_test_images(folder):
    shutil.rmtree(folder / "test")
    for memory in (2048, 0):
        data = build(folder, holdout=0.25, memory_mb=memory)
        assert (data.train.samples, data.val.samples) == (9, 3)
        assert [y for _, labels in data.val.epoch(0) for y in labels.tolist()] == [0, 1, 2]


def test_from_disk_where_memory_is_short(folder):
    assert isinstance(build(folder).train, TensorTrainLoader)
    data = build(folder, memory_mb=0)
    assert isinstance(data.train, FileTrainLoader) and data.image_size == 12
    assert len(data.train) == 3 and data.train.samples == 12
    labels = torch.cat([y for _, y in data.train.epoch(0)])
    assert labels.bincount().tolist() == [4, 4, 4]
    pixels = torch.cat([x for x, _ in data.val.epoch(0)])
    assert pixels.shape == (6, 3, 12, 12) and pixels.dtype == torch.float32
    with pytest.raises(ConfigError, match=r"more than data.memory_mb 0: raise it, or extract"):
        build(pack(folder), memory_mb=0)


def test_from_disk_a_batch_follows_from_seed_epoch_and_number(folder):
    whole = list(build(folder, memory_mb=0).train.epoch(3))
    loader = build(folder, memory_mb=0).train
    list(loader.epoch(0))
    torch.manual_seed(77)
    before = torch.get_rng_state()
    same(loader.epoch(3, first_batch=1), whole[1:])
    assert torch.equal(torch.get_rng_state(), before)
    ranks = [build(folder, memory_mb=0, rank=r, world_size=2).train.epoch(3) for r in range(2)]
    shares = zip(*ranks, strict=True)
    same(((torch.cat(x), torch.cat(y)) for x, y in (zip(*s, strict=True) for s in shares)), whole)


def test_from_disk_every_epoch_and_image_is_cut_at_its_own_place(folder):
    for name in CLASSES:  # equal pixels in all files, so that only random draws differ
        for file in (folder / "train" / name).glob("?.*"):
            picture(0, size=(96, 96)).save(file, lossless=True)
    cuts = [
        image.numpy().tobytes()
        for epoch in range(2)
        for pixels, _ in build(folder, memory_mb=0, image_size=32).train.epoch(epoch)
        for image in pixels
    ]
    assert len(set(cuts)) == len(cuts) == 24


def test_workers_change_nothing(folder):
    loader = build(folder, memory_mb=0, workers=2).train
    whole = list(build(folder, memory_mb=0).train.epoch(0))
    next(iter(loader.epoch(7)))  # left in the middle
    same(loader.epoch(0), whole)


def test_skipped_images_are_not_decoded(folder):
    loader = build(folder, memory_mb=0).train
    batches = list(loader.epoch(0))
    opened = []
    tree = loader._loader.dataset.tree
    tree.open = lambda name, read=tree.open: opened.append(name) or read(name)
    list(loader.epoch(0, first_batch=len(batches) - 1))
    assert len(opened) == 4


def test_imagenet(folder):
    data = build(folder, name="imagenet", image_size=8)
    pixels, _ = next(iter(data.val.epoch(0)))
    image = picture(0).resize((9, 9), Image.Resampling.BILINEAR)  # round(8 * 256 / 224)
    crop = torch.from_numpy(np.asarray(image).transpose(2, 0, 1)[:, :8, :8].copy())
    torch.testing.assert_close(pixels[0], data.val.normalize(crop[None])[0], rtol=0, atol=0.05)
    with pytest.raises(ConfigError, match="is a file: extract it"):
        build(pack(folder), name="imagenet")


def break_nothing_there(root):
    return root / "nowhere"


def break_no_train(root):
    return root / "train"


def break_no_val(root):
    shutil.rmtree(root / "test")


def break_strange_class(root):
    (root / "test" / "dog").mkdir()
    picture(0).save(root / "test" / "dog" / "0.png")


def break_empty_class(root):
    for file in (root / "train" / "bee").iterdir():
        file.unlink()


def break_flat_val(root):
    picture(0).save(root / "test" / "0.png")


def break_cut_image(root):
    path = root / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:100])


def break_cut_zip(root):
    path = pack(root)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def break_zip_member(root):
    path = pack(root)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("train/cat/1.webp").header_offset
    content[start + 60] ^= 0xFF
    path.write_bytes(content)
    return path


def break_wrapped_zip(root):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in root.rglob("*.*"):
            archive.write(file, file.relative_to(root.parent))
    return path


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_nothing_there, "data.root .*nowhere does not exist"),
        (
            break_no_train,
            "has no folders train/<class>/ with images. At its top there is: ant, bee",
        ),
        (break_no_val, "no folder val or test .* data.holdout"),
        (break_strange_class, "images/test has classes that train lacks: dog"),
        (break_empty_class, "images/train has class folders without images: bee"),
        (break_flat_val, r"test/0.png lies beside the class folders"),
        (break_cut_image, r"train/cat/0.png is not an image that can be read"),
        (break_cut_zip, "images.zip is not a complete .zip file"),
        (break_zip_member, r"images.zip/train/cat/1.webp is not an image that can be read"),
        (break_wrapped_zip, "At its top there is: images. It must hold"),
    ],
)
def test_what_is_wrong_is_named(folder, damage, words):
    root = damage(folder) or folder
    with pytest.raises(ConfigError, match=words):
        build(root)


# torch waits 5 s for a worker that has raised.
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_damaged_image_on_disk_is_named_when_it_is_read(folder, workers):
    data = build(folder, memory_mb=0, workers=workers)
    break_cut_image(folder)
    with pytest.raises(ConfigError, match=r"train/cat/0.png is not an image") as error:
        list(data.train.epoch(0))
    assert "\n" not in str(error.value)


def test_a_class_that_is_not_evaluated_is_only_noted(folder, caplog):
    shutil.rmtree(folder / "test" / "cat")
    assert build(folder).val.samples == 4
    assert "has no images of cat" in caplog.text
