"""Student, teacher and terms: the parts of the loss, and the place of the teacher."""

import pytest
import torch
import torch.nn.functional as F
from classifier_runs import CPU, TERMS, add_tiny_models, make_config, make_distiller, save_teacher
from torch import nn

from pcka.classification.building import check_teacher
from pcka.classification.checkpoints import CheckpointError
from pcka.classification.distiller import Distiller, build_terms
from pcka.classification.models import create_model
from pcka.classification.tapped_model import TappedModel
from pcka.classification.teacher import Teacher
from pcka.core import TermSpec, feature_cka, kd_loss, logit_cka
from pcka.errors import ConfigError

IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 5])
SAME = {"mean": (0.3,) * 3, "std": (0.2,) * 3, "data_mean": (0.3,) * 3, "data_std": (0.2,) * 3}


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    add_tiny_models(monkeypatch)


def distil(specs, student="tiny", teacher="tiny_wide", **options):
    student, teacher = create_model(student, 10), create_model(teacher, 10)
    terms, names = build_terms(specs, student, teacher, 32)
    return Distiller(student, Teacher(teacher, names, **SAME), terms, **options)


def specs(*names, **changes):
    return [TermSpec(**{**TERMS[name], **changes}) for name in names]


def test_features_are_those_inside_the_model():
    model = create_model("tiny", 10).eval()
    found = TappedModel(model, ["stage1", "last", "pooled", "logits", "stage2.0"])(IMAGES)
    stage1 = model.stage1(IMAGES)
    assert torch.equal(found["stage1"], stage1)
    assert torch.equal(found["stage2.0"], model.stage2[0](stage1))
    assert torch.equal(found["pooled"], model.stage2(stage1).mean((2, 3)))
    assert torch.equal(found["logits"], model(IMAGES))
    assert not any(m._forward_hooks for m in model.modules())


def test_shapes_leave_the_model_as_it_was():
    model = create_model("tiny", 10)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    shapes = TappedModel(model, ["stage1", "last", "pooled"]).shapes(32)
    assert shapes == {"stage1": (4, 4), "last": (8, 8), "pooled": (8, None), "logits": (10, None)}
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_losses_are_those_of_the_features_by_hand():
    distiller = distil(specs("kd", "fcka", weight=0.7), ce_weight=0.1, label_smoothing=0.2).eval()
    losses = distiller(IMAGES, LABELS)
    student, teacher = distiller.student, distiller.teacher.model
    logits = student(IMAGES)
    log_p = logits.log_softmax(1)
    hard, uniform = -log_p[range(6), LABELS], -log_p.mean(1)
    expected = {
        "loss_ce": 0.1 * (0.8 * hard + 0.2 * uniform).mean(),
        "loss_kd_logits": 0.7 * kd_loss(logits, teacher(IMAGES)),
        "loss_fcka_last": 0.7
        * (1 - feature_cka(*(m.stage2(m.stage1(IMAGES)) for m in (student, teacher)))),
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=name)


def test_no_cross_entropy_at_weight_0():
    assert list(distil(specs("kd"), ce_weight=0.0)(IMAGES, LABELS)) == ["loss_kd_logits"]


def test_the_teacher_is_frozen_and_outside():
    distiller = distil(specs("kd", "fcka", "hint"))
    teacher, calls = distiller.teacher.model, []
    teacher.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    for _ in range(2):
        distiller.train()
        assert not any(m.training for m in teacher.modules())
        sum(distiller(IMAGES, LABELS).values()).backward()
    assert calls == [False, False]  # once per batch, without gradient
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    mine = set(distiller.parameters())
    assert mine == {*distiller.student.parameters(), *distiller.distill.parameters()}
    assert {name.split(".")[0] for name in distiller.state_dict()} == {"student", "distill"}
    assert all(p.grad is not None for p in distiller.distill.parameters())


