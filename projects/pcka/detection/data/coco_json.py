"""The user's own COCO-format data, registered and checked from the config."""

import json
import os
from collections import Counter

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from pcka.detection.config import META_ARCHITECTURE
from pcka.errors import ConfigError, check_keys

_EXIF_ORIENTATION = 0x0112
# Keys of the number of classes in one-stage detectors; the others have it in ROI_HEADS.
_NUM_CLASSES_KEYS = {"RetinaNet": "MODEL.RETINANET.NUM_CLASSES", "FCOS": "MODEL.FCOS.NUM_CLASSES"}
_ENTRY_KEYS = ("NAME", "JSON", "IMAGES")


def register_coco_json(cfg: CfgNode) -> None:
    """Register every entry of DATASETS.COCO_JSON that is not registered yet.

    Raises:
        ConfigError: an entry without NAME, JSON and IMAGES, or a name taken by other files.
    """
    for index, entry in enumerate(cfg.DATASETS.COCO_JSON):
        where = f"DATASETS.COCO_JSON[{index}]"
        check_keys(entry, _ENTRY_KEYS, required=_ENTRY_KEYS, where=where)
        json_file, images = (
            os.path.join(cfg.DATASETS.COCO_ROOT, entry[key]) for key in ("JSON", "IMAGES")
        )
        if entry["NAME"] not in DatasetCatalog:
            register_coco_instances(entry["NAME"], {}, json_file, images)
        elif MetadataCatalog.get(entry["NAME"]).get("json_file") != json_file:
            raise ConfigError(
                f"{where}: the name {entry['NAME']!r} already stands for "
                f"{MetadataCatalog.get(entry['NAME']).get('json_file')}: choose another NAME"
            )


def check_datasets(cfg: CfgNode, names: list[str]) -> list[str]:
    """Return the problems of data sets in words; empty if all exist and fit the model."""
    problems = []
    own = {entry["NAME"] for entry in cfg.DATASETS.COCO_JSON}
    categories_of: dict[str, dict] = {}
    for name in names:
        if name not in DatasetCatalog:
            problems.append(
                f"data set {name!r} is not registered: add it to DATASETS.COCO_JSON "
                "({NAME, JSON, IMAGES}), or use one of detectron2's, such as coco_2017_train"
            )
            continue
        metadata = MetadataCatalog.get(name)
        json_file, images = metadata.get("json_file"), metadata.get("image_root")
        if name in own:
            evaluated = name in cfg.DATASETS.TEST
            found, categories = check_coco_json(
                json_file, images, evaluated=evaluated, masks=cfg.MODEL.MASK_ON
            )
            problems += [f"data set {name!r}: {problem}" for problem in found]
            classes = len(categories)
            for other, theirs in categories_of.items():
                if categories and theirs != categories:
                    problems.append(
                        f"data sets {other!r} and {name!r} list different categories, {theirs} and "
                        f"{categories}: use the same ids and names in both"
                    )
            if categories:
                categories_of[name] = categories
        elif missing := _missing_builtin(name, json_file, images):
            problems.append(missing)
            continue
        else:
            classes = len(metadata.get("thing_classes", ()))
        if classes and classes != num_classes(cfg):
            key = num_classes_key(cfg)
            problems.append(
                f"data set {name!r} has {classes} classes but {key} is {num_classes(cfg)}: "
                f"set {key} {classes}"
            )
    return problems


def num_classes_key(cfg: CfgNode) -> str:
    """Return the config key that holds the number of classes of this student."""
    name = cfg.MODEL.META_ARCHITECTURE
    if name == META_ARCHITECTURE:
        name = cfg.MODEL.PCKA.STUDENT_META_ARCHITECTURE
    return _NUM_CLASSES_KEYS.get(name, "MODEL.ROI_HEADS.NUM_CLASSES")


def num_classes(cfg: CfgNode) -> int:
    """Return the number of classes of this student."""
    _, head, key = num_classes_key(cfg).split(".")
    return cfg.MODEL[head][key]


def check_coco_json(
    json_file: str, images: str, *, evaluated: bool = True, masks: bool = False
) -> tuple[list[str], dict]:
    """Return the problems of one COCO file, and its categories by id (empty if unreadable).

    Args:
        json_file: the annotations.
        images: the folder of the images.
        evaluated: whether it is evaluated on, which takes more than training does.
        masks: whether the model learns masks.
    """
    remedy = "check JSON, IMAGES and DATASETS.COCO_ROOT"
    if not os.path.isfile(json_file):
        return [f"no annotation file {json_file!r}: {remedy}"], {}
    if not os.path.isdir(images):
        return [f"no image folder {images!r}: {remedy}"], {}
    try:
        with open(json_file) as file:
            content = json.load(file)
    except (ValueError, UnicodeDecodeError) as error:
        return [f"{json_file} is not JSON: {error}"], {}
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in lists):
        return [f"{json_file} is not COCO: it needs the lists {', '.join(lists)}"], {}
    try:
        categories = {c["id"]: c["name"] for c in content["categories"]}
        return _check_content(content, images, evaluated, masks), categories
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return [f"{json_file} is not COCO: an entry lacks or garbles {error}"], {}


