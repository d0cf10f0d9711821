"""Folders as labelling tools export them (DATASETS.FOLDERS): what is read, and what is refused."""

import json
import logging
import re
import shutil

import exports
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from pcka.detection import ConfigError, add_pcka_config
from pcka.detection.checks.preflight import check_run
from pcka.detection.data.coco_json import register_coco_json
from pcka.detection.data.folders import log_folders
from pcka.detection.data.formats.export import Export
from pcka.detection.data.splitting import split_training

WRITERS = {
    "roboflow_coco": exports.write_roboflow_coco,
    "yolo": exports.write_yolo,
    "voc": exports.write_voc,
    "cvat_coco": exports.write_cvat_coco,
    "label_studio_coco": exports.write_label_studio_coco,
}
BOXES_ALONE = ({"polygons": False}, "voc")


def config(folder, name, **entry):
    cfg = get_cfg()
    add_pcka_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATASETS.FOLDERS = [{"NAME": name, "PATH": str(folder), **entry}]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"{name}_train",), (f"{name}_valid",)
    cfg.OUTPUT_DIR = str(folder.parent / "out")
    return cfg


@pytest.fixture
def content(coco):
    return exports.halves(json.loads((coco / "instances.json").read_text()))


@pytest.fixture
def exported(tmp_path, coco, content):
    """``exported(format)`` -> config of the data set written in this format; checked."""

    def make(kind, **options):
        WRITERS[kind](coco, tmp_path / "data", content, **options)
        return config(tmp_path / "data", f"f{tmp_path.name}")

    return make


@pytest.fixture
def wanted(coco, content, tmp_path):
    """Dataset dicts of the same data as COCO files, by split."""
    found = {}
    for split, part in content.items():
        file = tmp_path / f"{split}.json"
        file.write_text(json.dumps(part))
        cfg = get_cfg()
        add_pcka_config(cfg)
        name = f"coco_{tmp_path.name}_{split}"
        cfg.DATASETS.COCO_JSON = [{"NAME": name, "JSON": str(file), "IMAGES": str(coco / "images")}]
        register_coco_json(cfg)
        found[split] = plain(DatasetCatalog.get(name))
    return found


def plain(dicts, polygons=True):
    """Dataset dicts without what a format may choose: folders, and the numbers of images."""
    return [
        {
            "file_name": d["file_name"].rsplit("/", 1)[-1],
            "size": (d["height"], d["width"]),
            "annotations": [
                {
                    "bbox": a["bbox"],
                    "mode": a["bbox_mode"],
                    "category": a["category_id"],
                    "crowd": a["iscrowd"],
                    **({"segmentation": a.get("segmentation")} if polygons else {}),
                }
                for a in d["annotations"]
            ],
        }
        for d in dicts
    ]


def without_polygons(dicts):
    return [
        {**d, "annotations": [{**a, "segmentation": None} for a in d["annotations"]]} for d in dicts
    ]


def tree(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*")}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("roboflow_coco", {}),
        ("yolo", {}),
        ("yolo", {"nested": False, "names": dict}),
        ("yolo", {"polygons": False}),
        ("voc", {}),
        ("voc", {"flat": True}),
        ("cvat_coco", {}),
        ("cvat_coco", {"subfolders": False, "names": ("Train", "Validation")}),
        ("cvat_coco", {"names": ("train2017", "val2017")}),
    ],
)
def test_every_format_gives_the_same_data(exported, wanted, tmp_path, kind, options):
    cfg = exported(kind, **options)
    before = tree(tmp_path / "data")
    check_run(cfg)
    for split, name in (("train", cfg.DATASETS.TRAIN[0]), ("valid", cfg.DATASETS.TEST[0])):
        expected = wanted[split]
        if options in BOXES_ALONE or kind in BOXES_ALONE:
            expected = without_polygons(expected)
        assert plain(DatasetCatalog.get(name)) == expected
        assert MetadataCatalog.get(name).thing_classes == ["dark", "light"]
    assert tree(tmp_path / "data") == before


