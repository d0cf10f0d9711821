"""The user's own data, registered and checked from the config: COCO files, exported folders."""

import json
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from pcka.detection.config import META_ARCHITECTURE
from pcka.errors import ConfigError, check_keys

from .coco_segmentations import check_segmentations
from .coco_values import check_ids, check_lists, check_types, check_values
from .entries import check_texts
from .folders import folder_names, folder_problems, register_folders
from .image_files import check_images, check_shapes

# Keys of the number of classes in one-stage detectors; the others have it in ROI_HEADS.
_NUM_CLASSES_KEYS = {"RetinaNet": "MODEL.RETINANET.NUM_CLASSES", "FCOS": "MODEL.FCOS.NUM_CLASSES"}
_ENTRY_KEYS = ("NAME", "JSON", "IMAGES")


def register_coco_json(cfg: CfgNode) -> None:
    """Register every entry of DATASETS.COCO_JSON and DATASETS.FOLDERS not registered yet.

    Raises:
        ConfigError: an entry without NAME, JSON and IMAGES, or a name taken by other files; for
            DATASETS.FOLDERS see :func:`register_folders`.
    """
    register_folders(cfg)
    for index, entry in enumerate(cfg.DATASETS.COCO_JSON):
        where = f"DATASETS.COCO_JSON[{index}]"
        check_keys(entry, _ENTRY_KEYS, required=_ENTRY_KEYS, where=where)
        check_texts(entry, _ENTRY_KEYS, where)
        root = os.path.expanduser(cfg.DATASETS.COCO_ROOT)
        json_file, images = (
            os.path.join(root, os.path.expanduser(entry[key])) for key in ("JSON", "IMAGES")
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
        from_folder = folder_problems(cfg, name)
        if from_folder:  # the same for all splits of the folder, and listed once
            problems += [problem for problem in from_folder if problem not in problems]
            continue
        if name not in DatasetCatalog:
            problems.append(_not_registered(cfg, name))
            continue
        metadata = MetadataCatalog.get(name)
        json_file, images = metadata.get("json_file"), metadata.get("image_root")
        if name in own or from_folder is not None:
            evaluated = name in cfg.DATASETS.TEST
            resizings = []
            if evaluated:
                resizings.append(("TEST", cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST))
            if name in cfg.DATASETS.TRAIN:
                shortest = min(cfg.INPUT.MIN_SIZE_TRAIN)
                resizings.append(("TRAIN", shortest, cfg.INPUT.MAX_SIZE_TRAIN))
            found, categories = check_coco_json(
                json_file,
                images,
                evaluated=evaluated,
                masks=cfg.MODEL.MASK_ON,
                mask_format=cfg.INPUT.MASK_FORMAT,
                resizings=resizings,
            )
            found += _check_task(cfg)
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


def _not_registered(cfg: CfgNode, name: str) -> str:
    """Return what to do about a data set that nobody knows."""
    folders = folder_names(cfg)
    hint = f" (DATASETS.FOLDERS gives {', '.join(folders)})" if folders else ""
    return (
        f"data set {name!r} is not registered{hint}: add it to DATASETS.COCO_JSON "
        "({NAME, JSON, IMAGES}) or its folder to DATASETS.FOLDERS ({NAME, PATH}), or use one of "
        "detectron2's, such as coco_2017_train"
    )


def _check_task(cfg: CfgNode) -> list[str]:
    """Return what the student learns that the user's own data cannot teach."""
    problems = []
    name = student_architecture(cfg)
    if name in ("PanopticFPN", "SemanticSegmentor"):
        problems.append(
            f"{name} learns semantic segmentation, which COCO_JSON and FOLDERS do not "
            "hold: use a data set of detectron2's with sem_seg, such as "
            "coco_2017_train_panoptic_separated"
        )
    if cfg.MODEL.KEYPOINT_ON:
        problems.append(
            "MODEL.KEYPOINT_ON takes the names of the keypoints and their mirror images, which "
            "COCO_JSON and FOLDERS do not hold: use a data set of detectron2's, such as "
            "keypoints_coco_2017_train, or set it False"
        )
    return problems


def student_architecture(cfg: CfgNode) -> str:
    """Return the meta-architecture of the student."""
    name = cfg.MODEL.META_ARCHITECTURE
    return cfg.MODEL.PCKA.STUDENT_META_ARCHITECTURE if name == META_ARCHITECTURE else name


def num_classes_key(cfg: CfgNode) -> str:
    """Return the config key that holds the number of classes of this student."""
    return _NUM_CLASSES_KEYS.get(student_architecture(cfg), "MODEL.ROI_HEADS.NUM_CLASSES")


def num_classes(cfg: CfgNode) -> int:
    """Return the number of classes of this student."""
    _, head, key = num_classes_key(cfg).split(".")
    return cfg.MODEL[head][key]


def check_coco_json(
    json_file: str,
    images: str,
    *,
    evaluated: bool = True,
    masks: bool = False,
    mask_format: str = "polygon",
    resizings: Sequence[tuple[str, int, int]] = (),
) -> tuple[list[str], dict]:
    """Return the problems of one COCO file, and its categories by id (empty if unreadable).

    Args:
        json_file: the annotations.
        images: the folder of the images.
        evaluated: whether it is evaluated on, which takes more than training does.
        masks: whether the model learns masks.
        mask_format: INPUT.MASK_FORMAT.
        resizings: how the images are resized, each as TRAIN or TEST, its MIN_SIZE and MAX_SIZE.
    """
    remedy = "check JSON, IMAGES and DATASETS.COCO_ROOT"
    if not os.path.isfile(json_file):
        return [f"no annotation file {json_file!r}: {remedy}"], {}
    if not os.path.isdir(images):
        return [f"no image folder {images!r}: {remedy}"], {}
    try:
        with open(json_file, encoding="utf-8") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        return [f"{json_file} is not JSON: {error}"], {}
    if problem := check_lists(content):
        return [f"{json_file} {problem}"], {}
    problems = check_types(content, evaluated=evaluated)
    if problems:  # the other checks read these values
        return problems, {}
    problems = check_images(content["images"], images)
    problems += check_shapes(content["images"], resizings)
    # The last checks look entries up by their ids.
    problems += check_ids(content) or [
        *check_values(content),
        *check_segmentations(content, masks=masks, mask_format=mask_format),
    ]
    return problems, {c["id"]: c["name"] for c in content["categories"]}


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
