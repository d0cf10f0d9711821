"""Schedules: the factor by hand, and that a term of weight 0 costs nothing."""

import math

import pytest
import torch

from pcka.core import DistillTerms, FeatureShape, Schedule, TermSpec, mimic_loss, patch_cka
from pcka.core.schedules import progress_at

SHAPES = {"p2": FeatureShape(4, 4), "p3": FeatureShape(4, 8)}
WIDE = {"p2": FeatureShape(6, 4), "p3": FeatureShape(6, 8)}


def features(shapes):
    return {name: torch.randn(2, s.channels, 8, 8) for name, s in shapes.items()}


def cka_and_mimic(**schedule):
    """Return terms: PCKA on p2 with this schedule, and mimic on p3 without one."""
    return [
        TermSpec("pcka", ["p2"], loss_args={"patch_size": 2}, weight=3.0, schedule=schedule),
        TermSpec("mimic", ["p3"], loss="Mimic"),
    ]


@pytest.mark.parametrize(
    ("schedule", "expected"),  # at 0.1, 0.3, 0.5, 0.7, 0.9
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"kind": "linear"}, [0.9, 0.7, 0.5, 0.3, 0.1]),
        ({"kind": "linear", "end": 0.5}, [0.95, 0.85, 0.75, 0.65, 0.55]),
        (
            {"kind": "cosine", "end": 0.2},
            [0.2 + 0.4 * (1 + math.cos(math.pi * p / 10)) for p in (1, 3, 5, 7, 9)],
        ),
        ({"warmup": 0.4}, [0.25, 0.75, 1, 1, 1]),
        ({"off_at": 0.7}, [1, 1, 1, 0, 0]),
        # The decay lies between the warm-up and off_at.
        ({"kind": "linear", "warmup": 0.2, "off_at": 0.8}, [0.5, 5 / 6, 0.5, 1 / 6, 0]),
    ],
)
def test_factors_by_hand(schedule, expected):
    found = [Schedule(**schedule).factor(p) for p in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert found == pytest.approx(expected, abs=1e-12)
    stays = "kind" not in schedule and "off_at" not in schedule
    assert Schedule(**schedule).factor(1.0) == pytest.approx(schedule.get("end", float(stays)))


@pytest.mark.parametrize("steps", [7, 90, 500, 11211])
def test_a_fraction_is_the_edge_between_two_steps(steps):
    """Rounded fractions work as well, and no step of a warm-up or after the end is lost."""
    for edge in range(1, steps, max(1, steps // 50)):
        schedule = Schedule(off_at=round(edge / steps, 5))
        assert schedule.factor(progress_at(edge - 1, steps)) == 1
        assert schedule.factor(progress_at(edge, steps)) == 0
    assert 0 < Schedule(warmup=0.5).factor(progress_at(0, steps)) < 1 / steps + 1e-12
    assert progress_at(steps + 3, steps) == 1


def test_the_weight_follows_the_schedule():
    student, teacher = features(SHAPES), features(SHAPES)
    terms = DistillTerms(cka_and_mimic(kind="linear"), SHAPES, SHAPES)
    cka = patch_cka(student["p2"], teacher["p2"], patch_size=2)
    losses = terms(student, teacher, progress=0.25)
    torch.testing.assert_close(losses["loss_pcka_p2"], 0.75 * 3 * (1 - cka))
    assert torch.equal(losses["loss_mimic_p3"], mimic_loss(student["p3"], teacher["p3"]))
    full = terms(student, teacher)
    torch.testing.assert_close(full["loss_pcka_p2"], 3 * (1 - cka))
    # The figure is CKA for any weight.
    for found, progress in ((losses, [0.25]), (full, [None])):
        values = {name: loss.item() for name, loss in found.items()}
        assert terms.similarities(values, progress) == {
            "cka/pcka_p2": pytest.approx(cka.item(), abs=1e-6)
        }


def test_constant_is_the_weight_to_the_bit():
    student, teacher = features(SHAPES), features(SHAPES)
    plain = DistillTerms([TermSpec("mimic", ["p3"], loss="Mimic", weight=0.3)], SHAPES, SHAPES)
    wanted = 0.3 * mimic_loss(student["p3"], teacher["p3"])
    for progress in (None, 0.001, 0.5, 1.0):
        found = plain(student, teacher, progress=progress)["loss_mimic_p3"]
        assert torch.equal(found, wanted)


def test_similarity_of_several_steps_counts_each_by_its_weight():
    terms = DistillTerms(cka_and_mimic(kind="linear", off_at=0.5), SHAPES, SHAPES)
    steps = [0.1, 0.3, 0.7]  # weights 3 * 0.8, 3 * 0.4 and 0
    loss = (2.4 * (1 - 0.5) + 1.2 * (1 - 0.8)) / 3
    found = terms.similarities({"loss_pcka_p2": loss}, steps)
    assert found == {"cka/pcka_p2": pytest.approx((2.4 * 0.5 + 1.2 * 0.8) / 3.6)}
    assert terms.similarities({"loss_pcka_p2": 0.0}, [0.6, 0.7]) == {}


def test_a_term_that_is_off_is_not_computed():
    spec = TermSpec(
        "pcka",
        ["p2", "p3"],
        loss_args={"patch_size": 2},
        adapter="conv1x1",
        schedule={"off_at": 0.5},
    )
    terms = DistillTerms([spec], SHAPES, WIDE)
    assert set(terms.on(0.4)) == {"pcka_p2", "pcka_p3"} and not terms.on(0.6)
    student = features(SHAPES)
    losses = terms(student, {}, progress=0.6)  # no teacher
    assert {name: loss.item() for name, loss in losses.items()} == {
        "loss_pcka_p2": 0,
        "loss_pcka_p3": 0,
    }
    # Several processes wait for a gradient of every parameter.
    sum(losses.values()).backward()
    for parameter in terms.parameters():
        assert parameter.grad is not None and not parameter.grad.any()


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"kind": "step"}, "unknown kind 'step': one of constant, linear, cosine"),
        ({"kindd": "linear"}, "mapping with kind, end, warmup, off_at, got {'kindd': 'linear'}"),
        ("cosine", "mapping with kind, end, warmup, off_at, got cosine"),
        ({"off_at": 0}, "warmup 0.0 has to end before off_at 0"),
        ({"off_at": 460}, r"off_at is a fraction in \[0, 1\], got 460"),
        ({"warmup": float("nan")}, "warmup is a fraction"),
        ({"warmup": True}, "warmup is a fraction"),
        ({"warmup": "0.1"}, "warmup is a fraction"),
        ({"warmup": 0.5, "off_at": 0.4}, "has to end before"),
        ({"end": 0.1}, "set kind to linear or cosine"),
    ],
)
def test_errors_name_the_term(schedule, words):
    with pytest.raises(ValueError, match=f"term 'pcka': schedule.*{words}"):
        TermSpec("pcka", ["p2"], schedule=schedule)