@pytest.mark.parametrize("kind", ["yolo", "voc", "cvat_coco", "roboflow_coco"])
def test_every_format_gives_the_same_ap(exported, wanted, tmp_path, kind):
    """Boxes that are off by a few pixels, of random scores, in the evaluation of both."""

    def ap(name):
        evaluator = COCOEvaluator(name, ("bbox",), output_dir=str(tmp_path / "out"))
        evaluator.reset()
        g = np.random.default_rng(0)
        for d in sorted(DatasetCatalog.get(name), key=lambda d: d["file_name"]):
            boxes = np.array([a["bbox"] for a in d["annotations"]], np.float32)
            boxes[:, 2:] += boxes[:, :2]
            found = Instances((d["height"], d["width"]))
            found.pred_boxes = Boxes(torch.from_numpy(boxes + g.integers(-3, 4, boxes.shape)))
            found.scores = torch.from_numpy(g.random(len(boxes)))
            found.pred_classes = torch.tensor([a["category_id"] for a in d["annotations"]])
            evaluator.process([d], [{"instances": found}])
        return evaluator.evaluate()["bbox"]

    cfg = exported(kind)
    check_run(cfg)
    expected = ap(f"coco_{tmp_path.name}_valid")
    assert 20 < expected["AP"] < 90
    np.testing.assert_equal(ap(cfg.DATASETS.TEST[0]), expected)  # without large boxes APl is NaN


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("label_studio_coco", {}),
        ("label_studio_coco", {"prefix": ""}),
        ("label_studio_coco", {"prefix": "images\\\\"}),
        ("label_studio_coco", {"prefix": "../../label-studio/media/upload/1/"}),
        ("label_studio_coco", {"prefix": "C:\\\\data\\\\upload\\\\"}),
        ("label_studio_coco", {"prefix": "/data/upload/1/"}),
        ("cvat_coco", {"names": ("default",)}),
        ("voc", {"lists": False}),
    ],
)
def test_one_set_is_split(exported, wanted, content, kind, options):
    if kind == "cvat_coco":
        both = {k: content["train"][k] + content["valid"][k] for k in ("images", "annotations")}
        content["train"] = {**content["train"], **both}
        content.pop("valid")
    cfg = exported(kind, **options)
    cfg.DATASETS.FOLDERS[0].update(VALID_FRACTION=0.3, SEED=1)
    check_run(cfg)
    names = cfg.DATASETS.TRAIN[0], cfg.DATASETS.TEST[0]
    train, valid = (plain(DatasetCatalog.get(name)) for name in names)
    assert (len(train), len(valid)) == (6, 3)
    found = sorted(train + valid, key=lambda d: d["file_name"])
    every = wanted["train"] + wanted["valid"]
    assert found == (without_polygons(every) if kind == "voc" else every)


def test_splitting():
    """By file name and seed, in groups of one source image, and not where there is a set."""
    images = [{"id": i, "file_name": f"{i // 3}_jpg.rf.{i}.jpg"} for i in range(30)]
    annotations = [{"id": i + 1, "image_id": i} for i in range(30)]

    def split(images, fraction=None, seed=0):
        content = {"images": images, "annotations": annotations, "categories": []}
        export = Export({"train": content, "test": content})
        split_training(export, fraction, seed)
        assert export.problems == [] and list(export.splits)[-1] == "test"
        return [sorted(i["file_name"] for i in c["images"]) for c in export.splits.values()]

    train, valid, _ = split(images)
    assert (len(train), len(valid)) == (24, 6) and sorted(train + valid) == sorted(
        i["file_name"] for i in images
    )
    assert not {n.split(".")[0] for n in train} & {n.split(".")[0] for n in valid}
    assert split(images[::-1])[:2] == [train, valid]
    assert split(images, seed=1)[1] != valid
    assert len(split(images, 0.5)[1]) == 15
    assert len(split(images, 0.99)[1]) == 27  # a group is left to train
    assert len(split(images, 0)) == 2


@pytest.mark.parametrize(
    ("export", "fraction", "words"),
    [
        (Export({"train": {"images": []}, "valid": {}}), 0.1, "has a validation set"),
        (Export({"test": {}}), 0.1, "or no training set"),
        (Export({"train": {"images": [{"file_name": "a"}]}}), None, r"1 image\(s\) cannot be"),
    ],
)
def test_what_cannot_be_split(export, fraction, words):
    split_training(export, fraction, 0)
    assert len(export.problems) == 1 and re.search(words, export.problems[0])


