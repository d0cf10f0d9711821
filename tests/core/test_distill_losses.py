"""The losses besides CKA: each compared with its definition in plain code."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pcka.core import AT, CWD, DIST, DKD, ITRD, KD, LOSSES, PKD, RKD, SP, TTM, Mimic

F64 = torch.float64
MAPS = (3, 4, 2, 5)
LOGITS = (6, 7)
TARGET = torch.tensor([0, 6, 3, 3, 1, 5])


def mimic(s, t):
    return ((s - t) ** 2).sum() / s.numel()


def pkd(s, t):
    def normalised(x):
        rows = x.transpose(0, 1).flatten(1)
        return (rows - rows.mean(1, keepdim=True)) / rows.std(1, correction=0, keepdim=True)

    return ((normalised(s) - normalised(t)) ** 2).mean() / 2


def divergence(p, q):
    return (p * (p / q).log()).sum()


def cwd(s, t, temperature):
    total = 0
    for image_s, image_t in zip(s, t, strict=True):
        for a, b in zip(image_s, image_t, strict=True):
            p, q = (m.flatten().div(temperature).softmax(0) for m in (b, a))
            total = total + divergence(p, q)
    return temperature**2 * total / (s.shape[0] * s.shape[1])


def kd(s, t, temperature, standardize=False):
    if standardize:
        s, t = (
            (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True) for x in (s, t)
        )
    log_q, p = F.log_softmax(s / temperature, 1), F.softmax(t / temperature, 1)
    return F.kl_div(log_q, p, reduction="batchmean") * temperature**2


def ttm(s, t, gamma, weighted):
    total = 0
    for q, p in zip(s.softmax(1), t.softmax(1), strict=True):
        weight = (p**gamma).sum()
        total = total + (weight if weighted else 1) * divergence(p**gamma / weight, q)
    return total / len(s)


def itrd(s, t, correlation, mutual, alpha):
    samples = len(s)
    a, b = ((x - x.mean(0)) / x.std(0) for x in (s, t))
    c = (a * b).sum(0) / samples
    shift = math.log2(s.shape[1]) + 2 * alpha * math.log2(1 / samples)
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (s, t))
    g, h = a @ a.T / samples, b @ b.T
    joint = (a @ a.T) * h
    mi = (g**2).sum() - ((joint / joint.trace()) ** 2).sum()
    return correlation * (torch.log2(((c - 1).abs() ** (2 * alpha)).sum()) - shift) + mutual * mi


def dkd(s, t, alpha, beta, temperature):
    total = 0
    for row_s, row_t, label in zip(s, t, TARGET.tolist(), strict=True):
        p, q = (row.div(temperature).softmax(0) for row in (row_t, row_s))
        others = [i for i in range(len(p)) if i != label]
        two = [torch.stack([x[label], x[others].sum()]) for x in (p, q)]
        rest = [x[others] / x[others].sum() for x in (p, q)]
        total = total + alpha * divergence(*two) + beta * divergence(*rest)
    return temperature**2 * total / len(s)


def dist(s, t, beta, gamma, temperature):
    p, q = (x.div(temperature).softmax(1).numpy() for x in (s, t))
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    return torch.tensor(temperature**2 * (beta * rows + gamma * columns))


def at(s, t):
    a, b = (F.normalize(x.pow(2).mean(1).flatten(1)) for x in (s, t))
    return (a - b).pow(2).mean()


def sp(s, t):
    a, b = (F.normalize(x.flatten(1) @ x.flatten(1).T) for x in (s, t))
    return torch.linalg.matrix_norm(a - b) ** 2 / len(s) ** 2


def rkd(s, t, distance_weight, angle_weight):
    s, t, n = s.flatten(1), t.flatten(1), len(s)
    distances, angles = [], []
    for x in (s, t):
        d = torch.stack([(x[i] - x[j]).norm() for i in range(n) for j in range(n)])
        distances.append(d / (d.sum() / (n * (n - 1))))
        cosines = []
        for i in range(n):
            for j in range(n):
                for k in range(n):
                    e, f = x[j] - x[i], x[k] - x[i]
                    straight = i in (j, k)
                    cosines.append(0 * e[0] if straight else e @ f / (e.norm() * f.norm()))
        angles.append(torch.stack(cosines))
    return distance_weight * huber(*distances) + angle_weight * huber(*angles)


def huber(a, b):
    d = (a - b).abs()
    return torch.where(d < 1, d**2 / 2, d - 0.5).mean()


# loss, options, plain definition, shapes of student and teacher
CASES = [
    (Mimic, {}, mimic, MAPS, MAPS),
    (PKD, {}, pkd, MAPS, MAPS),
    (CWD, {"temperature": 2.0}, cwd, MAPS, MAPS),
    (AT, {}, at, MAPS, (3, 9, 2, 5)),
    (SP, {}, sp, MAPS, (3, 11)),
    (RKD, {"distance_weight": 2.0, "angle_weight": 3.0}, rkd, (5, 2, 3), (5, 8)),
    (KD, {"temperature": 3.0}, kd, LOGITS, LOGITS),
    (KD, {"temperature": 2.0, "standardize": True}, kd, LOGITS, LOGITS),
    (TTM, {"gamma": 0.4, "weighted": False}, ttm, LOGITS, LOGITS),
    (TTM, {"gamma": 0.4, "weighted": True}, ttm, LOGITS, LOGITS),
    (ITRD, {"correlation": 2.0, "mutual": 3.0, "alpha": 1.2}, itrd, LOGITS, LOGITS),
    (DKD, {"alpha": 0.5, "beta": 2.0, "temperature": 3.0}, dkd, LOGITS, LOGITS),
    (DIST, {"beta": 2.0, "gamma": 0.5, "temperature": 3.0}, dist, LOGITS, LOGITS),
]
each = pytest.mark.parametrize(
    ("loss", "options", "plain", "student", "teacher"),
    CASES,
    ids=lambda c: getattr(c, "__name__", ""),
)


def pair(student, teacher, dtype=F64):
    # The factor 3 makes a temperature matter.
    return 3 * torch.randn(student, dtype=dtype), 3 * torch.randn(teacher, dtype=dtype)


def call(module, student, teacher):
    return module(student, teacher, *([TARGET] if module.needs_target else []))


@each
def test_definition(loss, options, plain, student, teacher):
    s, t = pair(student, teacher)
    torch.testing.assert_close(call(loss(**options), s, t), plain(s, t, **options))


@each
def test_gradient_goes_to_the_student_alone(loss, options, plain, student, teacher):
    s, t = pair(student, teacher)
    s.requires_grad_(), t.requires_grad_()
    module = loss(**options)
    assert torch.autograd.gradcheck(lambda s: call(module, s, t.detach()), s)
    call(module, s, t).backward()
    assert s.grad.abs().sum() > 0 and t.grad is None


@each
def test_perfect_match(loss, options, plain, student, teacher):
    t = pair(teacher, teacher)[1]
    if loss is ITRD:
        options = {**options, "mutual": 0.0}  # which is no distance
    if loss is TTM:
        options = {**options, "gamma": 1.0}  # otherwise a power of the teacher is the match
    s = t.clone().requires_grad_()
    value = call(loss(**options), s, t)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert s.grad.abs().max() < 1e-7


@each
def test_half_precision_is_computed_in_single(loss, options, plain, student, teacher):
    s, t = (x.bfloat16() for x in pair(student, teacher))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = call(loss(**options), s, t)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, call(loss(**options), s.float(), t.float()))


@each
def test_nan_is_not_hidden(loss, options, plain, student, teacher):
    s, t = pair(student, teacher)
    s.view(-1)[0] = math.nan
    assert call(loss(**options), s, t).isnan()


@each
def test_integers_are_refused(loss, options, plain, student, teacher):
    s, t = pair(student, teacher)
    with pytest.raises(TypeError, match=r"teacher is torch\.int64"):
        call(loss(**options), s, t.long())


def gradient(module, student, teacher):
    student = student.clone().requires_grad_()
    value = call(module, student, teacher)
    value.backward()
    return value.item(), student.grad


def test_samples_that_coincide_have_a_finite_gradient():
    s, t = torch.randn(4, 6), torch.randn(4, 6)
    s[1] = s[0]
    value, slope = gradient(RKD(), s, t)
    assert math.isfinite(value) and slope.isfinite().all()
    # All samples coincide, so there is no distance to divide by.
    value, slope = gradient(RKD(), torch.ones(4, 6), t)
    assert math.isfinite(value) and torch.equal(slope, torch.zeros(4, 6))


def test_dead_features_get_no_gradient():
    s, t = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    s[:, 1] = 0.1  # a channel that is constant, but for rounding
    value, slope = gradient(PKD(), s, t)
    assert 0 < value < 2 and not slope[:, 1].any() and slope[:, 0].any()
    s[2] = 0
    for loss in (AT(), SP()):
        value, slope = gradient(loss, s, t)
        assert value > 0 and slope.abs().max() < 10


@pytest.mark.parametrize(
    "module", [KD(), DKD(), DIST(), TTM(), KD(temperature=0.1), KD(standardize=True)], ids=repr
)
def test_sure_logits_stay_finite(module):
    # One class has all the probability, and that of the others is 0 in float32.
    t = 1e4 * F.one_hot(TARGET, 7).float()
    for s in (t.roll(1, 1), torch.randn(6, 7), t.clone()):
        value, slope = gradient(module, s, t)
        assert math.isfinite(value) and slope.isfinite().all()


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-12, 1e-30])
def test_dist_of_small_logits_has_all_its_digits(scale):
    """Where logits vanish, the softmax turns linear, and correlation does not see its slope."""
    s, t = torch.randn(2, 6, 7)
    wanted = DIST()(s.double() * scale, t.double() * scale)
    value, slope = gradient(DIST(), s * scale, t * scale)
    assert value == pytest.approx(wanted.item(), rel=1e-4)
    assert slope.isfinite().all() and slope.any()


def test_similarity_is_one_minus_the_loss():
    s = torch.randn(MAPS, dtype=F64)
    assert PKD.similarity == "pearson"
    # Correlation does not depend on scale and offset, and changes its sign with the map's.
    assert PKD()(2 * s + 3, s).item() == pytest.approx(0, abs=1e-12)
    assert PKD()(-s, s).item() == pytest.approx(2, abs=1e-12)


def test_every_entry_keeps_the_contract():
    for name, loss in LOSSES.items():
        module = loss()
        assert type(module).__name__ == name
        assert module.inputs in ("maps", "samples", "logits")
        assert isinstance(module.needs_equal_width, bool)
        assert module.needs_target == (name == "DKD")
        if name != "PatchCKA":
            assert module.check_map(1, 1) is None
        with pytest.raises(TypeError):
            loss(1.0)  # keywords alone


MAP, ROW = torch.ones(2, 3, 4, 4), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda: Mimic()(MAP, ROW), r"Mimic needs maps \(B, C, H, W\).*\(2, 3\)"),
        (lambda: Mimic()(MAP, MAP[:, :2]), "differ in channels: adapt the student"),
        (lambda: PKD()(MAP, MAP[..., :2]), "differ in batch or map size"),
        (lambda: CWD()(MAP, MAP[:1]), "differ in batch or map size"),
        (lambda: AT()(MAP[:0], MAP[:0]), r"got \(0, 3, 4, 4\)"),
        (lambda: SP()(MAP, ROW[:1]), r"SP compares one batch.*\(1, 3\)"),
        (lambda: RKD()(ROW[:0], ROW[:0]), r"RKD needs .* student is \(0, 3\)"),
        (lambda: SP()(MAP[:0], MAP[:0]), r"SP needs .* student is \(0, 3, 4, 4\)"),
        (lambda: RKD()(ROW[0], ROW), r"RKD needs \(B, \.\.\.\), student is \(3,\)"),
        (lambda: KD()(ROW, ROW[:, :2]), r"same classes, got \(2, 3\) and \(2, 2\)"),
        (lambda: DIST()(MAP, MAP), r"DIST needs logits \(B, P\)"),
        (lambda: TTM()(ROW, ROW[:, :2]), "TTM needs logits"),
        (lambda: TTM(gamma=0), "gamma is a positive number"),
        (lambda: TTM(weighted=1), "weighted is true or false"),
        (lambda: KD(standardize="yes"), "standardize is true or false"),
        (lambda: ITRD()(ROW, ROW[:, :2]), r"ITRD: .* differ in width: adapt the student \(linear"),
        (lambda: ITRD()(ROW[:1], ROW[:1]), "ITRD relates the samples of a batch: two or more"),
        (lambda: ITRD(mutual=-1), "mutual is a number and not negative"),
        (lambda: DKD()(ROW[:, :1], ROW[:, :1], TARGET[:2]), "two classes or more"),
        (lambda: DKD()(ROW, ROW, TARGET[:1]), r"each of 2 samples, target is \(1,\)"),
        (lambda: DKD()(ROW, ROW, torch.ones(2)), "float32"),
        (lambda: CWD(temperature=0), "temperature is a positive number, got 0"),
        (lambda: KD(temperature="4"), "temperature is a positive number, got '4'"),
        (lambda: DIST(beta=-1.0), "beta is a number and not negative"),
        (lambda: DKD(alpha=math.inf), "alpha"),
        (lambda: RKD(angle_weight=True), "angle_weight"),
    ],
)
def test_bad_input(attempt, words):
    with pytest.raises(ValueError, match=words):
        attempt()


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-12, 1e12, 1e20, 1e30])
@pytest.mark.parametrize("loss", [AT, SP, PKD, RKD, ITRD])
def test_extreme_scales(loss, scale):
    """These losses do not depend on the scale, and float32 must not make them depend on it."""
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, 3, 5, 5, generator=draw) for _ in range(2))
    expected = loss()(x, y)
    torch.testing.assert_close(loss()(x * scale, y * scale), expected, rtol=1e-5, atol=0)
    assert loss()(x * math.nan, y).isnan()
