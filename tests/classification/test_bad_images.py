"""Images that would be read wrongly, and folders that are not sets of images."""

import io
import os
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
from classifier_runs import CPU, add_tiny_models, make_config, noise_images
from PIL import Image

from pcka.classification.building import build_distiller, build_run_data
from pcka.classification.data import files
from pcka.errors import ConfigError


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Return ``build(memory_mb, **data)``: data of a folder of noise in ``tmp_path / data``."""
    add_tiny_models(monkeypatch)
    noise_images(tmp_path / "data", 4)

    def build(memory=2048, name="data", **data):
        entry = {"name": "folder", "root": str(tmp_path / name), "workers": 0, "memory_mb": memory}
        return build_run_data(make_config(tmp_path / "run", {"data": {**entry, **data}}), CPU)

    return build


RAMP = np.linspace(0, 1, 64).reshape(8, 8)
DEEP = {
    "16.png": (RAMP * 65535).astype(np.uint16),
    "12.png": (RAMP * 4095).astype(np.uint16),
    "16.tif": (RAMP * 65535).astype(np.uint16),
    "big.tif": (RAMP * 65535).astype(">u2"),
    "16.pgm": (RAMP * 65535).astype(np.uint16),
    "int.tif": (RAMP * 65535).astype(np.int32),
    "unit.tif": RAMP.astype(np.float32),
    "float.tif": (RAMP * 255).astype(np.float32),
}


@pytest.mark.parametrize("memory", [2048, 0])
@pytest.mark.parametrize("name", DEEP)
def test_more_than_eight_bits(build, tmp_path, name, memory):
    Image.fromarray(DEEP[name]).save(tmp_path / "data" / "train" / "a" / name)
    words = rf"train/a/{name} has more than 8 bits a channel.*convert them: a = numpy"
    with pytest.raises(ConfigError, match=words):
        build(memory)


def giant_png():
    """Return a PNG whose header says 50,000 x 50,000 pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def cut_jpeg():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(
        file, "JPEG"
    )
    return file.getvalue()[:-40]


@pytest.mark.parametrize("memory", [2048, 0])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (giant_png(), "more pixels than Pillow opens"),
        (cut_jpeg(), "is not an image that can be read .image file is truncated"),
        (b"", "its format is none that Pillow knows"),
        (b"<!DOCTYPE html><html>", "its format is none that Pillow knows"),
    ],
)
def test_damaged_and_giant_images(build, tmp_path, content, words, memory):
    (tmp_path / "data" / "train" / "b" / "1.png").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"train/b/1\.png.*{words}") as error:
        build(memory)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("memory", [2048, 0])
def test_an_orientation_is_named(build, tmp_path, caplog, memory):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "data" / "train" / "a" / "turned.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    build(memory)
    assert "1 image(s), such as train/a/turned.jpg, have an EXIF orientation" in caplog.text
    for odd in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff", b"x"):  # not an orientation
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / "train" / "a" / "odd.jpg", exif=odd)
        assert build(memory).train.samples == 10
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    if memory:
        with pytest.raises(ConfigError, match=r"8x4 pixels before its EXIF orientation, which is"):
            build(memory)


def packed(root, **options):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", **options) as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
    return path


def patch_members(path, offset, value):
    """Set two bytes in every entry of the directory of a .zip file."""
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + offset : at + offset + 2] = struct.pack("<H", value)
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)


def test_zip_files_that_python_does_not_read(build, tmp_path):
    root = tmp_path / "data"
    assert build(name=packed(root).name).train.samples == 8
    for offset, value, words in ((8, 1, "encrypted"), (10, 9, r"method 9 .Deflate64 is 9")):
        path = packed(root)
        patch_members(path, offset, value)
        with pytest.raises(ConfigError, match=rf"data\.zip is .*{words}.*extract"):
            build(name=path.name)
    with zipfile.ZipFile(path, "w") as archive:
        for file in root.rglob("*.png"):
            member = zipfile.ZipInfo("x")
            member.filename = str(file.relative_to(root)).replace("/", "\\")
            archive.writestr(member, file.read_bytes())
    with pytest.raises(ConfigError, match=r"data\.zip has backslashes in its names"):
        build(name=path.name)


