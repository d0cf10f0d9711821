"""A ratio of gradients as the weight of a term."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from pcka.core import DistillTerms, FeatureShape, Taps, TermSpec, mimic_loss, patch_cka

SHAPES = {"conv": FeatureShape(4, 1), "deep": FeatureShape(4, 1)}
WIDE = {"conv": FeatureShape(6, 1), "deep": FeatureShape(6, 1)}
PCKA = {"loss_args": {"patch_size": 4, "grouping": "batch", "center": True}}


class Student(nn.Module):
    """Two maps ``(B, 4, 8, 8)`` and logits ``(B, 5)``; the first map is divided by ``scale``."""

    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head, self.scale = nn.Linear(4, 5), scale
        self.double()
        with torch.no_grad():  # the first map itself is larger by as much
            self.conv.weight *= scale
            self.conv.bias *= scale

    def forward(self, images):
        maps = self.deep((self.conv(images) / self.scale).tanh())
        return self.head(maps.tanh().mean((2, 3)))


def draw(step, channels=4):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    taught = torch.randn(2, channels, 8, 8, generator=generator, dtype=torch.float64)
    return images, taught, torch.randint(0, 5, (2,), generator=generator)


def term(ratio=1.0, features=("conv",), **changes):
    options = {"name": "pcka", "features": features, "weight": {"ratio": ratio}}
    return TermSpec(**{**options, **({} if "loss" in changes else PCKA), **changes})


def make(specs, shapes=SHAPES, scale=1.0):
    student = Student(scale)
    return student, DistillTerms(specs, SHAPES, shapes).double()


def step(student, terms, batch, task_scale=1.0, loss_scale=1.0, teacher_scale=1.0):
    """Fill the gradients of one step; return the losses and the features."""
    images, taught, labels = batch
    taps = Taps({"conv": student.conv, "deep": student.deep})
    with taps.record(terms.through) as features:
        logits = student(images)
    teacher = dict.fromkeys(("conv", "deep"), taught * teacher_scale)
    losses = {"own": task_scale * nn.functional.cross_entropy(logits, labels)}
    losses |= terms(features, teacher)
    (sum(losses.values()) * loss_scale).backward()
    return losses, features


def norm(x):
    return torch.linalg.vector_norm(x)


def test_the_gradient_is_that_of_the_definition():
    student, terms = make([term(0.5)])
    other, batch = deepcopy(student), draw(1)
    losses, _ = step(student, terms, batch)
    images, taught, labels = batch
    feature = other.conv(images)
    logits = other.head(other.deep(feature.tanh()).tanh().mean((2, 3)))
    cka = patch_cka(feature, taught, patch_size=4, grouping="batch", center=True)
    assert losses["loss_pcka_conv"].item() == pytest.approx(1 - cka.item(), abs=1e-12)
    own = nn.functional.cross_entropy(logits, labels)
    [g] = torch.autograd.grad(own, feature, retain_graph=True)
    [d] = torch.autograd.grad(1 - cka, feature, retain_graph=True)
    pull = 0.5 * norm(g) * (1 - cka).detach().sqrt() / norm(d)
    wanted = torch.autograd.grad(feature, [*other.conv.parameters()], g + pull * d)
    for parameter, gradient in zip(student.conv.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-9)
    figures = terms.balance_figures
    assert figures["weight/pcka_conv"].item() == pytest.approx(pull.item(), rel=1e-6)
    ratio = 0.5 * (1 - cka).sqrt().item()
    assert figures["gradient/pcka_conv"].item() == pytest.approx(ratio, rel=1e-6)


def test_the_norm_of_the_task_is_a_running_mean():
    student, terms = make([term()])
    norms, means = [], []
    for i in range(3):
        student.zero_grad()
        images, _, labels = draw(i)
        with Taps({"conv": student.conv}).record() as features:
            own = nn.functional.cross_entropy(student(images), labels)
        norms.append(norm(torch.autograd.grad(own, features["conv"])[0]).item())
        step(student, terms, draw(i))
        sums = terms.balances["conv"].mean
        means.append((sums[0] / sums[1]).item())
    weights = [0.9**2, 0.9, 1.0]
    assert means[0] == pytest.approx(norms[0], rel=1e-6)
    wanted = sum(w * n for w, n in zip(weights, norms, strict=True)) / sum(weights)
    assert means[2] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"task_scale": 1e3},
        {"task_scale": 1e-4},
        {"loss_scale": 2.0**16},
        {"teacher_scale": 30.0},
        {"student_scale": 50.0},
    ],
)
def test_units_do_not_matter(changes):
    """Five steps of gradient descent end in the same weights."""
    scale = changes.pop("student_scale", 1.0)
    size = changes.get("task_scale", 1.0) * changes.get("loss_scale", 1.0)
    ends = []
    for own_scale, options, unit in ((1.0, {}, 1.0), (scale, changes, size)):
        student, terms = make([term(features=("conv", "deep"))], scale=own_scale)
        for i in range(5):
            student.zero_grad()
            step(student, terms, draw(i), **options)
            with torch.no_grad():
                for name, p in student.named_parameters():
                    # The layer that is larger learns in units that are larger.
                    own = own_scale**2 if name.startswith("conv") else 1.0
                    p -= 0.1 / unit * own * p.grad
        with torch.no_grad():
            for p in student.conv.parameters():
                p /= own_scale
        ends.append([p.detach() for p in student.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


def test_a_loss_scale_that_changes_does_not_show():
    """Mixed precision multiplies the loss by a factor that it changes now and then."""
    gradients = []
    for scales in ([1.0, 1.0, 1.0], [1.0, 64.0, 4.0]):
        student, terms = make([term()])
        for i, scale in enumerate(scales):
            student.zero_grad()
            step(student, terms, draw(i), loss_scale=scale)
        gradients.append([p.grad / scales[-1] for p in student.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)


def test_an_adapter_gets_the_same_factor():
    spec = term(2.0, loss="Mimic", adapter="conv1x1")
    student, terms = make([spec], WIDE)
    other, adapter, batch = deepcopy(student), deepcopy(terms.adapters["pcka_conv"]), draw(3, 6)
    step(student, terms, batch)
    images, taught, labels = batch
    feature = other.conv(images)
    own = nn.functional.cross_entropy(
        other.head(other.deep(feature.tanh()).tanh().mean((2, 3))), labels
    )
    [g] = torch.autograd.grad(own, feature, retain_graph=True)
    loss = mimic_loss(adapter(feature), taught)
    d, *wanted = torch.autograd.grad(loss, [feature, *adapter.parameters()])
    factor = 2 * norm(g) / norm(d)  # a distance does not fade
    for parameter, gradient in zip(terms.adapters.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, factor * gradient, rtol=1e-6, atol=1e-9)


def test_terms_at_one_feature_add_up():
    specs = [term(1.0), term(0.3, name="hint", loss="Mimic")]
    gradients = []
    for chosen in (specs, specs[:1], specs[1:], []):
        student, terms = make(chosen)
        step(student, terms, draw(4))
        gradients.append(student.conv.weight.grad)
    both, first, second, none = gradients
    torch.testing.assert_close(both - none, (first - none) + (second - none), rtol=1e-5, atol=1e-9)


def test_a_constant_weight_at_the_same_feature_is_part_of_the_task():
    student, terms = make([term(0.5), term(name="hint", loss="Mimic", weight=2.0)])
    step(student, terms, draw(5))
    alone, constant = make([term(name="hint", loss="Mimic", weight=2.0)])
    _, features = step(alone, constant, draw(5))
    assert features["conv"].requires_grad
    ratio = terms.balance_figures["gradient/pcka_conv"].item()
    extra = student.conv.bias.grad - alone.conv.bias.grad
    assert norm(extra) > 0 and 0 < ratio <= 0.5


def test_a_schedule_scales_the_ratio():
    student, terms = make([term(schedule={"kind": "linear", "end": 0.0})])
    images, taught, labels = draw(6)
    found = []
    for progress in (0.0, 0.5):
        with Taps({"conv": student.conv}).record(terms.through) as features:
            own = nn.functional.cross_entropy(student(images), labels)
        losses = terms(features, {"conv": taught}, progress=progress)
        (own + sum(losses.values())).backward()
        found.append(terms.balance_figures["gradient/pcka_conv"].item())
    assert found[1] == pytest.approx(found[0] / 2, rel=1e-6)


def test_at_a_perfect_match_nothing_is_added():
    student, terms = make([term()])
    plain, _ = make([])
    images, _, labels = draw(7)
    taught = student.conv(images).detach()
    step(student, terms, (images, taught, labels))
    step(plain, DistillTerms([], SHAPES, SHAPES), (images, taught, labels))
    torch.testing.assert_close(student.conv.weight.grad, plain.conv.weight.grad, atol=1e-6, rtol=0)


def test_a_step_that_is_not_finite_leaves_the_mean():
    student, terms = make([term()])
    step(student, terms, draw(8))
    before = terms.balances["conv"].mean.clone()
    step(student, terms, draw(9), task_scale=float("inf"))
    assert torch.equal(before, terms.balances["conv"].mean)


@pytest.mark.parametrize("why", ["no loss", "frozen"])
def test_a_feature_without_a_gradient_of_the_task_is_named(why):
    student, terms = make([term(adapter="conv1x1", loss="Mimic")])
    images, taught, labels = draw(10)
    if why == "frozen":
        student.conv.requires_grad_(False)
    with Taps({"conv": student.conv}).record(terms.through) as features:
        logits = student(images)
    own = nn.functional.cross_entropy(logits, labels)
    if why == "no loss":
        own = student.head.weight.square().sum()
    losses = terms(features, {"conv": taught})
    if why == "frozen":  # an adapter alone has a gradient, so the feature is reached
        (own + sum(losses.values())).backward()
        assert student.conv.weight.grad is None
        return
    with pytest.raises(ValueError, match=r"no loss of the student's own.*'conv'.*pcka_conv"):
        (own + sum(losses.values())).backward()


def test_without_gradients_the_value_is_that_of_the_loss():
    student, terms = make([term()])
    images, taught, _ = draw(11)
    with torch.no_grad(), Taps({"conv": student.conv}).record(terms.through) as features:
        student(images)
        losses = terms(features, {"conv": taught})
    assert terms.similarities({k: v.item() for k, v in losses.items()})["cka/pcka_conv"] < 1


def test_the_state_is_kept_with_the_adapters():
    student, terms = make([term()])
    step(student, terms, draw(12))
    resumed = DistillTerms([term()], SHAPES, SHAPES).double()
    resumed.load_state_dict(terms.state_dict())
    gradients = []
    for each in (terms, resumed):
        student.zero_grad()
        step(student, each, draw(13))
        gradients.append(student.conv.weight.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    "weight",
    [{"ratio": -1}, {"ratio": "1"}, {"ratio": True}, {"ratio": float("nan")}, {"share": 1}, {}],
)
def test_bad_ratios_name_the_term(weight):
    with pytest.raises(ValueError, match=r"term 'pcka': (ratio|weight) is"):
        term(weight=weight)
