"""FCOS from a YAML config; detectron2 itself offers it to LazyConfig files only.

The network and its parameter names are detectron2's own, so checkpoints also load into
``model_zoo.get_config("COCO-Detection/fcos_R_50_FPN_1x.py").model`` (docs/guide.md).
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_backbone, meta_arch
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from detectron2.modeling.meta_arch.fcos import FCOSHead
from torch import Tensor

from pcka.detection.config import ConfigError

from .fpn import build_fpn


@META_ARCH_REGISTRY.register()
class FCOS(meta_arch.FCOS):
    """detectron2's FCOS (Tian et al. 2019, arXiv 1904.01355), configured by ``MODEL.FCOS``.

    detectron2 follows arXiv 2006.09214: no scale layer per level, and boxes normalised by stride.
    The config keys are ``MODEL.FCOS``, ``MODEL.BACKBONE``, ``MODEL.PIXEL_MEAN``,
    ``MODEL.PIXEL_STD`` and ``TEST.DETECTIONS_PER_IMAGE``.
    """

    @configurable
    def __init__(self, **kwargs):
        """Arguments of ``detectron2.modeling.meta_arch.FCOS``, or a config node alone."""
        super().__init__(**kwargs)

    def forward_training(self, images, features, predictions, gt_instances):
        """Compute the losses of float32 predictions.

        Under autocast the predictions are of a half type, the targets are not, and detectron2
        copies one into the other.
        """
        predictions = [[_at_least_float32(p) for p in levels] for levels in predictions]
        return super().forward_training(images, features, predictions, gt_instances)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Read the arguments from a config.

        Raises:
            ConfigError: IN_FEATURES that the backbone does not have.
        """
        fcos = cfg.MODEL.FCOS
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        absent = [name for name in fcos.IN_FEATURES if name not in shapes]
        if absent:
            raise ConfigError(
                f"MODEL.FCOS.IN_FEATURES: {cfg.MODEL.BACKBONE.NAME} has no {', '.join(absent)}, "
                f"only {', '.join(shapes)}; build_fcos_resnet_fpn_backbone has p3 to p7"
            )
        inputs = [shapes[name] for name in fcos.IN_FEATURES]
        return {
            "backbone": backbone,
            "head": FCOSHead(
                input_shape=inputs,
                num_classes=fcos.NUM_CLASSES,
                conv_dims=[inputs[0].channels] * fcos.NUM_CONVS,
                norm=fcos.NORM,
                prior_prob=fcos.PRIOR_PROB,
            ),
            "head_in_features": fcos.IN_FEATURES,
            "num_classes": fcos.NUM_CLASSES,
            "center_sampling_radius": fcos.CENTER_SAMPLING_RADIUS,
            "focal_loss_alpha": fcos.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": fcos.FOCAL_LOSS_GAMMA,
            "test_score_thresh": fcos.SCORE_THRESH_TEST,
            "test_topk_candidates": fcos.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": fcos.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@BACKBONE_REGISTRY.register()
def build_fcos_resnet_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Build detectron2's ResNet (``MODEL.RESNETS``) with an FPN whose p6 and p7 come from p5.

    detectron2's ``build_retinanet_resnet_fpn_backbone`` computes them from the last stage instead.
    """
    return build_fpn(cfg, build_resnet_backbone(cfg, input_shape), top="p5")
