"""How far an exported file is from its network."""

import pytest
import torch

from pcka.deploy.comparison import CutOff, compare
from pcka.errors import RunError

NAMES = ("boxes", "scores", "classes")
BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [5, 5, 8, 8]])
SCORES = torch.tensor([0.9, 0.8, 0.1])
CLASSES = torch.tensor([0, 1, 1])


def compared(boxes=BOXES, scores=SCORES, classes=CLASSES, keep=(0, 1, 2), cut_off=None):
    keep = list(keep)
    file = lambda _: (boxes[keep], scores[keep], classes[keep])  # noqa: E731
    return compare(lambda _: (BOXES, SCORES, CLASSES), file, [torch.zeros(1)], NAMES, cut_off)


def test_measures_the_largest_difference_whatever_the_order():
    found = compared(boxes=BOXES + 0.05, scores=SCORES - 5e-4, keep=(2, 0, 1))
    assert found.largest["boxes"] == pytest.approx(0.05, rel=1e-4)
    assert found.largest["scores"] == pytest.approx(5e-4, rel=1e-3)
    assert found.results == 3


@pytest.mark.parametrize("cut_off", [CutOff(0.0995, 100), CutOff(0.0, 3)])
def test_what_is_close_to_the_cut_off_may_be_missing(cut_off):
    assert compared(keep=(0, 1), cut_off=cut_off).largest == {"boxes": 0.0, "scores": 0.0}
    with pytest.raises(RunError):
        compared(keep=(0, 2), cut_off=cut_off)


def test_what_is_close_to_the_cut_off_is_compared_all_the_same():
    found = compared(scores=SCORES + 5e-4, cut_off=CutOff(0.9, 3))
    assert found.largest["scores"] == pytest.approx(5e-4, rel=1e-3)


@pytest.mark.parametrize(
    "changed",
    [
        {"boxes": BOXES + 0.2},
        {"scores": SCORES + 0.01},
        {"classes": 1 - CLASSES},
        {"keep": (1, 2)},
        {"keep": ()},
        {"keep": (0, 1)},
        {"boxes": BOXES + 0.2, "cut_off": CutOff(0.05, 100)},
        {"boxes": BOXES * torch.nan},
    ],
)
def test_refuses_what_differs(changed):
    with pytest.raises(RunError, match="computes something else"):
        compared(**changed)


def test_logits_are_compared_by_their_size():
    a = torch.tensor([[1000.0, -3.0]])
    inputs = [torch.zeros(1)]
    found = compare(lambda _: (a,), lambda _: (a + 0.5,), inputs, ["logits"])
    assert found.largest["logits"] == pytest.approx(5e-4)
    with pytest.raises(RunError):
        compare(lambda _: (a,), lambda _: (a + 5,), inputs, ["logits"])
    with pytest.raises(RunError):
        compare(lambda _: (a,), lambda _: (a[:, :1],), inputs, ["logits"])