LABEL = "train/labels/0.txt"
XML = "Annotations/0.xml"
BOX = "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox>"


def xml(objects, size="<size><width>80</width><height>64</height></size>", head=""):
    return f"{head}<annotation><filename>0.png</filename>{size}{objects}</annotation>"


def thing(right=9, name="<name>dark</name>"):
    return f"<object>{name}{BOX.format(right)}</object>"


ROBOFLOW = "train/_annotations.coco.json"
LAUGHS = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("yolo", (LABEL, "0 0.5 0.5 0.2\n"), r"labels/0\.txt:1: 4 numbers: write class"),
        ("yolo", (LABEL, "0 0.5 0.5 0.2 0.2 0.9\n"), r"0\.txt:1: 6 numbers: .*without a conf"),
        ("yolo", (LABEL, "0 .5 .5 .2 .2\n\ndog 1 2 3 4\n"), r"0\.txt:3: dog 1 2 3 4 are not num"),
        ("yolo", (LABEL, "2 .5 .5 .2 .2\n"), r"0\.txt:1: class 2, but the names .* 0 to 1"),
        ("yolo", (LABEL, "-1 .5 .5 .2 .2\n"), r"0\.txt:1: class -1, but"),
        ("yolo", (LABEL, "0.5 .5 .5 .2 .2\n"), r"0\.txt:1: class 0.5, but"),
        ("yolo", (LABEL, "0 40 30 20 20\n"), r"0\.txt:1: 40 30 20 20: coordinates are fractions"),
        ("yolo", (LABEL, "0 nan .5 .2 .2\n"), r"0\.txt:1: nan .*coordinates are fractions"),
        ("yolo", (LABEL, "0 .5 .5 0 .2\n"), r"without area .*: train/labels/0\.txt:1: boxes are"),
        ("yolo", (LABEL, "0 .1 .5 .9 .2\n"), r"outside their image .*: train/labels/0\.txt:1: "),
        ("yolo", (LABEL, b"\xff\xfe\x00"), r"0\.txt cannot be read as text"),
        ("yolo", ("train/images/0.png", None), r"labels/0\.txt has no image: add the image"),
        ("yolo", ("train/images/0.png", "PNG?"), r"images/0\.png is damaged"),
        ("yolo", ("data.yaml", "nc: 2\n"), r"data\.yaml: names is missing"),
        ("yolo", ("data.yaml", "names: {1: a, 2: b}\n"), "number the classes 0, 1, 2"),
        ("yolo", ("data.yaml", "names: [a, a]\n"), r"the names \['a'\] are empty or stand twice"),
        ("yolo", ("data.yaml", "names: [a, b, c]\nnc: 2\n"), "nc is 2 and names lists 3: correct"),
        ("yolo", ("data.yaml", "names: [a\n"), r"data\.yaml, line 2, column 1 is not valid YAML"),
        ("yolo", ("data.yaml", "names: !!python/name:os.system\n"), "asks to run Python code"),
        ("voc", (XML, xml(thing(), size="")), r"Annotations/0\.xml: has no size: add <size>"),
        (
            "voc",
            (XML, xml(thing(), size="<size><width>0</width><height>9</height></size>")),
            "no si",
        ),
        ("voc", (XML, xml("", head=LAUGHS)), r"0\.xml: a document type .* is not read: remove it"),
        ("voc", (XML, xml("<object>&x;</object>", head=OUTSIDE)), "a document type .* is not read"),
        ("voc", (XML, "<annotation>\n<size>"), r"0\.xml: is not XML: .*line 2"),
        ("voc", (XML, ""), r"0\.xml: is not XML: "),
        ("voc", (XML, xml(thing() + thing(name=""))), r"0\.xml: object 2 has no name: add <name>"),
        ("voc", (XML, xml(thing("x"))), r"0\.xml: object 1 \(dark\) has no box or a wrong one"),
        ("voc", (XML, xml(thing("nan"))), r"0\.xml: object 1 \(dark\) has no box or a wrong one"),
        ("voc", (XML, xml(thing(2))), r"without area .*: Annotations/0\.xml object 1: boxes are"),
        ("voc", (XML, xml(thing(99))), r"outside their image .*: Annotations/0\.xml object 1: "),
        (
            "voc",
            (XML, xml("").replace("0.png", "1.png")),
            r"1\.xml and \S+0\.xml are both of the im",
        ),
        ("voc", ("ImageSets/Main/train.txt", b"\xff"), r"train\.txt cannot be read as text"),
        ("voc", (XML, None), r"Main/train\.txt:1: no file .*0\.xml: add it or drop the line"),
        ("voc", ("JPEGImages/0.png", None), r"1 image file\(s\) missing: JPEGImages/0\.png"),
        ("voc", ("JPEGImages/0.png", "PNG?"), r"1 damaged .*: JPEGImages/0\.png: restore"),
        ("roboflow_coco", (ROBOFLOW, "{"), r"coco\.json: is not JSON: "),
        ("roboflow_coco", (ROBOFLOW, "[]"), r"coco\.json: is not COCO: it needs the lists"),
        ("roboflow_coco", ("train/0.png", None), r"1 image file\(s\) missing: train/0\.png"),
        ("roboflow_coco", (ROBOFLOW, "[" * 100000), r"coco\.json: is not JSON: "),
        ("cvat_coco", ("annotations/instances_new.json", "{}"), "subset 'new' is none of train"),
        ("cvat_coco", ("annotations/instances_valid.json", "{}"), "both stand for the split"),
        ("label_studio_coco", ("images/0.png", None), r"1 image file.* missing: images/0\.png"),
    ],
)
def test_bad_input(exported, tmp_path, kind, change, words):
    cfg = exported(kind)
    path, text = tmp_path / "data" / change[0], change[1]
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words) as error:
        check_run(cfg)
    assert len(str(error.value).splitlines()) <= 3


