"""Curves over training: one panel per kind, one colour per term, names that do not overlap."""

from itertools import pairwise

import numpy as np
import pytest

from pcka.experiments.pages.curves import curves_figure, short_names
from pcka.experiments.pages.html import Picture
from pcka.experiments.pages.training import training_section

STEPS = np.array([19, 39, 59])


def scalars(levels=3):
    found = {"total_loss": (STEPS, STEPS), "fast_rcnn/accuracy": (STEPS, STEPS)}
    for level in range(levels):
        found[f"gradient/pcka_p{level}"] = (STEPS, 10.0 ** -np.arange(3) * (level + 1))
        found[f"share/pcka_p{level}"] = (STEPS, np.array([0.1, 0.2, np.nan]) * level)
        found[f"cka/pcka_p{level}"] = (STEPS, np.array([0.5, 0.7, 0.9]))
    return found


def test_a_panel_for_every_kind():
    figure = curves_figure(scalars(), x_label="iteration", title="PCKA")
    titles = [axes.get_title("left") for axes in figure.axes]
    assert [title.split()[0] for title in titles] == ["CKA", "share", "gradient"]
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "iteration"]
    for axes in figure.axes:
        assert [len(line.get_xdata()) for line in axes.lines] == [3, 3, 3]
    assert figure.axes[2].lines[1].get_ydata().tolist() == pytest.approx([2, 0.2, 0.02])
    figure.canvas.draw()


def test_a_term_keeps_its_colour():
    found = {**scalars(), "cka/pcka_p0": (STEPS, np.full(3, np.nan))}
    del found["share/pcka_p0"]
    figure = curves_figure(found, x_label="iteration")
    colors = [{t.get_text(): t.get_color() for t in axes.texts} for axes in figure.axes]
    assert [set(c) for c in colors] == [{"p1", "p2"}, {"p1", "p2"}, {"p0", "p1", "p2"}]
    for label in ("p1", "p2"):
        assert len({c[label] for c in colors}) == 1
    lines = [line.get_color() for line in figure.axes[2].lines]
    assert len(set(lines)) == 3


@pytest.mark.parametrize("panel", [0, 2])
def test_names_stand_in_the_order_of_their_lines_apart(panel):
    axes = curves_figure(scalars(5), x_label="iteration").axes[panel]
    heights = {t.get_text(): t.xy[1] for t in axes.texts}
    order = sorted(heights, key=heights.get)
    assert order == [f"p{i}" for i in range(5)]
    assert all(heights[b] - heights[a] > 0.08 for a, b in pairwise(order))
    assert all(0 <= h <= 1 for h in heights.values())


def test_names_of_several_terms_are_whole():
    assert short_names(["pcka_p2", "pcka_p3"]) == {"pcka_p2": "p2", "pcka_p3": "p3"}
    assert short_names(["pcka_p2", "mimic_p2"]) == {"pcka_p2": "pcka_p2", "mimic_p2": "mimic_p2"}


def test_runs_without_terms_have_no_figure():
    with pytest.raises(ValueError, match=r"no scalar of cka, .* among total_loss"):
        curves_figure({"total_loss": (STEPS, STEPS)}, x_label="iteration")
    options = {"x_label": "iteration", "own": "its own losses", "option": "KEY"}
    section = training_section({"alone": {}, "taught": scalars()}, **options)
    [picture] = section.parts
    assert isinstance(picture, Picture) and picture.alt.startswith("taught: ")
    assert "1 is that of its own losses" in picture.caption
    without = {name: c for name, c in scalars().items() if not name.startswith("gradient/")}
    assert "not measured (KEY)" in training_section({"taught": without}, **options).parts[0].caption
    assert training_section({"alone": {}}, **options).text == [
        "No run here has records of terms: none was taught."
    ]