def _check_content(content: dict, images: str, evaluated: bool, masks: bool) -> list[str]:
    problems = []

    def report(what: str, bad: list, remedy: str) -> None:
        if bad:
            shown = ", ".join(str(b) for b in bad[:5]) + (", ..." if len(bad) > 5 else "")
            problems.append(f"{len(bad)} {what}: {shown}: {remedy}")

    categories = {category["id"] for category in content["categories"]}
    annotations = content["annotations"]
    sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
    paths = {i["file_name"]: os.path.join(images, i["file_name"]) for i in content["images"]}
    missing = {name for name, path in paths.items() if not os.path.isfile(path)}
    report(
        "image file(s) missing",
        sorted(missing),
        f"put them under {images} or drop them from the JSON",
    )
    report(
        "image(s) unreadable or of another size than the JSON says",
        [
            f"{i['file_name']} ({size or 'unreadable'}, JSON {i['height']}x{i['width']})"
            for i in content["images"]
            if i["file_name"] not in missing
            and (size := _image_size(paths[i["file_name"]])) != f"{i['height']}x{i['width']}"
        ],
        "correct height and width",
    )
    report(
        "image id(s) used twice",
        [i for i, n in Counter(image["id"] for image in content["images"]).items() if n > 1],
        "give each image an id of its own",
    )
    report(
        "annotation id(s) used twice",
        [i for i, n in Counter(a["id"] for a in annotations).items() if n > 1],
        "give each annotation an id of its own",
    )
    report(
        "annotation(s) of an image that is not listed (annotation ids)",
        [a["id"] for a in annotations if a["image_id"] not in sizes],
        "add the image or drop them",
    )
    report(
        "annotation(s) of a category that is not listed (annotation ids)",
        [a["id"] for a in annotations if a["category_id"] not in categories],
        "add it to categories or drop them",
    )
    report(
        "box(es) outside their image (annotation ids)",
        [a["id"] for a in annotations if a["image_id"] in sizes and _outside(a, sizes)],
        "boxes are [x, y, width, height] in pixels from the upper left corner",
    )
    report(
        "box(es) without area (annotation ids)",
        [a["id"] for a in annotations if not _has_area(a["bbox"])],
        "boxes are [x, y, width, height] in pixels, width and height above 0",
    )
    if masks:
        report(
            "annotation(s) without segmentation (annotation ids)",
            [a["id"] for a in annotations if not a.get("segmentation")],
            "a model with masks needs them: add them, or set MODEL.MASK_ON False",
        )
    if evaluated:
        report(
            "annotation(s) without area or iscrowd (annotation ids)",
            [a["id"] for a in annotations if "area" not in a or "iscrowd" not in a],
            "COCO evaluation needs both: width times height, and 0",
        )
        # pycocotools reads the id 0 as "no match".
        report("annotation id(s) 0", [0 for a in annotations if a["id"] == 0], "start ids at 1")
    if all(a.get("iscrowd") for a in annotations):
        problems.append("no annotations at all (but crowds): nothing to learn or to measure")
    return problems


def _has_area(box: list) -> bool:
    return len(box) == 4 and box[2] > 0 and box[3] > 0


def _outside(annotation: dict, sizes: dict) -> bool:
    """Return whether a box has no pixel in its image, or is not a number."""
    x, y, w, h = annotation["bbox"]
    width, height = sizes[annotation["image_id"]]
    return not (x < width and y < height and x + w > 0 and y + h > 0)


def _image_size(path: str) -> str:
    """Return ``HxW`` as detectron2 will read it, from the file's header; "" if unreadable."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError):
        return ""
    return f"{width}x{height}" if turned else f"{height}x{width}"


def _missing_builtin(name: str, json_file: str | None, images: str | None) -> str:
    """Return why a data set of detectron2's own list is not usable, or ""."""
    absent = [
        path
        for path, there in ((json_file, os.path.isfile), (images, os.path.isdir))
        if path and not there(path)
    ]
    if not absent or name.startswith("digits_"):  # the digits are made on first use
        return ""
    root = os.path.abspath(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
    source = (
        "COCO is at https://cocodataset.org/#download (train2017, val2017 and annotations)"
        if name.startswith("coco")
        else "see detectron2's datasets/README.md for where to get it"
    )
    return (
        f"data set {name!r}: no {' and no '.join(absent)}. {source}; lay it under {root} or set "
        "DETECTRON2_DATASETS to the folder that holds it"
    )