def test_the_teacher_sees_its_own_mean_and_std():
    model = create_model("tiny_wide", 10)
    own, data = (
        {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
        ((0.1, 0.2, 0.3), (0.9, 0.8, 0.7)),
    )
    teacher = Teacher(model, ["last"], **own, data_mean=data[0], data_std=data[1])

    def normalize(mean, std):
        return (IMAGES - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    found = teacher(normalize(*data))
    alone = TappedModel(model.eval(), ["last"])(normalize(own["mean"], own["std"]))
    torch.testing.assert_close(found, alone)
    same = Teacher(model, **SAME)
    assert same.normalize(IMAGES) is IMAGES


def test_student_starts_the_same_with_and_without_a_teacher(tmp_path):
    teacher = save_teacher(tmp_path / "t.pth")
    taught, _ = make_distiller(
        make_config(tmp_path / "a", {"teacher": teacher, "terms": list(TERMS.values())})
    )
    alone, _ = make_distiller(make_config(tmp_path / "b"))
    for name, value in alone.student.state_dict().items():
        assert torch.equal(value, taught.student.state_dict()[name]), name
    other, _ = make_distiller(make_config(tmp_path / "c", {"seed": 2}))
    assert not torch.equal(other.student.fc.weight, alone.student.fc.weight)


@pytest.mark.parametrize("teacher", [None, {"name": "resnet8", "weights": "nowhere.pth"}])
def test_weight_0_needs_no_teacher(tmp_path, teacher):
    term = {**TERMS["kd"], "weight": 0}
    distiller, _ = make_distiller(
        make_config(tmp_path / "a", {"teacher": teacher, "terms": [term]})
    )
    assert distiller.teacher is None and distiller.distill is None


def test_terms_of_weight_0_are_left_out_beside_others(tmp_path):
    terms = [TERMS["kd"], {**TERMS["hint"], "weight": 0, "features": ["no_such"]}]
    cfg = make_config(tmp_path / "a", {"teacher": save_teacher(tmp_path / "t.pth"), "terms": terms})
    assert list(make_distiller(cfg)[0].distill.pairings) == ["kd_logits"]


def test_levels_are_mapped_where_the_numbers_of_stages_differ():
    mapped = TermSpec(
        "fcka", ("stage2", "stage3"), loss="FeatureCKA", teacher_features=("stage3", "stage5")
    )
    distiller = distil([mapped], student="resnet8", teacher="vgg8")
    losses = distiller(IMAGES, LABELS)
    assert {"loss_fcka_stage2", "loss_fcka_stage3"} < losses.keys()
    assert [pair.teacher for pair in distiller.distill.pairings.values()] == ["stage3", "stage5"]


def test_a_stage_that_only_the_student_has_asks_for_its_counterpart():
    with pytest.raises(ValueError, match=r"(?s)'fcka'.*no feature 'stage5'.*teacher_features"):
        distil(specs("fcka", features=["stage5"]), student="vgg8", teacher="resnet8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": {"name": "resnt8"}}, "student.name.*did you mean"),
        ({"terms": [{**TERMS["hint"], "features": ["layer9"]}]}, "no feature 'layer9'.*stage1, st"),
        ({"terms": [{**TERMS["hint"], "adapter": "identity"}]}, "4 channels.*8.*conv1x1"),
        ({"terms": [{**TERMS["kd"], "features": ["last"]}]}, "relates logits.*'last' is a map"),
        ({"terms": [TERMS["kd"]], "teacher": {"name": "tiny_wide"}}, "teacher.weights is empty"),
    ],
)
def test_configs_that_cannot_be_built(tmp_path, changes, words):
    tree = {"teacher": save_teacher(tmp_path / "t.pth"), **changes}
    with pytest.raises(ConfigError, match=words):
        make_distiller(make_config(tmp_path / "a", tree))


def test_teacher_files_that_do_not_fit(tmp_path):
    tree = {"terms": [TERMS["kd"]], "teacher": {"name": "resnet8", "weights": "nowhere.pth"}}
    with pytest.raises(CheckpointError, match=r"no checkpoint 'nowhere\.pth'"):
        make_distiller(make_config(tmp_path / "a", tree))
    tree["teacher"] = save_teacher(tmp_path / "seven.pth", "resnet8", classes=7)
    with pytest.raises(CheckpointError, match="for 7 classes, and the model is to tell 10"):
        make_distiller(make_config(tmp_path / "b", tree))


