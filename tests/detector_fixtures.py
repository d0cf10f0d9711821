"""Fixtures: a tiny COCO-format data set and tiny weightless detectors, all on CPU."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

TINY = {
    "VERSION": 2,
    "MODEL": {
        "META_ARCHITECTURE": "DistilledDetector",
        "DEVICE": "cpu",
        "WEIGHTS": "",
        "BACKBONE": {"NAME": "build_narrow_resnet_fpn_backbone", "FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": 18,
            "NORM": "BN",
            "STEM_OUT_CHANNELS": 4,
            "RES2_OUT_CHANNELS": 4,
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        },
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 8},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [48], [64]], "ASPECT_RATIOS": [[1.0]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "BATCH_SIZE_PER_IMAGE": 16,
            "PRE_NMS_TOPK_TRAIN": 30,
            "POST_NMS_TOPK_TRAIN": 20,
            "PRE_NMS_TOPK_TEST": 20,
            "POST_NMS_TOPK_TEST": 10,
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "BATCH_SIZE_PER_IMAGE": 8,
            "NUM_CLASSES": 2,
        },
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 16},
        "RETINANET": {
            "NUM_CLASSES": 2,
            "NUM_CONVS": 1,
            "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
        },
        "ROI_MASK_HEAD": {"POOLER_RESOLUTION": 7, "NUM_CONV": 1, "CONV_DIM": 8},
        "FCOS": {"NUM_CLASSES": 2, "NUM_CONVS": 1, "NORM": ""},
        "PCKA": {
            "TERMS": [
                {
                    "NAME": "pcka",
                    "FEATURES": ["p2", "p3", "p4"],
                    "LOSS_ARGS": {"grouping": "batch", "patch_size": [4, 2, 1]},
                    "WEIGHT": 1,
                }
            ]
        },
    },
    "DATASETS": {"TRAIN": ["tiny"], "TEST": ["tiny"]},
    "DATALOADER": {"NUM_WORKERS": 0},
    "INPUT": {"MIN_SIZE_TRAIN": [64], "MAX_SIZE_TRAIN": 96, "MIN_SIZE_TEST": 64},
    "SOLVER": {"IMS_PER_BATCH": 2, "BASE_LR": 0.01, "MAX_ITER": 4, "CHECKPOINT_PERIOD": 2},
    "SEED": 7,
}


def write_coco(folder, images=9, seed=0):
    """Write random rectangles of two classes on noise, in three shapes; return the json's path."""
    g = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3, "name": "dark"}, {"id": 8, "name": "light"}],
    }
    for index in range(images):
        height, width = [(64, 80), (80, 64), (64, 64)][index % 3]
        pixels = g.integers(90, 160, (height, width, 3), dtype=np.uint8)
        for _ in range(2):
            w, h = (int(v) for v in g.integers(12, 30, 2))
            x, y = int(g.integers(0, width - w)), int(g.integers(0, height - h))
            category = int(g.choice([3, 8]))
            pixels[y : y + h, x : x + w] = 20 if category == 3 else 235
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": index + 1,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        name = f"{index}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        content["images"].append(
            {"id": index + 1, "file_name": name, "height": height, "width": width}
        )
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    """Return the folder of the data set: ``instances.json`` and ``images/``."""
    folder = tmp_path_factory.mktemp("coco")
    write_coco(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory, coco):
    """Return the tiny config as a file, with a teacher (twice as wide) and its weights."""
    return write_tiny(tmp_path_factory.mktemp("configs"), coco)


def write_tiny(folder, coco):
    """Write ``tiny.yaml`` into ``folder``, beside its teacher; ``coco`` holds the data."""
    import yaml
    from detectron2.modeling import build_model

    from pcka.detection import load_config

    teacher = {
        **TINY,
        "MODEL": {
            **TINY["MODEL"],
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "RESNETS": {**TINY["MODEL"]["RESNETS"], "RES2_OUT_CHANNELS": 8},
        },
    }
    teacher["MODEL"].pop("PCKA")
    (folder / "teacher.yaml").write_text(yaml.safe_dump(teacher))
    torch.manual_seed(123)
    model = build_model(load_config(str(folder / "teacher.yaml")))
    torch.save({"model": model.state_dict()}, folder / "teacher.pth")
    content = {**TINY, "MODEL": {**TINY["MODEL"], "PCKA": {**TINY["MODEL"]["PCKA"]}}}
    content["MODEL"]["PCKA"]["TEACHER"] = {
        "CONFIG_FILE": str(folder / "teacher.yaml"),
        "WEIGHTS": str(folder / "teacher.pth"),
    }
    content["DATASETS"] = {
        **TINY["DATASETS"],
        "COCO_ROOT": str(coco),
        "COCO_JSON": [{"NAME": "tiny", "JSON": "instances.json", "IMAGES": "images"}],
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def tiny(tiny_yaml, tmp_path):
    """Return ``tiny(KEY, VALUE, ...)``: the tiny config with overrides, its data registered."""
    from pcka.detection import load_config
    from pcka.detection.data.coco_json import register_coco_json

    def make(*opts):
        cfg = load_config(str(tiny_yaml), ["OUTPUT_DIR", str(tmp_path / "run"), *opts])
        register_coco_json(cfg)
        return cfg

    return make


@pytest.fixture
def batch():
    """Return ``batch(size, ...)``: inputs of a detector, one image per (height, width)."""
    from detectron2.structures import Boxes, Instances, PolygonMasks

    def make(*sizes):
        inputs = []
        for height, width in sizes or [(64, 64), (64, 64)]:
            instances = Instances((height, width))
            instances.gt_boxes = Boxes(torch.tensor([[5.0, 6.0, 30.0, 40.0]]))
            instances.gt_classes = torch.tensor([1])
            instances.gt_masks = PolygonMasks([[[5.0, 6.0, 30.0, 6.0, 30.0, 40.0, 5.0, 40.0]]])
            image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8)
            inputs.append(
                {"image": image, "instances": instances, "height": height, "width": width}
            )
        return inputs

    return make
