"""The figure of a study: the layout, with few settings and with many."""

from itertools import pairwise

import pytest

from pcka.experiments.study.figure import difference_figure


def test_means_intervals_and_seeds():
    differences = {"three": {1: 3.0, 2: 4.0, 3: 5.0}, "one": {1: -2.0}, "none": {}}
    [axes] = difference_figure(differences, base="alone", metric="AP", title="t").axes
    bars = [line for line in axes.lines if line.get_marker() == "|"]
    assert [list(bar.get_xdata()) for bar in bars] == [[4.0], [-2.0]]
    dots = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[3.0, 4.0, 5.0], [-2.0]]
    intervals = [line for line in axes.lines if line.get_marker() == "None"]
    assert list(intervals[0].get_xdata()) == [0, 0]  # the base
    assert [list(line.get_xdata()) for line in intervals[1:]] == [
        pytest.approx([4 - 2.484, 4 + 2.484], abs=1e-3)  # 4.303 / sqrt(3)
    ]
    assert "alone" in axes.get_xlabel() and "AP" in axes.get_xlabel()
    assert axes.texts[0].get_text() == "no pair of runs"


@pytest.mark.parametrize("count", [4, 24])
def test_labels_do_not_touch(count):
    name = "PCKA beside mimic, grouping=position, center=True, patch size={}"
    differences = {name.format(i): {1: i, 2: i + 1.0} for i in range(count)}
    figure = difference_figure(differences, base="alone", metric="AP")
    figure.canvas.draw()
    [axes] = figure.axes
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert len(boxes) == count and figure.get_figwidth() * figure.dpi == 1600
    for upper, lower in pairwise(boxes):
        assert upper.y0 > lower.y1
    assert axes.get_window_extent().width > 0.5 * 1600