def annotated(**values):
    """``change`` that sets values of the first annotation."""
    return lambda content: content["annotations"][0].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            annotated(category_id=9),
            r"coco\.json: 1 category\S* of annotations are not listed \(ids\): 9: add",
        ),
        (annotated(category_id="x"), "no category_id or a wrong one .*annotation id 0"),
        (annotated(bbox=[1, 2, 3]), r"no bbox .*: train/_annotations\.coco\.json: annotation id 0"),
        (annotated(bbox=[70, 3, 30, 9]), r"outside their image .*json: annotation id 0: boxes are"),
        (annotated(id=1), r"annotation id\(s\) used twice: 1"),
        (annotated(id="a"), "with no id or a wrong one"),
        (annotated(image_id=77), "an image that is not listed .*annotation id 0"),
        (lambda c: c["categories"][1].update(name="light"), r"name\(s\) used twice: light"),
        (
            lambda c: c["categories"].append({"id": 1, "name": "n"}),
            r"category id\(s\) used twice: 1",
        ),
        (lambda c: c["categories"].append("x"), "of categories are no mappings"),
        (
            lambda c: c["images"].append({**c["images"][0], "id": 50, "file_name": "b/0.png"}),
            r"'0\.png' and 'b/0\.png' are both found as train/0\.png",
        ),
    ],
)
def test_bad_content_of_coco_exports(exported, tmp_path, change, words):
    cfg = exported("roboflow_coco")
    file = tmp_path / "data" / ROBOFLOW
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=words) as error:
        check_run(cfg)
    assert len(str(error.value).splitlines()) == 1


def test_sizes_that_are_null(exported, tmp_path, wanted):
    cfg = exported("label_studio_coco")
    file = tmp_path / "data" / "result.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["width"] = image["height"] = None
    file.write_text(json.dumps(content))
    cfg.DATASETS.FOLDERS[0]["VALID_FRACTION"] = 0
    cfg.DATASETS.TEST = cfg.DATASETS.TRAIN
    check_run(cfg)
    every = wanted["train"] + wanted["valid"]
    assert plain(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == every


@pytest.mark.parametrize("name", ["..", "/", "../../0.jpg", "a" * 5000, "C:"])
def test_names_of_images_stay_in_the_folder(exported, tmp_path, name):
    cfg = exported("roboflow_coco")
    file = tmp_path / "data" / ROBOFLOW
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = name
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"1 image file\(s\) missing: train/"):
        check_run(cfg)