def one_class(data):
    for split in ("train", "val"):
        shutil.rmtree(data / split / "b")


def one_level_too_deep(data):
    (data / "train" / "animals").mkdir()
    for name in ("a", "b"):
        shutil.move(data / "train" / name, data / "train" / "animals" / name)


def a_link_in_a_circle(data):
    (data / "train" / "a" / "up").symlink_to(data / "train")


def a_link_to_itself_above(data):
    (data / "val" / "b" / "again").symlink_to("..")


def a_pipe(data):
    os.mkfifo(data / "train" / "a" / "pipe.png")


def other_name_of_val(data):
    (data / "val").rename(data / "validation")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_class, "data/train has one class folder, a: a classifier needs two"),
        (one_level_too_deep, r"animals holds no images, but the folders a, b: .* level too deep"),
        (a_link_in_a_circle, "train/a/up is a link that leads back to a folder above it"),
        (a_link_to_itself_above, "val/b/again is a link that leads back"),
        (a_pipe, r"pipe\.png is no file, but a pipe"),
        (other_name_of_val, r"no folder val or test beside train \(found: train, validation\)"),
    ],
)
def test_folders_that_are_no_classes(build, tmp_path, change, words):
    change(tmp_path / "data")
    with pytest.raises(ConfigError, match=words):
        build()


def test_folders_that_are_fine(build, tmp_path):
    data = tmp_path / "data"
    (data / "test").mkdir()
    shutil.copy(data / "val" / "a" / "0.png", data / "test" / "unlabelled.png")
    (data / "train" / "a" / "images").mkdir()  # as in Tiny ImageNet
    for file in (data / "train" / "a").glob("*.png"):
        file.rename(file.parent / "images" / file.name)
    (data / "train" / "c").symlink_to(data / "train" / "b")  # a link that is no circle
    assert build().train.samples == 12


@pytest.mark.parametrize("name", ["x.gif", "x.HEIC", "x.avif", "x.npy"])
def test_images_of_a_kind_that_is_not_read_are_named(build, tmp_path, caplog, name):
    (tmp_path / "data" / "train" / "a" / name).touch()
    build()
    assert f"1 image(s) of a kind that is not read are left out, such as train/a/{name}" in (
        caplog.text
    )


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_images_that_a_network_cannot_take(tmp_path, build, side):
    data = build()
    name = "torchvision:vit_b_16"  # takes 224 pixels alone
    tree = {"student": {"name": "tiny"}, "terms": [], side: {"name": name}}
    if side == "teacher":
        tree["terms"] = [{"name": "kd", "features": ["logits"], "loss": "KD"}]
        tree["teacher"]["weights"] = str(tmp_path / "none.pth")
    cfg = make_config(tmp_path / "run", tree)
    with pytest.raises(ConfigError, match=rf"{side}\.name {name} cannot take images of 8x8 pixels"):
        build_distiller(cfg, data, CPU)


def test_elongated_images_are_cut_before_they_are_resized(build, tmp_path, monkeypatch):
    pixels = np.zeros((3, 20_000, 3), dtype=np.uint8)
    pixels[:, 9_990:10_010] = 255  # the middle is white
    Image.fromarray(pixels).save(tmp_path / "data" / "val" / "a" / "long.png")
    widths = []
    resize = files.v2.functional.resize
    monkeypatch.setattr(
        files.v2.functional, "resize", lambda i, s: (widths.append(i.size), resize(i, s))[1]
    )
    data = build(image_size=224)
    assert max(map(max, widths)) == 8 and (6, 3) in widths
    assert any((image == 255).all() for image in data.val.images)
