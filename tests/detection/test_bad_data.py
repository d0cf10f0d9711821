"""Mistakes in a user's own COCO data, and the messages that they get before training starts."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detector_runs import train
from detectron2.config import get_cfg
from detectron2.data.detection_utils import read_image
from PIL import Image, ImageOps
from pycocotools import mask as mask_codes

from pcka.detection import ConfigError, add_pcka_config
from pcka.detection.checks.preflight import check_run
from pcka.detection.data.coco_json import register_coco_json
from pcka.errors import RunError


@pytest.fixture
def damaged(tmp_path, coco):
    """Return ``damaged(change)``: a config for a copy of the data with its json changed."""

    def make(change, classes=2):
        folder = tmp_path / "data"
        shutil.copytree(coco, folder)
        content = json.loads((folder / "instances.json").read_text())
        change(content, folder)
        (folder / "instances.json").write_text(json.dumps(content))
        cfg = get_cfg()
        add_pcka_config(cfg)
        cfg.MODEL.DEVICE = "cpu"
        cfg.MODEL.MASK_ON = True
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
        name = f"damaged_{tmp_path.name}"
        cfg.DATASETS.COCO_ROOT = str(folder)
        cfg.DATASETS.COCO_JSON = [{"NAME": name, "JSON": "instances.json", "IMAGES": "images"}]
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
        cfg.OUTPUT_DIR = str(tmp_path / "out")
        return cfg

    return make


def first(key, value):
    def change(content, folder):
        content["annotations"][0][key] = value

    return change


def images(edit):
    """Return a ``change`` that saves every image again by ``edit(image, path)``."""

    def change(content, folder):
        for path in (folder / "images").iterdir():
            with Image.open(path) as image:
                image.load()
            edit(image, path)

    return change


def each(edit):
    """Return a ``change`` that calls ``edit(annotation)``."""
    return lambda content, folder: [edit(a) for a in content["annotations"]]


def corners(annotation):
    x, y, w, h = annotation["bbox"]
    annotation["bbox"] = [x, y, x + w, y + h]


def oriented(orientation, turn_json=False):
    """Return a ``change`` to images with an EXIF orientation, and upright sizes in the JSON."""

    def change(content, folder):
        for entry in content["images"]:
            path = folder / "images" / entry["file_name"]
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.open(path).save(path, exif=exif)
            if turn_json:
                entry["width"], entry["height"] = entry["height"], entry["width"]
        if turn_json:
            for a in content["annotations"]:
                x, y, w, h = a["bbox"]
                a["bbox"] = [y, x, h, w]
                a["segmentation"] = [
                    [p[index + 1 - 2 * (index % 2)] for index in range(len(p))]
                    for p in a.get("segmentation") or []
                ]

    return change


def run_lengths(content, folder, change=lambda counts: counts):
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        height, width = sizes[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[y : y + h, x : x + w] = 1
        code = mask_codes.encode(mask)
        counts = change(code["counts"].decode())
        annotation["segmentation"] = {"size": list(code["size"]), "counts": counts}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c, f: os.remove(f / "images" / "4.png"), "1 image file.*missing: 4.png"),
        (lambda c, f: (f / "images" / "4.png").write_bytes(b"PNG?"), r"1 damaged .*: 4\.png"),
        (
            lambda c, f: (f / "images" / "4.png").write_bytes(
                (f / "images" / "4.png").read_bytes()[:3000]
            ),
            r"1 damaged .*: 4\.png: restore",
        ),
        (
            lambda c, f: Image.new("1", (20000, 10000)).save(f / "images" / "4.png"),
            r"more pixels than Pillow opens: 4\.png",
        ),
        (
            lambda c, f: c["images"][0].update(height=99),
            r"0\.png \(64x80, annotated 99x80\): correct height",
        ),
        (images(lambda i, p: i.convert("F").save(p, "TIFF")), r"more than 8 bits .*\(mode F\)"),
        (
            images(lambda i, p: Image.fromarray(np.asarray(i.convert("L"), np.uint16)).save(p)),
            r"9 image\(s\) of more than 8 bits .*I;16.*convert them: ",
        ),
        (oriented(6), r"EXIF orientation .*before it is turned: .*annotate the upright images"),
        (lambda c, f: c["images"][0].update(width="80"), r"image\(s\) with no width.*: 1 \('80'\)"),
        (lambda c, f: c["images"][0].update(file_name=5), "with no file_name or a wrong one"),
        (lambda c, f: c["images"].append({**c["images"][0]}), r"image id\(s\) used twice: 1"),
        (lambda c, f: c["images"].append("x"), "of images are no mappings"),
    ],
)
def test_images(damaged, change, words):
    with pytest.raises(ConfigError, match=words):
        check_run(damaged(change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (first("bbox", [3, 3, 0, 9]), r"1 box\(es\) without area .*: 1:"),
        (first("bbox", [3, 3, 9, -9]), r"1 box\(es\) without area .*: 1:"),
        (first("bbox", [500, 3, 9, 9]), r"1 box\(es\) outside their image .*: 1:"),
        (first("bbox", [-9, 3, 20, 9]), r"1 box\(es\) outside their image .*: 1:"),
        (first("bbox", [3, 3, 90, 9]), r"1 box\(es\) outside their image .*: 1:"),
        (first("bbox", [float("nan"), 3, 9, 9]), "no bbox .*four finite numbers"),
        (first("bbox", [3, 3, float("inf"), 9]), "no bbox .*four finite numbers"),
        (first("bbox", [True] * 4), "no bbox .*four finite numbers"),
        (first("bbox", [3, 3, 9]), "no bbox .*four finite numbers"),
        (first("bbox", "3 3 9 9"), "no bbox .*four finite numbers"),
        (each(corners), r"outside their image .*write \[left, top, right - left, bottom - top\]"),
        (each(lambda a: a.update(bbox=[0.1, 0.2, 0.3, 0.5])), "lie between 0 and 1 .*in pixels"),
        (each(lambda a: a.pop("area")), r"18 annotation\(s\) with no area .*: 1 \(absent\), 2"),
        (first("area", None), r"no area .*: 1 \(None\)"),
        (first("area", "100"), r"no area .*: 1 \('100'\)"),
        (first("area", -5), r"no area .*: 1 \(-5\)"),
        (first("area", float("nan")), r"no area .*: 1 \(nan\)"),
        (first("iscrowd", None), r"no iscrowd .*: 1 \(None\): iscrowd is 0 or 1"),
        (first("iscrowd", "x"), "no iscrowd"),
        (first("iscrowd", 2), "no iscrowd"),
        (first("category_id", 4), "category that is not listed"),
        (first("category_id", "3"), "no category_id"),
        (first("image_id", 999), "image that is not listed"),
        (first("id", 2), r"annotation id\(s\) used twice: 2"),
        (first("id", 0), r"no id .*: 0 \(0\): id is a whole number from 1 up"),
        (first("id", "a1"), "no id or a wrong one .*: a1"),
        (first("id", None), "no id .*number 0"),
        (each(lambda a: a.update(id=a["id"] / 100)), "no id .*whole number"),
        (first("ignore", 1), r"with `ignore`.*: 1: drop them"),
        (first("keypoints", "x"), r"keypoints .*: 1:"),
        (lambda c, f: c["annotations"].clear(), "no annotations at all"),
        (each(lambda a: a.update(iscrowd=1)), "no annotations at all"),
        (lambda c, f: c["annotations"][0].pop("bbox"), r"no bbox .*: 1 \(absent\)"),
        (lambda c, f: c["categories"][0].pop("name"), r"no name .*: 3 \(absent\)"),
        (lambda c, f: c["categories"][0].update(name="light"), r"name\(s\) used twice: light"),
        (
            lambda c, f: c["categories"].append({"id": 3, "name": "x"}),
            r"category id\(s\) used twice",
        ),
        (
            lambda c, f: c["categories"].append({"id": 9, "name": "third"}),
            r"3 classes but MODEL.ROI_HEADS.NUM_CLASSES is 2: set .*NUM_CLASSES 3",
        ),
        (lambda c, f: c.pop("categories"), "is not COCO: it needs the lists"),
    ],
)
def test_annotations(damaged, change, words):
    with pytest.raises(ConfigError, match=words):
        check_run(damaged(change))


@pytest.mark.parametrize(
    ("change", "masks", "words"),
    [
        (
            lambda c, f: [a.pop("segmentation") for a in c["annotations"][:3]],
            True,
            r"3 annotation\(s\) without segmentation .*: 1, 2, 3: .*MODEL.MASK_ON False",
        ),
        (first("segmentation", [1, 2, 3, 4, 5, 6]), False, "1 .* malformed polygons"),
        (first("segmentation", [[90, 9, 200, 9, 200, 99]]), True, "1 .*polygons outside their"),
        (first("segmentation", [[1, 2, 3]]), False, "1 .* malformed polygons"),
        (first("segmentation", [[]]), False, "1 .* malformed polygons"),
        (first("segmentation", "abc"), False, "1 .* malformed polygons"),
        (each(lambda a: a.update(segmentation=[a["bbox"]])), False, "18 .*malformed polygons"),
        (first("segmentation", {"size": [64, 80], "counts": [9, 9]}), False, "does not fill"),
        (first("segmentation", {"size": [64, 80], "counts": [10**9] * 2}), True, "does not fill"),
        (first("segmentation", {"size": [64, 80], "counts": "x"}), False, "does not fill"),
        (first("segmentation", {"size": [80, 64], "counts": [5120]}), False, "does not fill"),
        (run_lengths, True, "18 .*run-length codes .*set INPUT.MASK_FORMAT bitmask"),
        (
            lambda c, f: run_lengths(c, f, lambda counts: counts[:-1]),
            False,
            "18 .*run-length code that does not fill",
        ),
    ],
)
def test_segmentations(damaged, change, masks, words):
    cfg = damaged(change)
    cfg.MODEL.MASK_ON = masks
    with pytest.raises(ConfigError, match=words):
        check_run(cfg)


@pytest.mark.parametrize("value", [None, "0", 2, -1, [], 0.5, float("nan")])
def test_crowds_that_detectron2_would_leave_out(damaged, value):
    """In training as well: whatever is not 0 is no object there."""
    cfg = damaged(first("iscrowd", value))
    cfg.DATASETS.TEST = ()
    with pytest.raises(ConfigError, match="iscrowd is 0 or 1"):
        check_run(cfg)


@pytest.mark.parametrize("masks", [False, True])
def test_run_length_codes_pass(damaged, masks):
    cfg = damaged(run_lengths)
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = masks, "bitmask"
    check_run(cfg)


@pytest.mark.parametrize(
    "change",
    [
        each(lambda a: a.update(bbox=[float(v) for v in a["bbox"]], area=1.5)),
        lambda c, f: [
            entry.update({key: f"i{entry[key]}"})
            for key, entries in (("id", c["images"]), ("image_id", c["annotations"]))
            for entry in entries
        ],
        first("iscrowd", 1),
        first("segmentation", []),
    ],
)
def test_what_is_unusual_and_right_passes(damaged, change):
    cfg = damaged(change)
    cfg.MODEL.MASK_ON = False
    check_run(cfg)


@pytest.mark.parametrize(("orientation", "turned"), [(3, False), (6, True)])
def test_upright_sizes_with_an_orientation_are_a_warning(damaged, caplog, orientation, turned):
    cfg = damaged(oriented(orientation, turned))
    cfg.MODEL.MASK_ON = False  # polygons that were drawn on the stored pixels do not fit
    with caplog.at_level(logging.WARNING):
        check_run(cfg)
    assert "9 image(s), such as 0.png, have an EXIF orientation" in caplog.text


def test_remedies_of_pixels_give_what_they_promise(damaged, tmp_path):
    """The remedies in the messages are run on an image."""
    deep = np.arange(0, 64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(deep).save(tmp_path / "deep.png")
    a = np.asarray(Image.open(tmp_path / "deep.png"), float)
    scaled = ((a - a.min()) * 255 / (a.max() - a.min())).astype("uint8")
    Image.fromarray(scaled).save(tmp_path / "deep.png")
    found = read_image(str(tmp_path / "deep.png"), "RGB")
    assert (found.min(), found.max()) == (0, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    assert ImageOps.exif_transpose(Image.open(tmp_path / "turned.png")).size == (8, 9)
    image = Image.open(tmp_path / "turned.png")
    Image.fromarray(np.asarray(image)).save(tmp_path / "turned.png")
    assert np.array_equal(read_image(str(tmp_path / "turned.png"), "RGB"), stored)


def test_training_and_validation_have_the_same_categories(damaged):
    cfg = damaged(lambda c, f: None)
    folder = Path(cfg.DATASETS.COCO_ROOT)
    content = json.loads((folder / "instances.json").read_text())
    content["categories"][0]["name"], content["categories"][1]["name"] = "light", "dark"
    (folder / "swapped.json").write_text(json.dumps(content))
    name = cfg.DATASETS.TRAIN[0] + "_swapped"
    cfg.DATASETS.COCO_JSON.append({"NAME": name, "JSON": "swapped.json", "IMAGES": "images"})
    cfg.DATASETS.TEST = (name,)
    with pytest.raises(ConfigError, match="list different categories"):
        check_run(cfg)


def test_images_too_elongated_for_their_size(damaged):
    def change(content, folder):
        Image.new("RGB", (2000, 5)).save(folder / "images" / "long.png")
        entry = {"id": 77, "file_name": "long.png", "height": 5, "width": 2000}
        content["images"].append(entry)

    cfg = damaged(change)
    check_run(cfg)
    cfg.INPUT.MAX_SIZE_TEST = 96
    words = r"MAX_SIZE_TEST 96 leaves no row or column: long\.png \(5x2000\): raise"
    with pytest.raises(ConfigError, match=words):
        check_run(cfg)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("weight", [0.0, 1.0], ids=["plain", "distilled"])
def test_an_image_damaged_later_is_named(tiny, coco, tmp_path, caplog, workers, weight):
    """One line names the image, for any process of the loader that finds it."""
    shutil.copytree(coco, tmp_path / "data")
    entry = {"NAME": f"later_{tmp_path.name}", "JSON": "instances.json", "IMAGES": "images"}
    cfg = tiny(
        "DATASETS.COCO_ROOT",
        str(tmp_path / "data"),
        "DATASETS.COCO_JSON",
        [entry],
        "DATASETS.TRAIN",
        (entry["NAME"],),
        "DATASETS.TEST",
        (),
        "DATALOADER.NUM_WORKERS",
        workers,
        "MODEL.PCKA.LOSS_WEIGHT",
        weight,
    )
    check_run(cfg)
    for path in (tmp_path / "data" / "images").iterdir():
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RunError, match=r"cannot use the image .*\.png: OSError: .*truncated") as e:
        train(cfg)
    assert "\n" not in str(e.value) and "Traceback" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_loaders_under_other_start_methods(tiny_yaml, tmp_path, method):
    """The test uses a process of its own, because the method can be set only once."""
    (tmp_path / "start.py").write_text(
        "import sys, torch.multiprocessing as mp\n"
        "if __name__ == '__main__':\n"
        "    from pcka.detection.train import main\n"
        "    mp.set_start_method(sys.argv.pop(1))\n"
        "    sys.exit(main())\n"
    )
    run = subprocess.run(
        [
            sys.executable,
            tmp_path / "start.py",
            method,
            "--config-file",
            tiny_yaml,
            "SOLVER.MAX_ITER",
            "1",
            "DATALOADER.NUM_WORKERS",
            "1",
            "DATASETS.TEST",
            "()",
            "OUTPUT_DIR",
            tmp_path / "run",
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_intact_coco_json_passes(damaged):
    check_run(damaged(lambda c, f: None))


def test_boxes_alone_are_enough_without_masks(damaged):
    cfg = damaged(lambda c, f: [a.pop("segmentation") for a in c["annotations"]])
    cfg.MODEL.MASK_ON = False
    check_run(cfg)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"NAME": "x", "JSON": "a.json"}, r"COCO_JSON\[0\]: IMAGES is missing"),
        ({"NAME": "x", "JSN": "a.json", "IMAGES": "i"}, "'JSN', did you mean 'JSON'"),
        ("x.json", "is a mapping"),
        ({"NAME": "a/b", "JSON": "a.json", "IMAGES": "i"}, "NAME 'a/b' is the name of a folder"),
        ({"NAME": "a b", "JSON": "a.json", "IMAGES": "i"}, "NAME 'a b' is the name of a folder"),
        ({"NAME": "x", "JSON": 5, "IMAGES": "i"}, "JSON is a text, got 5"),
        ({"NAME": "tiny", "JSON": "other.json", "IMAGES": "images"}, "'tiny' already stands for"),
    ],
)
def test_coco_json_entries(tiny, entry, words):
    tiny()
    with pytest.raises(ConfigError, match=words):
        register_coco_json(tiny("DATASETS.COCO_JSON", [entry]))


def test_data_that_is_not_there(tiny):
    cfg = tiny()
    cfg.DATASETS.COCO_JSON = [{"NAME": "away", "JSON": "no.json", "IMAGES": "images"}]
    cfg.DATASETS.TRAIN = ("away", "never_heard_of")
    with pytest.raises(ConfigError) as error:
        check_run(cfg)
    text = str(error.value)
    assert "no annotation file" in text and "no.json" in text
    assert "'never_heard_of' is not registered" in text  # both mistakes at once