def test_a_root_category_named_as_a_class(exported, tmp_path, caplog):
    """Numbers of categories that differ between the splits are matched by name."""
    cfg = exported("roboflow_coco")
    for split in ("train", "valid"):
        file = tmp_path / "data" / split / "_annotations.coco.json"
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = "dark"
        if split == "valid":
            content["categories"][1]["id"] = 7
            for a in content["annotations"]:
                a["category_id"] = {1: 7}.get(a["category_id"], a["category_id"])
        file.write_text(json.dumps(content))
    check_run(cfg)
    with caplog.at_level(logging.INFO):
        log_folders(cfg)
    assert "dropped: 'dark' (id 0)" in caplog.text
    assert "annotation ids start at 0; they are renumbered from 1" in caplog.text


def test_difficult_objects_become_crowds(exported, content, caplog):
    for part in content.values():
        part["annotations"][1]["iscrowd"] = 1
    cfg = exported("voc")
    check_run(cfg)
    with caplog.at_level(logging.INFO):
        log_folders(cfg)
    assert "2 objects are marked as difficult: they are read as crowds" in caplog.text
    crowds = [
        a["iscrowd"] for d in DatasetCatalog.get(cfg.DATASETS.TRAIN[0]) for a in d["annotations"]
    ]
    assert crowds == [0, 1] + [0] * 8


@pytest.mark.parametrize(
    ("corner", "first"),
    [("0", 0), ("0.5", 0), ("1", 1), ("1.5", 1)],
)
def test_where_pixels_count_from(exported, tmp_path, wanted, corner, first):
    """From 1, unless a corner lies before it; a few fractions are in VOC's own files."""
    cfg = exported("voc")
    for path in (tmp_path / "data" / "Annotations").iterdir():
        text = path.read_text()
        if first == 0:
            text = re.sub(r"<(.min)>(\d+)<", lambda m: f"<{m[1]}>{int(m[2]) - 1}<", text)
        path.write_text(text)
    path = tmp_path / "data" / XML
    path.write_text(re.sub(r"<xmin>\d+<", f"<xmin>{corner}<", path.read_text(), count=1))
    check_run(cfg)
    found = plain(DatasetCatalog.get(cfg.DATASETS.TRAIN[0]))
    assert found[0]["annotations"][0]["bbox"][0] == float(corner) - first
    assert found[1:] == without_polygons(wanted["train"])[1:]


def test_fractions_count_from_0(exported, tmp_path):
    cfg = exported("voc")
    for path in (tmp_path / "data" / "Annotations").iterdir():
        path.write_text(re.sub(r"<xmin>\d+<", "<xmin>2.25<", path.read_text()))
    check_run(cfg)
    found = plain(DatasetCatalog.get(cfg.DATASETS.TRAIN[0]))
    assert {a["bbox"][0] for d in found for a in d["annotations"]} == {2.25}


def test_a_folder_of_no_known_format(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigError) as error:
        check_run(config(tmp_path / "data", f"f{tmp_path.name}"))
    for name in WRITERS:
        assert f"{name}: " in str(error.value)
    assert "is in no known format. Looked for" in str(error.value)


def test_many_problems_are_counted(exported, tmp_path):
    cfg = exported("yolo")
    (tmp_path / "data" / LABEL).write_text("9 .5 .5 .2 .2\n" * 30)
    with pytest.raises(ConfigError, match="and 10 more problems of this folder") as error:
        check_run(cfg)
    assert len(str(error.value).splitlines()) == 23  # head, 20 problems, the rest, the demo


def test_another_format_than_the_config_says(exported):
    cfg = exported("yolo")
    cfg.DATASETS.FOLDERS[0]["FORMAT"] = "voc"
    with pytest.raises(ConfigError, match="is not of FORMAT 'voc': looked for Annotations"):
        check_run(cfg)


