"""Mixed precision and gradient clipping with terms: half-precision networks, float32 CKA."""

import os
from functools import partial

import pytest
import torch
from detector_runs import train
from detectron2.utils.events import EventStorage

from pcka.core import patch_cka
from pcka.detection import ConfigError, Trainer
from pcka.detection.checks.preflight import check_run

TERMS = [
    {"NAME": "pcka", "FEATURES": ["p3"], "LOSS_ARGS": {"patch_size": 2}, "ADAPTER": "conv1x1"},
    {"NAME": "mimic", "FEATURES": ["p2"], "LOSS": "Mimic", "ADAPTER": "conv1x1"},
]
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def amp(dtype):
    # There is no warm-up, whose length would depend on MAX_ITER.
    common = ("MODEL.PCKA.TERMS", TERMS, "SOLVER.WARMUP_ITERS", 0, "SOLVER.BASE_LR", 1e-3)
    return (*common, *(("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", dtype) if dtype else ()))


@pytest.fixture(autouse=True)
def small_scale(monkeypatch):
    """Start with a small scale, because float16 skips steps until the scale fits."""
    scaler = partial(torch.amp.GradScaler, init_scale=8.0)
    monkeypatch.setattr("torch.amp.GradScaler", scaler)


def weights(cfg):
    return torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"))


@pytest.mark.parametrize("dtype", TYPES)
def test_networks_in_half_cka_in_float32(tiny, monkeypatch, dtype):
    seen = []
    cfg = tiny(*amp(dtype), "SOLVER.MAX_ITER", 1)
    build = Trainer.build_model.__func__

    def build_model(cls, cfg):
        model = build(cls, cfg)
        hook = lambda module, inputs, output: seen.append((*inputs, output))  # noqa: E731
        model.distill.losses["pcka_p3"].register_forward_hook(hook)
        return model

    monkeypatch.setattr(Trainer, "build_model", classmethod(build_model))
    trainer = train(cfg)
    ((student, teacher, loss),) = seen
    assert student.dtype == teacher.dtype == TYPES[dtype] and loss.dtype == torch.float32
    wanted = 1 - patch_cka(student.double(), teacher.double(), patch_size=2)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
def test_resumes_exactly(tiny, tmp_path, dtype):
    def run(name, iterations, resume=False):
        options = (*amp(dtype), "SOLVER.MAX_ITER", iterations, "OUTPUT_DIR", str(tmp_path / name))
        cfg = tiny(*options)
        train(cfg, resume=resume)
        return weights(cfg)

    straight, half = run("straight", 4), run("resumed", 2)
    resumed = run("resumed", 4, resume=True)
    assert all(torch.equal(w, resumed["model"][k]) for k, w in straight["model"].items())
    weight = "backbone.fpn_output2.weight"
    assert not torch.equal(straight["model"][weight], half["model"][weight])
    scalers = [w["trainer"]["_trainer"]["grad_scaler"] for w in (straight, resumed)]
    assert scalers[0] == scalers[1] and bool(scalers[0]) == (dtype == "float16")


@pytest.mark.slow
def test_goes_on_in_another_type(tiny):
    train(tiny(*amp(""), "SOLVER.MAX_ITER", 1))
    for iterations, dtype in ((2, "float16"), (3, "bfloat16"), (4, "float16"), (5, "")):
        trainer = train(tiny(*amp(dtype), "SOLVER.MAX_ITER", iterations), resume=True)
        assert trainer.iter == iterations


@pytest.mark.parametrize("dtype", ["", *TYPES])
def test_clipping_sees_the_gradients_of_all_losses(tiny, dtype):
    """With plain SGD of rate 1 no parameter moves by more than the norm of the clipping."""
    largest = 1e-4
    cfg = tiny(
        *amp(dtype),
        "SOLVER.MAX_ITER",
        1,
        "SOLVER.BASE_LR",
        1.0,
        "SOLVER.MOMENTUM",
        0.0,
        "SOLVER.WEIGHT_DECAY",
        0.0,
        "SOLVER.WEIGHT_DECAY_NORM",
        0.0,
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        True,
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        "norm",
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
        largest,
    )
    os.makedirs(cfg.OUTPUT_DIR)
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    before = {k: p.detach().double() for k, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {k: (p - before[k]).norm().item() for k, p in trainer.model.named_parameters()}
    for name in (
        "distill.adapters.pcka_p3.weight",
        "distill.adapters.mimic_p2.weight",
        "student.backbone.fpn_output3.weight",
    ):
        assert moved[name] == pytest.approx(largest, rel=0.01), name
    assert max(moved.values()) < 1.01 * largest


STUDENTS = {
    "Mask R-CNN": ("GeneralizedRCNN", "MODEL.MASK_ON", True),
    "Cascade R-CNN": (
        "GeneralizedRCNN",
        "MODEL.ROI_HEADS.NAME",
        "CascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
        True,
    ),
    "RetinaNet": ("RetinaNet", "MODEL.BACKBONE.NAME", "build_retinanet_narrow_resnet_fpn_backbone"),
    "FCOS": ("FCOS", "MODEL.BACKBONE.NAME", "build_fcos_narrow_resnet_fpn_backbone"),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("student", STUDENTS)
def test_every_student_trains(tiny, batch, student, dtype):
    """The losses of one batch are near those in float32, and their gradients reach the student."""
    architecture, *opts = STUDENTS[student]
    term = [{"FEATURES": ["p3"], "LOSS_ARGS": {"patch_size": 2}}]
    cfg = tiny(
        "MODEL.PCKA.STUDENT_META_ARCHITECTURE", architecture, *opts, "MODEL.PCKA.TERMS", term
    )
    model, inputs, found = Trainer.build_model(cfg).train(), batch((64, 96), (96, 64)), []
    for enabled in (False, True):
        torch.manual_seed(0)
        with EventStorage(), torch.autocast("cpu", TYPES[dtype], enabled=enabled):
            found.append(model(inputs))
    for name, loss in found[0].items():
        assert found[1][name].item() == pytest.approx(loss.item(), rel=0.2, abs=0.05), name
    sum(found[1].values()).backward()
    assert model.student.backbone.fpn_lateral3.weight.grad.abs().sum() > 0


def test_unknown_type_is_refused_early(tiny):
    cfg = tiny(*amp("float8"))
    with pytest.raises(ConfigError, match="is one of 'float16', 'bfloat16', got 'float8'"):
        check_run(cfg)
