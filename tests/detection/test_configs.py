"""The configs of the COCO pairs: shapes at full size, then a training at a size for a CPU."""

import json
from pathlib import Path

import pytest
import torch
from detector_runs import train
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

from pcka.core import LOSSES, DistillTerms
from pcka.detection import load_config, student_config
from pcka.detection.config import config_differences
from pcka.detection.config_terms import term_specs
from pcka.detection.data.coco_json import register_coco_json
from pcka.detection.modeling.features import feature_shapes
from pcka.detection.modeling.teacher_source import teacher_config

ROOT = Path(__file__).parents[2]
PAIRS = {path.stem: path for path in sorted(ROOT.glob("configs/*.yaml"))}
ZOO_STUDENTS = {
    "pcka_faster_rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "pcka_retinanet_from_x101": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "pcka_mask_rcnn_from_cascade_x101": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
}
# Both networks are narrow and their heads small; an R18 keeps its width of 64 and has no groups.
SMALL = [
    "MODEL.DEVICE",
    "cpu",
    "MODEL.FPN.OUT_CHANNELS",
    64,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
    20,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    10,
    "MODEL.RPN.PRE_NMS_TOPK_TEST",
    20,
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    10,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    8,
    "MODEL.ROI_HEADS.NUM_CLASSES",
    2,
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM",
    8,
    "MODEL.RETINANET.NUM_CLASSES",
    2,
    "MODEL.FCOS.NUM_CLASSES",
    2,
]
NARROW = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    32,
    "MODEL.RESNETS.NUM_GROUPS",
    4,
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    2,
]


@pytest.fixture(params=PAIRS)
def pair(request, monkeypatch):
    """Return ``pair(KEY, VALUE, ...)``: the config of one file, read from the repository's root."""
    monkeypatch.chdir(ROOT)
    path = PAIRS[request.param]
    if "Mimic" in path.read_text() and "Mimic" not in LOSSES:
        pytest.skip("the loss Mimic is not there")
    return lambda *opts: load_config(str(path), list(opts))


def test_levels_and_widths_at_full_size(pair):
    """Every term finds its levels and widths in the published networks; nothing is allocated."""
    cfg = pair("MODEL.DEVICE", "meta", "MODEL.PCKA.TEACHER.WEIGHTS", "unused")
    with torch.device("meta"):
        student, teacher = build_model(student_config(cfg)), build_model(teacher_config(cfg))
        distill = DistillTerms(term_specs(cfg), feature_shapes(student), feature_shapes(teacher))
    assert len(distill.pairings) >= 4
    for key, pairing in distill.pairings.items():
        assert pairing.student == pairing.teacher, key
        assert pairing.stride == pairing.teacher_stride, key
        # The smallest map of COCO's images as the config resizes them, whatever their shape.
        for height, width in ((640, 640), (64, 1344), (1344, 64)):
            distill.losses[key].check_map(-(-height // pairing.stride), -(-width // pairing.stride))


def test_opens_with_its_command_and_its_figures():
    for name, path in PAIRS.items():
        head = path.read_text().split("\n_BASE_")[0]
        assert f"tools/train_net.py --config-file configs/{name}.yaml --num-gpus 8" in head
        assert " AP" in head


@pytest.mark.parametrize("name", ZOO_STUDENTS)
def test_students_are_those_of_the_model_zoo(name):
    ours = student_config(load_config(str(PAIRS[name])))
    zoo = student_config(load_config(model_zoo.get_config_file(ZOO_STUDENTS[name])))
    assert set(config_differences(ours, zoo)) <= {"SOLVER.STEPS", "SOLVER.MAX_ITER", "OUTPUT_DIR"}


@pytest.mark.slow
def test_trains_and_evaluates(pair, coco, tmp_path):
    """One step and an evaluation run on tiny images, with narrow networks of the same layers."""
    narrow = [] if pair().MODEL.RESNETS.DEPTH == 18 else NARROW
    weights = str(tmp_path / "teacher.pth")
    terms = [
        {**term, "LOSS_ARGS": {**term.get("LOSS_ARGS", {}), "patch_size": 1}}
        if term["LOSS"] == "PatchCKA"
        else term
        for term in pair().MODEL.PCKA.TERMS
    ]
    cfg = pair(
        *SMALL,
        *narrow,
        "MODEL.WEIGHTS",
        "",
        "MODEL.PCKA.TERMS",
        terms,
        "MODEL.PCKA.TEACHER.WEIGHTS",
        weights,
        "MODEL.PCKA.TEACHER.OPTS",
        [*SMALL, *NARROW],
        "DATASETS.COCO_ROOT",
        str(coco),
        "DATASETS.TRAIN",
        ["tiny"],
        "DATASETS.TEST",
        ["tiny"],
        "DATASETS.COCO_JSON",
        [{"NAME": "tiny", "JSON": "instances.json", "IMAGES": "images"}],
        "DATALOADER.NUM_WORKERS",
        0,
        "INPUT.MIN_SIZE_TRAIN",
        [128],
        "INPUT.MIN_SIZE_TEST",
        128,
        "SOLVER.IMS_PER_BATCH",
        2,
        "SOLVER.MAX_ITER",
        1,
        "SOLVER.STEPS",
        [],
        "OUTPUT_DIR",
        str(tmp_path / "run"),
    )
    torch.save({"model": build_model(teacher_config(cfg)).state_dict()}, weights)
    register_coco_json(cfg)
    trainer = train(cfg)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text().splitlines()[0])
    wanted = {f"loss_{key}" for key in trainer.model.distill.pairings}
    assert wanted <= metrics.keys() and metrics["total_loss"] > 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert ("segm" in summary["results"]) == cfg.MODEL.MASK_ON and "bbox" in summary["results"]
    setup_logger()  # detectron2's handlers are global
