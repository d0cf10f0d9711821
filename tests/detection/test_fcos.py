"""FCOS from YAML: detectron2's network, with the arguments that the config names."""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model, meta_arch
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.utils.events import EventStorage

from pcka.detection import ConfigError, load_config, student_config
from pcka.detection.checks.preflight import check_run

STAGES = ["res3", "res4", "res5"]
TINY_FCOS = (
    "MODEL.PCKA.STUDENT_META_ARCHITECTURE",
    "FCOS",
    "MODEL.PCKA.TERMS",
    [],
    "MODEL.BACKBONE.NAME",
    "build_fcos_narrow_resnet_fpn_backbone",
)


def test_names_and_shapes_are_those_of_the_zoos_model():
    """A student's checkpoint loads where this project is not installed."""
    cfg = load_config(
        "",
        [
            "MODEL.META_ARCHITECTURE",
            "FCOS",
            "MODEL.DEVICE",
            "meta",
            "MODEL.BACKBONE.NAME",
            "build_fcos_resnet_fpn_backbone",
            "MODEL.RESNETS.OUT_FEATURES",
            STAGES,
            "MODEL.FPN.IN_FEATURES",
            STAGES,
        ],
    )
    with torch.device("meta"):  # shapes alone: nothing is allocated
        ours = build_model(cfg)
        theirs = instantiate(model_zoo.get_config("COCO-Detection/fcos_R_50_FPN_1x.py").model)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    frozen = [k for k, p in ours.named_parameters() if not p.requires_grad]
    assert frozen == [k for k, p in theirs.named_parameters() if not p.requires_grad]


def test_same_losses_and_detections_as_the_class_called_by_hand(tiny, batch):
    cfg = tiny(
        *TINY_FCOS,
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS",
        0.9,
        "MODEL.FCOS.FOCAL_LOSS_ALPHA",
        0.4,
        "MODEL.FCOS.FOCAL_LOSS_GAMMA",
        1.2,
        "MODEL.FCOS.SCORE_THRESH_TEST",
        0.06,
        "MODEL.FCOS.TOPK_CANDIDATES_TEST",
        40,
        "MODEL.FCOS.NMS_THRESH_TEST",
        0.3,
        "MODEL.FCOS.NUM_CONVS",
        2,
        "MODEL.FCOS.PRIOR_PROB",
        0.2,
        "TEST.DETECTIONS_PER_IMAGE",
        7,
    )
    ours = build_model(cfg).student.train()
    head = FCOSHead(
        input_shape=[ours.backbone.output_shape()[f"p{i}"] for i in (3, 4, 5, 6, 7)],
        num_classes=2,
        conv_dims=[8, 8],
        norm="",
        prior_prob=0.2,
    )
    assert torch.equal(ours.head.cls_score.bias, head.cls_score.bias)
    theirs = meta_arch.FCOS(
        backbone=ours.backbone,
        head=head,
        head_in_features=["p3", "p4", "p5", "p6", "p7"],
        num_classes=2,
        center_sampling_radius=0.9,
        focal_loss_alpha=0.4,
        focal_loss_gamma=1.2,
        test_score_thresh=0.06,
        test_topk_candidates=40,
        test_nms_thresh=0.3,
        max_detections_per_image=7,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    ).train()
    torch.nn.init.ones_(ours.head.bbox_pred.bias)  # boxes of some area
    head.load_state_dict(ours.head.state_dict())
    inputs = batch((128, 192), (192, 128))
    with EventStorage():
        wanted, found = theirs(inputs), ours(inputs)
    assert set(found) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
    for name, loss in wanted.items():
        assert torch.equal(found[name], loss) and loss > 0
    with torch.no_grad():
        wanted, found = (m.eval()(inputs)[0]["instances"] for m in (theirs, ours))
    assert len(found) == 7
    assert torch.equal(found.scores, wanted.scores)
    assert torch.equal(found.pred_boxes.tensor, wanted.pred_boxes.tensor)


def test_levels_that_the_backbone_does_not_have(tiny):
    with pytest.raises(ConfigError, match=r"has no p7, only p2.*build_fcos_resnet_fpn_backbone"):
        build_model(tiny(*TINY_FCOS, "MODEL.BACKBONE.NAME", "build_narrow_resnet_fpn_backbone"))


def test_number_of_classes_is_checked_where_fcos_has_it(tiny):
    check_run(tiny(*TINY_FCOS))
    with pytest.raises(ConfigError, match=r"2 classes but MODEL\.FCOS\.NUM_CLASSES is 80"):
        check_run(tiny(*TINY_FCOS, "MODEL.FCOS.NUM_CLASSES", 80))


def test_keys_are_in_the_students_config_only_if_it_is_fcos(tiny):
    assert "FCOS" in student_config(tiny(*TINY_FCOS)).MODEL
    plain = student_config(tiny()).MODEL
    assert "FCOS" not in plain and set(plain) == set(get_cfg().MODEL)
