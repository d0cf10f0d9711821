"""Terms: the pairing of features, their losses, adapters, weights and sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pcka.core import (
    DistillTerms,
    FeatureShape,
    Taps,
    TermSpec,
    dkd_loss,
    feature_cka,
    logit_cka,
    mimic_loss,
    patch_cka,
)
from pcka.core.features import on_common_extent

STUDENT = {"p2": FeatureShape(4, 4), "p3": FeatureShape(4, 8), "res3": FeatureShape(6, 8)}
TEACHER = {"p2": FeatureShape(4, 4), "p3": FeatureShape(4, 8), "res3": FeatureShape(6, 8)}

# A classifier: a map, the vector before the last layer, logits.
CLASSIFIER = {"layer2": FeatureShape(4, 2), "pool": FeatureShape(6), "logits": FeatureShape(5)}
LARGER = {"block2": FeatureShape(4, 4), "pool": FeatureShape(8), "logits": FeatureShape(5)}


def features(shapes, size=32, batch=2):
    return {
        name: torch.randn(batch, s.channels, size // s.stride * 4, size // s.stride * 4)
        for name, s in shapes.items()
    }


def term(**changes):
    arguments = {"name": "pcka", "features": ("p2", "p3"), "loss_args": {"patch_size": 4}}
    return TermSpec(**{**arguments, **changes})


def test_losses_are_named_and_weighted():
    student, teacher = features(STUDENT), features(TEACHER)
    terms = DistillTerms([term(weight=3.0)], STUDENT, TEACHER)
    losses = terms(student, teacher)
    assert list(losses) == ["loss_pcka_p2", "loss_pcka_p3"]
    wanted = 3 * (1 - patch_cka(student["p3"], teacher["p3"], patch_size=4))
    torch.testing.assert_close(losses["loss_pcka_p3"], wanted)
    similarities = terms.similarities({k: v.item() for k, v in losses.items()})
    assert similarities["cka/pcka_p3"] == pytest.approx(
        patch_cka(student["p3"], teacher["p3"], patch_size=4).item(), abs=1e-6
    )


def test_a_list_gives_one_value_per_feature():
    terms = DistillTerms([term(loss_args={"patch_size": [8, [4, 2]]})], STUDENT, TEACHER)
    assert [loss.options["patch_size"] for loss in terms.losses.values()] == [(8, 8), (4, 2)]


def test_weight_zero_leaves_nothing():
    terms = DistillTerms([term(weight=0.0)], STUDENT, TEACHER)
    assert not terms.pairings and terms({}, {}) == {}


def test_pairing_by_name_never_by_position():
    reordered = {"p3": FeatureShape(4, 8), "p2": FeatureShape(4, 4)}
    pairs = DistillTerms([term()], STUDENT, reordered).pairings
    assert [(p.student, p.teacher) for p in pairs.values()] == [("p2", "p2"), ("p3", "p3")]


def test_pairing_by_stride_where_names_differ():
    other = {"s2": FeatureShape(4, 8), "s1": FeatureShape(4, 4)}
    pairs = DistillTerms([term()], STUDENT, other).pairings
    assert [(p.student, p.teacher) for p in pairs.values()] == [("p2", "s1"), ("p3", "s2")]
    # With two features of one stride no guess is made.
    with pytest.raises(ValueError, match="teacher_features"):
        DistillTerms([term()], STUDENT, {**other, "t1": FeatureShape(4, 4)})
    named = DistillTerms(
        [term(teacher_features=("t1", "s2"))], STUDENT, {**other, "t1": FeatureShape(4, 4)}
    )
    assert named.pairings["pcka_p2"].teacher == "t1"


def test_adapter_bridges_widths_and_is_trained():
    wide = {"p2": FeatureShape(10, 4), "p3": FeatureShape(10, 8)}
    with pytest.raises(ValueError, match="conv1x1"):
        DistillTerms([term()], STUDENT, wide)
    terms = DistillTerms([term(adapter="conv1x1")], STUDENT, wide)
    sum(terms(features(STUDENT), features(wide)).values()).backward()
    gradients = {name: p.grad for name, p in terms.named_parameters()}
    assert gradients["adapters.pcka_p2.weight"].shape == (10, 4, 1, 1)
    assert gradients["adapters.pcka_p2.weight"].abs().sum() > 0
    # `batch` sums over the channels, so it needs no adapter.
    DistillTerms([term(loss_args={"grouping": "batch", "patch_size": 4})], STUDENT, wide)


def test_only_the_student_gets_a_gradient():
    student, teacher = features(STUDENT), features(TEACHER)
    for f in (*student.values(), *teacher.values()):
        f.requires_grad_()
    sum(DistillTerms([term()], STUDENT, TEACHER)(student, teacher).values()).backward()
    assert student["p2"].grad.abs().sum() > 0


def test_maps_are_cut_to_the_part_of_the_image_both_cover():
    student = torch.arange(5 * 7.0).view(1, 1, 5, 7)
    teacher = torch.arange(8 * 8.0).view(1, 1, 8, 8)  # padded further
    x, y = on_common_extent(student, teacher, 8, 8)
    assert torch.equal(x, student) and torch.equal(y, teacher[..., :5, :7])
    # Maps of unequal strides are cut to the same pixels, then resized.
    x, y = on_common_extent(student, torch.ones(1, 2, 4, 4), 8, 16)
    assert x.shape == (1, 1, 5, 7) and y.shape == (1, 2, 5, 7)


def classifier_features(shapes, size=8, batch=6):
    return {
        name: torch.randn(batch, s.channels, *[size // s.stride] * 2 if s.stride else [])
        for name, s in shapes.items()
    }


def test_maps_vectors_and_logits_in_one_set_of_terms():
    student, teacher = classifier_features(CLASSIFIER), classifier_features(LARGER)
    target = torch.tensor([0, 1, 2, 3, 4, 0])
    specs = [
        TermSpec("hint", ["layer2"], loss="Mimic", teacher_features=["block2"]),
        TermSpec(
            "fcka",
            ["layer2", "pool"],
            loss="FeatureCKA",
            weight=2.0,
            teacher_features=["block2", "pool"],
        ),
        TermSpec("intra", ["logits"], loss="LogitCKA"),
        TermSpec("inter", ["logits"], loss="LogitCKA", loss_args={"relation": "inter"}),
        TermSpec("dkd", ["logits"], loss="DKD", loss_args={"beta": 1.0}),
    ]
    terms = DistillTerms(specs, CLASSIFIER, LARGER)
    losses = terms(student, teacher, target)
    s, t, ls, lt = student["layer2"], teacher["block2"], student["logits"], teacher["logits"]
    # Maps are compared at the student's size, samples and logits as they are.
    resized = nn.functional.interpolate(t, size=(4, 4), mode="bilinear")
    wanted = {
        "hint_layer2": mimic_loss(s, resized),
        "fcka_layer2": 2 * (1 - feature_cka(s, t)),
        "fcka_pool": 2 * (1 - feature_cka(student["pool"], teacher["pool"])),
        "intra_logits": 1 - logit_cka(ls, lt),
        "inter_logits": 1 - logit_cka(ls, lt, relation="inter"),
        "dkd_logits": dkd_loss(ls, lt, target, beta=1.0),
    }
    assert {f"loss_{name}" for name in wanted} == set(losses)
    for name, value in wanted.items():
        torch.testing.assert_close(losses[f"loss_{name}"], value)
    assert "cka/inter_logits" in terms.similarities({k: v.item() for k, v in losses.items()})
    with pytest.raises(ValueError, match="dkd_logits: DKD needs the labels of the batch"):
        terms(student, teacher)


def test_linear_adapter_brings_a_vector_to_the_teachers_width():
    spec = TermSpec("dist", ["pool"], loss="DIST", adapter="linear")
    terms = DistillTerms([spec], CLASSIFIER, LARGER)
    losses = terms(classifier_features(CLASSIFIER), classifier_features(LARGER))
    losses["loss_dist_pool"].backward()
    assert terms.adapters["dist_pool"].weight.grad.shape == (8, 6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"features": ["layer2"], "loss": "KD", "teacher_features": ["logits"]},
            r"KD relates logits \(B, P\), but the student's 'layer2' is a map",
        ),
        (
            {"features": ["logits"], "loss": "KD", "teacher_features": ["block2"]},
            "the teacher's 'block2' is a map",
        ),
        (
            {"features": ["pool"], "loss": "Mimic"},
            r"Mimic relates maps \(B, C, H, W\), but the student's 'pool' is a vector",
        ),
        ({"features": ["pool"], "adapter": "conv1x1"}, "is a vector.*set 'linear'"),
        (
            {"features": ["layer2"], "adapter": "linear", "teacher_features": ["block2"]},
            "is a map.*set 'conv1x1'",
        ),
        ({"features": ["pool"], "loss": "KD"}, "6 channels.*8: set the adapter 'linear'.*classes"),
        ({"features": ["fc"], "teacher_features": ["pool"]}, "no feature 'fc'"),
        # Features without a stride can be paired only by name.
        ({"features": ["out"]}, r"no feature 'out': it has block2 \(stride 4\), pool \(vector\)"),
    ],
)
def test_features_that_do_not_fit_a_loss(changes, words):
    shapes = {**CLASSIFIER, "out": FeatureShape(5)}
    with pytest.raises(ValueError, match=words):
        DistillTerms([TermSpec("t", **{"loss": "FeatureCKA", **changes})], shapes, LARGER)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "PachCKA"}, "PatchCKA"),
        ({"adapter": "conv3x3"}, "conv1x1, conv1x1_bn_relu, identity, linear"),
        ({"features": ("p7",)}, "no feature 'p7': it has p2, p3, res3"),
        ({"features": ()}, "different names"),
        ({"features": ("p2", "p2")}, "different names"),
        ({"features": "p2"}, "list of names"),
        ({"teacher_features": ("p2",)}, "2 features but 1"),
        ({"teacher_features": ("p2", "q")}, r"no feature 'q'.*p2 \(stride 4\)"),
        ({"weight": -1.0}, "not negative"),
        ({"weight": float("nan")}, "finite"),
        ({"weight": "10"}, "a number"),
        ({"name": "p cka"}, "identifier"),
        ({"loss_args": {"patch": 4}}, "patch"),
        ({"loss_args": {"patch_size": [4, 4, 4]}}, "3 values for 2 features"),
    ],
)
def test_bad_terms(changes, words):
    with pytest.raises(ValueError, match=words):
        DistillTerms([term(**changes)], STUDENT, TEACHER)


def test_two_terms_of_one_name():
    with pytest.raises(ValueError, match="one name"):
        DistillTerms([term(), term()], STUDENT, TEACHER)
    dotted = {"a.b": FeatureShape(4, 4), "a_b": FeatureShape(4, 4)}
    with pytest.raises(ValueError, match="called 'pcka_a_b' too"):
        DistillTerms([term(features=tuple(dotted))], dotted, dotted)


def test_taps_read_without_keeping():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Identity()

        def forward(self, x):
            return self.body({"p2": self.stem(x)})["p2"].sum()

    net = Net()
    taps = Taps({"stem": net.stem, "body": net.body})
    with taps.record() as seen:
        total = net(torch.ones(1, 3, 2, 2))
    assert set(seen) == {"stem", "p2"} and seen["p2"].requires_grad
    assert total.item() == pytest.approx(seen["p2"].sum().item())
    with pytest.raises(RuntimeError), taps.record():
        raise RuntimeError
    assert not net.stem._forward_hooks and not net.body._forward_hooks


@pytest.mark.parametrize("change", [lambda x: x.add_(1), F.relu_, lambda x: x[0].zero_()])
def test_a_feature_that_is_changed_afterwards_is_named(change):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            x = self.first(x)
            change(x)
            return self.second(x)

    net, x = Net(), torch.randn(3, 2)
    taps = Taps({"early": net.first})
    words = "feature 'early' is changed in place by what follows"
    with torch.no_grad(), pytest.raises(ValueError, match=words), taps.record():
        net(x)
    with torch.no_grad(), Taps({"early": net.first}, copy=True).record() as features:
        net(x)
    assert torch.equal(features["early"], net.first(x))
    with torch.inference_mode(), Taps({"late": net.second}).record() as features:
        assert torch.equal(net(x), features["late"])