def test_what_tools_and_systems_add_is_no_label(exported, tmp_path):
    """Names numbered by texts in a file of another name, hidden files, class names in labels."""
    cfg = exported("yolo")
    data = tmp_path / "data"
    (data / "data.yaml").unlink()
    (data / "cells.yaml").write_text("names: {'0': dark, '1': light}\n")
    for path in (data / "train" / "labels" / "._0.txt", data / "train" / "images" / "._0.png"):
        path.write_bytes(b"\x00\x05\x16\x07")
    (data / "train" / "labels" / "classes.txt").write_text("dark\nlight\n")
    check_run(cfg)


def test_yolo_lists_of_images(exported, tmp_path, wanted):
    cfg = exported("yolo", nested=False)
    data = tmp_path / "data"
    for split, file in (("train", "a.txt"), ("valid", "b.txt")):
        names = [f"/content/data/images/{split}/{d['file_name']}" for d in wanted[split]]
        (data / file).write_text("\n".join(names[:3]) + "\n")
    (data / "data.yaml").write_text("names: [dark, light]\ntrain: [./a.txt]\nval: b.txt\n")
    for split in ("train", "valid"):
        for d in wanted[split][3:]:
            (data / "labels" / split / d["file_name"].replace(".png", ".txt")).unlink()
    check_run(cfg)
    assert plain(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == wanted["train"][:3]
    (data / "a.txt").write_text("images/train/0.png\n\nimages/train/away.png\n")
    cfg = config(data, f"g{tmp_path.name}")
    with pytest.raises(ConfigError, match=r"a\.txt:3: no image 'images/train/away\.png'"):
        check_run(cfg)


def yolo_lists(data, train, valid, yaml="train: train.txt\nval: val.txt\n"):
    """Move the images of a YOLO folder and their labels together, and list some of them."""
    for kind in ("images", "labels"):
        for path in list((data / kind).rglob("*.*")):
            path.rename(data / kind / path.name)
        for split in ("train", "valid"):
            (data / kind / split).rmdir()
    for name, numbers in (("train", train), ("val", valid)):
        (data / f"{name}.txt").write_text("".join(f"images/{n}.png\n" for n in numbers))
    (data / "data.yaml").write_text(f"names: [dark, light]\n{yaml}")


def notes(cfg, caplog):
    with caplog.at_level(logging.INFO):
        log_folders(cfg)
    return caplog.text


@pytest.mark.parametrize("yaml", ["train: train.txt\nval: val.txt\n", ""])
def test_yolo_lists_may_leave_images_out(exported, tmp_path, wanted, caplog, yaml):
    """Lists count whether data.yaml names them or not; labels of other images are no fault."""
    cfg = exported("yolo", nested=False)
    yolo_lists(tmp_path / "data", (0, 1), (2,), yaml)
    check_run(cfg)
    assert plain(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == wanted["train"][:2]
    assert plain(DatasetCatalog.get(cfg.DATASETS.TEST[0])) == wanted["train"][2:3]
    left = sum(map(len, wanted.values())) - 3
    assert f"{left} labelled images are in no list: they are left out" in notes(cfg, caplog)


def test_labels_without_an_image_beside_lists(exported, tmp_path):
    cfg = exported("yolo", nested=False)
    yolo_lists(tmp_path / "data", (0, 1), (2,))
    (tmp_path / "data" / "images" / "3.png").unlink()
    with pytest.raises(ConfigError, match=r"labels/3\.txt has no image: add") as error:
        check_run(cfg)
    assert "4.txt" not in str(error.value)


def test_images_in_training_and_validation_are_counted(exported, tmp_path, caplog):
    cfg = exported("yolo", nested=False)
    yolo_lists(tmp_path / "data", (0, 1, 2), (1, 2, 3))
    check_run(cfg)
    assert "2 images are in train and in valid: AP on valid counts" in notes(cfg, caplog)


def test_two_images_of_one_label_file(exported, tmp_path):
    cfg = exported("yolo")
    images = tmp_path / "data" / "train" / "images"
    shutil.copy(images / "0.png", images / "0.bmp")
    words = r"labels/0\.txt are the labels of \S+0\.bmp and of \S+0\.png: rename"
    with pytest.raises(ConfigError, match=words):
        check_run(cfg)
    (tmp_path / "data" / "train" / "labels" / "0.txt").unlink()
    check_run(config(tmp_path / "data", f"g{tmp_path.name}"))


@pytest.mark.parametrize("test", [True, False])
def test_voc_trainval(exported, tmp_path, wanted, caplog, test):
    """The only list of training images; others are left out, as with train.txt."""
    cfg = exported("voc")
    lists = tmp_path / "data" / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").rename(lists / ("test.txt" if test else "others.txt"))
    check_run(cfg)
    both = [*DatasetCatalog.get(cfg.DATASETS.TRAIN[0]), *DatasetCatalog.get(cfg.DATASETS.TEST[0])]
    found = sorted(plain(both), key=lambda d: d["file_name"])
    assert found == without_polygons(wanted["train"])
    assert "trainval.txt is read as the training images" in notes(cfg, caplog)


def test_voc_trainval_beside_train_and_val(exported, tmp_path, wanted):
    cfg = exported("voc")
    (tmp_path / "data" / "ImageSets" / "Main" / "trainval.txt").write_text("0\n1\n2\n3\n4\n5\n")
    check_run(cfg)
    assert len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == len(wanted["train"])


def test_a_folder_inside_that_fits_is_named(exported, tmp_path):
    exported("yolo")
    cfg = config(tmp_path, f"f{tmp_path.name}")
    with pytest.raises(ConfigError, match=f"its subfolder fits: PATH: {tmp_path / 'data'}"):
        check_run(cfg)


def test_a_folder_that_fits_two_formats(exported, tmp_path):
    exported("yolo")
    cfg = exported("roboflow_coco")
    with pytest.raises(ConfigError, match=r"fits 2 formats: .*FORMAT: roboflow_coco"):
        check_run(cfg)
    cfg.DATASETS.FOLDERS[0]["FORMAT"] = "yolo"
    check_run(cfg)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"PATH": "x"}, "NAME is missing"),
        ({"NAME": "x"}, "PATH is missing"),
        ({"NAME": "a/b", "PATH": "x"}, "NAME 'a/b' is the name of a folder"),
        ({"NAME": "x", "PATH": 3}, "PATH is a text, got 3"),
        ({"NAME": "x", "PTH": "x"}, "'PTH', did you mean 'PATH'"),
        ({"NAME": "x", "PATH": "x", "FORMAT": "cocoo"}, "FORMAT 'cocoo' is not known: one of"),
        ({"NAME": "x", "PATH": "x", "VALID_FRACTION": 1}, "VALID_FRACTION is from 0"),
        ({"NAME": "x", "PATH": "x", "VALID_FRACTION": "a"}, "VALID_FRACTION is from 0"),
        ({"NAME": "x", "PATH": "x", "SEED": 0.5}, "SEED is a whole number"),
        ({"NAME": "x", "PATH": "/nowhere"}, "no folder '/nowhere': check PATH"),
        ({"NAME": "x", "PATH": "/nowhere", "FORMAT": "yolo"}, "no folder '/nowhere': check PATH"),
        ("data", "is a mapping"),
    ],
)
def test_entries(entry, words):
    cfg = get_cfg()
    add_pcka_config(cfg)
    cfg.DATASETS.FOLDERS = [entry]
    with pytest.raises(ConfigError, match=words):
        register_coco_json(cfg)


def test_one_name_for_two_folders(exported, tmp_path):
    cfg = exported("yolo")
    register_coco_json(cfg)
    register_coco_json(cfg)
    shutil.copytree(tmp_path / "data", tmp_path / "other")
    cfg.DATASETS.FOLDERS[0]["PATH"] = str(tmp_path / "other")
    with pytest.raises(ConfigError, match="already stands for"):
        register_coco_json(cfg)


def test_a_split_that_the_folder_has_not(exported):
    cfg = exported("yolo")
    cfg.DATASETS.TEST = (cfg.DATASETS.TRAIN[0].replace("_train", "_val"),)
    with pytest.raises(ConfigError, match=r"FOLDERS gives f\S+_train, f\S+_valid\)"):
        check_run(cfg)
