"""A teacher in another order of channels, and its FPN for a student."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from pcka.core import patch_cka
from pcka.detection import ConfigError, build_teacher, load_config, student_config
from pcka.detection.engine.checkpointer import StudentCheckpointer
from pcka.detection.modeling.teacher_source import teacher_config
from pcka.experiments import permuted_teacher

ROOT = Path(__file__).parents[2]
CASCADE = [
    "MODEL.ROI_HEADS.NAME",
    "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
    True,
    "MODEL.MASK_ON",
    True,
]
CONVOLUTIONS = [
    "MODEL.RPN.CONV_DIMS",
    [8, 8],
    "MODEL.ROI_BOX_HEAD.NUM_CONV",
    1,
    "MODEL.ROI_BOX_HEAD.CONV_DIM",
    8,
    "MODEL.FPN.NORM",
    "BN",
]


@pytest.fixture(scope="module")
def script():
    return vars(permuted_teacher)


def detector(tiny, *opts):
    """Return a random detector with detections in noise, each with a different score."""
    cfg = tiny("MODEL.PCKA.TEACHER.OPTS", ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, *opts])
    model = build_model(teacher_config(cfg)).eval()
    for layer in model.backbone.output_convs:
        for value in layer.state_dict().values():
            if value.dim() == 1:  # the same in all channels so far
                value.copy_(torch.rand_like(value) + 0.5)
    for name, value in model.state_dict().items():
        if "bbox" not in name and "anchor_deltas" not in name and not name.startswith("backbone"):
            value.mul_(3)
    return model


@pytest.mark.parametrize("opts", [[], CASCADE, CONVOLUTIONS], ids=["linear", "cascade", "conv"])
def test_the_permuted_teacher_detects_the_same(tiny, batch, script, opts):
    model, images, order = detector(tiny, *opts), batch((64, 96)), torch.randperm(8).roll(1)

    @torch.no_grad()
    def look():
        features = model.backbone(model.preprocess_image(images).tensor)
        return features, model(images)[0]["instances"].get_fields()

    features, found = look()
    script["permute_fpn"](model, order)
    permuted, after = look()
    assert len(found["scores"]) and ("pred_masks" in found) == ("MODEL.MASK_ON" in opts)
    for name, value in found.items():
        value, other = (getattr(v, "tensor", v).double() for v in (value, after[name]))
        torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-3)
    for name, level in features.items():  # p6 as well
        torch.testing.assert_close(permuted[name], level[:, order])
    a, b = features["p3"], permuted["p3"]
    assert patch_cka(a, b, grouping="batch", patch_size=2) == pytest.approx(1, abs=1e-5)
    assert patch_cka(a, b, grouping="channel", patch_size=2) < 0.95


def test_what_cannot_be_permuted_is_refused(tiny, script):
    for opts in (
        [
            "MODEL.META_ARCHITECTURE",
            "RetinaNet",
            "MODEL.BACKBONE.NAME",
            "build_retinanet_narrow_resnet_fpn_backbone",
        ],
        ["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 32],
    ):
        model = build_model(teacher_config(tiny("MODEL.PCKA.TEACHER.OPTS", opts)))
        with pytest.raises(ConfigError, match="Faster, Mask or Cascade R-CNN"):
            script["permute_fpn"](model, torch.arange(8))


@pytest.mark.slow
def test_the_files_start_ordinary_runs(tiny, tiny_yaml, tmp_path):
    """A student of half the width shares the 3x3 convolutions and no lateral one."""
    command = [
        sys.executable,
        "-m",
        "pcka.experiments.permuted_teacher",
        "--config-file",
        tiny_yaml,
        "--output",
        tmp_path,
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    names = ", ".join(f"fpn_output{i}" for i in (2, 3, 4, 5))
    assert f"student_fpn.pth: {names}\n" in run.stdout
    cfg = tiny(
        "MODEL.WEIGHTS",
        str(tmp_path / "student_fpn.pth"),
        "MODEL.PCKA.TEACHER.WEIGHTS",
        str(tmp_path / "teacher_permuted.pth"),
    )
    original, permuted = build_teacher(tiny()).model, build_teacher(cfg).model
    torch.manual_seed(3)
    model = build_model(cfg)
    fresh = {key: value.clone() for key, value in model.student.state_dict().items()}
    StudentCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    for key, value in model.student.state_dict().items():
        shared = key.startswith("backbone.fpn_output")
        wanted = original.state_dict()[key] if shared else fresh[key]
        assert torch.equal(value, wanted), key
        if shared:
            assert torch.equal(permuted.state_dict()[key], wanted[order]), key


def test_the_quickstarts_layers_that_fit(script):
    student, teacher = (
        build_model(student_config(load_config(str(ROOT / f"configs/quickstart/{name}.yaml"))))
        for name in ("student", "teacher")
    )
    layers = {key.split(".")[1] for key in script["shared_fpn"](student, teacher)}
    assert layers == {f"fpn_output{i}" for i in (2, 3, 4, 5)}
    for layer in layers:
        assert f"backbone.{layer}.norm.running_mean" in script["shared_fpn"](student, teacher)