def test_a_teacher_at_chance_stops_the_run(tmp_path):
    teacher = save_teacher(tmp_path / "t.pth")
    cfg = make_config(tmp_path / "a", {"teacher": teacher, "terms": [TERMS["kd"]]})
    distiller, data = make_distiller(cfg)
    check_teacher(cfg, distiller.teacher, data, CPU)
    cfg = make_config(
        tmp_path / "a",
        {"teacher": {**teacher, "min_accuracy": None}, "terms": [TERMS["kd"]]},
    )
    words = r"tiny_wide reaches top-1 1\d\.\d\d, .* less than 15.13 \(always the most frequent"
    with pytest.raises(ConfigError, match=words):
        check_teacher(cfg, distiller.teacher, data, CPU)


@pytest.mark.parametrize("name", ["fcka", "intra"])
def test_a_batch_of_one_is_refused_by_a_cka_term(name):
    distiller = distil(specs(name))
    distiller.check_batch(2, 32)
    before = {k: v.clone() for k, v in distiller.state_dict().items()}
    with pytest.raises(ValueError, match=r"1 sample.* give two or more"):
        distiller.check_batch(1, 32)
    assert distiller.training
    assert all(torch.equal(v, before[k]) for k, v in distiller.state_dict().items())


def test_batchnorm_of_one_value_is_refused_before_training():
    student = nn.Sequential(nn.Conv2d(3, 4, 32), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))
    distiller = Distiller(student)
    distiller.check_batch(2, 32)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        distiller.check_batch(1, 32)


def test_channels_last_reaches_both_networks_and_changes_no_loss():
    distiller = distil(specs("kd", "fcka", "hint"))
    expected = distiller(IMAGES, LABELS)
    distiller.channels_last()
    layout = {"memory_format": torch.channels_last}
    for model in (distiller.student, distiller.teacher.model):
        assert model.stage1[0].weight.is_contiguous(**layout)
    torch.testing.assert_close(distiller(IMAGES.contiguous(**layout), LABELS), expected)


def test_autocast_computes_the_losses_in_float32():
    distiller = distil(specs("kd", "intra", "hint")).eval()
    with torch.autocast("cpu", torch.bfloat16):
        losses = distiller(IMAGES, LABELS)
        logits, guide = distiller.student(IMAGES), distiller.teacher.model(IMAGES)
    assert logits.dtype is guide.dtype is torch.bfloat16
    logits, guide = logits.float(), guide.float()
    assert losses["loss_hint_stage1"].dtype is torch.float32
    for name, value in (
        ("ce", F.cross_entropy(logits, LABELS)),
        ("kd_logits", kd_loss(logits, guide)),
        ("intra_logits", 1 - logit_cka(logits, guide)),
    ):
        torch.testing.assert_close(losses[f"loss_{name}"], value, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_networks_give_the_same_losses(monkeypatch, backend):
    # aot_eager traces, hooks and all, but makes no machine code.
    compile_model = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda m: compile_model(m, backend=backend))
    distiller = distil(specs("kd", "fcka", "hint"))
    batches = (IMAGES, 1 - IMAGES)
    expected = [distiller(images, LABELS) for images in batches]
    keys = set(distiller.state_dict())
    distiller.compile()
    for images, wanted in zip(batches, expected, strict=True):
        losses = distiller(images, LABELS)
        torch.testing.assert_close(losses, wanted, rtol=1e-4, atol=1e-5)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in distiller.parameters())
    assert set(distiller.state_dict()) == keys
    torch._dynamo.reset()


def test_teacher_and_terms_come_together():
    with pytest.raises(ValueError, match="come together"):
        Distiller(create_model("tiny", 10), Teacher(create_model("tiny", 10), **SAME))


def test_features_that_are_neither_maps_nor_vectors():
    model = nn.Sequential(nn.Flatten(2), nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(ValueError, match=r"feature '0' is \(1, 3, 1024\): .* maps"):
        TappedModel(model, ["0"]).shapes(32)


def test_cross_entropy_alone_is_that_of_torch():
    model = create_model("tiny", 10).eval()
    losses = Distiller(model)(IMAGES, LABELS)
    assert torch.equal(losses.pop("loss_ce"), F.cross_entropy(model(IMAGES), LABELS))
    assert not losses
