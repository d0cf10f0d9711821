"""The pictures: counts, drawing, and that nothing covers anything else."""

import io
import json
from itertools import combinations, pairwise

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from PIL import Image

from pcka.experiments.detection.figures import VERDICTS, comparison_figure
from pcka.experiments.detection.matching import match
from pcka.experiments.detection.metrics import last_iteration, read_scalars

CLASSES = ["cat", "dog", "bird"]
TRUTH = {
    "boxes": np.array([[10.0, 10, 50, 50], [60, 60, 100, 100], [10, 80, 30, 120]]),
    "classes": np.array([0, 1, 2]),
    "scores": None,
}
# A right detection, one with the wrong class, one with no object, a second one of the first object,
# and one below the threshold.
FOUND = {
    "boxes": np.array(
        [
            [12.0, 10, 50, 50],
            [60, 60, 100, 100],
            [90, 5, 120, 30],
            [10, 10, 50, 50],
            [10, 80, 30, 120],
        ]
    ),
    "classes": np.array([0, 2, 1, 0, 2]),
    "scores": np.array([0.9, 0.8, 0.7, 0.6, 0.3]),
}
EMPTY = {"boxes": np.zeros((0, 4)), "classes": np.zeros(0, int), "scores": np.zeros(0)}


def figure(images=1, columns=2, curves=4, **kwargs):
    panels = {"ground truth": [TRUTH] * images}
    for index in range(columns - 1):
        panels[f"student {index}"] = [FOUND] * images
    steps = np.arange(0, 100, 20)
    lines = {f"p{level}": (steps, 0.9 - 0.01 * level + 0 * steps) for level in range(curves)}
    pixels = [np.full((128, 128 + 32 * i, 3), 90, np.uint8) for i in range(images)]
    return comparison_figure(pixels, panels, CLASSES, lines, "A title as long as usual", **kwargs)


def texts_of(axes):
    return [t.get_text() for t in axes.texts]


def colors_of(axes):
    """Return the colours of the boxes, without their dark outlines."""
    edges = [p.get_edgecolor() for p in axes.patches if isinstance(p, Rectangle)]
    return ["#{:02X}{:02X}{:02X}".format(*(round(255 * v) for v in e[:3])) for e in edges[1::2]]


def test_matching_is_by_score_and_each_object_counts_once():
    keep = FOUND["scores"] >= 0.5
    right, missed = match({k: v[keep] for k, v in FOUND.items()}, TRUTH)
    assert right.tolist() == [True, False, False, False]
    assert missed.tolist() == [False, False, True]
    swapped = {
        **FOUND,
        "scores": FOUND["scores"][[3, 1, 2, 0, 4]],
    }  # the fourth has the higher score now
    assert match(swapped, TRUTH)[0].tolist() == [False, False, False, True, True]
    assert match(EMPTY, TRUTH)[1].all()
    assert not match(FOUND, {**EMPTY, "scores": None})[0].any()


@pytest.mark.parametrize("iou, is_right", [(0.51, True), (0.49, False)])
def test_the_line_is_drawn_at_an_iou_of_one_half(iou, is_right):
    truth = {"boxes": np.array([[0.0, 0, 100, 10]]), "classes": np.array([1]), "scores": None}
    found = {**truth, "boxes": np.array([[0.0, 0, 100 * iou, 10]])}
    right, missed = match(found, truth)
    assert right[0] == is_right and missed[0] != is_right


def test_verdicts_counts_and_threshold_are_drawn():
    axes = figure(truth="ground truth").axes
    green, red, orange = (VERDICTS[v][0] for v in ("right", "wrong", "missed"))
    assert colors_of(axes[1]) == [green, red, red, red, orange]
    assert texts_of(axes[1]) == ["cat 90%", "bird 80%", "dog 70%", "cat 60%"]
    assert texts_of(axes[0]) == ["cat", "dog", "bird"]
    assert not set(colors_of(axes[0])) & {green, red, orange}
    written = [t.get_text() for t in figure(images=2, truth="ground truth").texts]
    assert "2 right, 6 wrong, 2 missed" in written and "6 objects" in written
    lower = figure(truth="ground truth", score_threshold=0.2)
    assert "2 right, 3 wrong, 0 missed" in [t.get_text() for t in lower.texts]


def test_the_texts_of_boxes_in_one_place_do_not_cover_each_other():
    double = {"boxes": np.array([[20.0, 30, 60, 80], [21, 31, 61, 81]]), "classes": [0, 1]}
    image = np.zeros((128, 128, 3), np.uint8)
    result = comparison_figure([image], {"student": [{**double, "scores": [0.9, 0.8]}]}, CLASSES)
    result.canvas.draw()
    first, second = (t.get_window_extent() for t in result.axes[0].texts)
    assert second.y1 < first.y0  # below the box


def test_texts_stay_inside_the_image_at_its_edges():
    # The second box is near the first, but the image ends below it.
    edges = {"boxes": np.array([[9.0, 80, 29, 100], [10, 81, 40, 128], [60, 0, 80, 40]])}
    edges |= {"classes": [0, 1, 2], "scores": None}
    image = np.zeros((128, 128, 3), np.uint8)
    result = comparison_figure([image], {"student": [edges]}, CLASSES)
    result.canvas.draw()
    axes = result.axes[0]
    for text in axes.texts:
        place = text.get_window_extent()
        assert axes.bbox.y0 <= place.y0 and place.y1 <= axes.bbox.y1, text.get_text()


def test_without_a_truth_boxes_are_coloured_by_class():
    result = figure()
    cat, bird, dog, cat_again = colors_of(result.axes[1])
    assert cat == cat_again and len({cat, bird, dog}) == 3
    assert colors_of(result.axes[0]) == [cat, dog, bird]
    assert not result.legends
    assert len(figure(truth="ground truth").legends) == 1


@pytest.mark.parametrize("images, columns, curves", [(1, 2, 4), (6, 2, 3), (2, 5, 12), (3, 3, 0)])
def test_nothing_overlaps_and_everything_is_on_the_page(images, columns, curves):
    result = figure(images, columns, curves, truth="ground truth")
    assert len(result.axes) == images * columns + (curves > 0)
    result.canvas.draw()
    page = result.bbox
    parts = [a.get_tightbbox() if a.axison else a.get_window_extent() for a in result.axes]
    parts += [t.get_window_extent() for t in result.texts]
    parts += [legend.get_window_extent() for legend in result.legends]
    for part in parts:
        assert page.x0 <= part.x0 < part.x1 <= page.x1 and page.y0 <= part.y0 < part.y1 <= page.y1
    for a, b in combinations(parts, 2):
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
        assert apart, (a, b)


@pytest.mark.parametrize("alone", [0.1, 0.9])  # then the close ones are the upper or the lower
def test_the_names_of_close_curves_do_not_cover_each_other(alone):
    values = [alone] + [0.5 + 0.001 * i for i in range(6)]
    curves = {f"p{i}": (np.arange(3), np.full(3, value)) for i, value in enumerate(values)}
    image = np.zeros((64, 64, 3), np.uint8)
    result = comparison_figure([image], {"truth": [TRUTH]}, CLASSES, curves)
    result.canvas.draw()
    axes = result.axes[-1]
    places = {t.get_text(): t.get_window_extent() for t in axes.texts if isinstance(t, Annotation)}
    assert list(places) == sorted(curves, key=lambda name: values[int(name[1])])
    for below, above in pairwise(places.values()):
        assert below.y1 <= above.y0 + 3  # a name's extent has a blank pixel row or two
    for place in places.values():
        middle = (place.y0 + place.y1) / 2
        assert axes.bbox.y0 - 1 <= middle <= axes.bbox.y1 + 1


def test_curves_are_labelled_axes_and_may_be_short_or_broken():
    broken = {"p2": ([0, 1, 2], [0.1, np.nan, 0.3]), "p3": ([5], [0.5]), "p4": ([], [])}
    panels = {"ground truth": [TRUTH]}
    result = comparison_figure([np.zeros((64, 64, 3), np.uint8)], panels, CLASSES, broken, "")
    axes = result.axes[-1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iteration", "CKA to the teacher")
    assert texts_of(axes) == ["p2", "p3"]
    result.canvas.draw()


def test_it_is_a_png_of_1600_pixels():
    file = io.BytesIO()
    figure(images=2, columns=3).savefig(file, format="png")
    picture = Image.open(file).convert("RGB")
    pixels = np.asarray(picture)
    assert picture.width == 1600
    assert (pixels[:3] == 255).all() and (pixels[:, :3] == 255).all()
    colors = {color for _, color in picture.getcolors(1 << 20)}
    assert {(90, 90, 90), (0, 114, 178)} <= colors  # the images and the first curve


def test_an_empty_panel_is_all_missed():
    panels = {"ground truth": [TRUTH], "student": [EMPTY]}
    image = np.zeros((128, 128, 3), np.uint8)
    result = comparison_figure([image], panels, CLASSES, truth="ground truth")
    assert "0 right, 0 wrong, 3 missed" in [t.get_text() for t in result.texts]


def test_panels_that_do_not_fit_are_refused():
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="'student' has 2 images instead of 1"):
        comparison_figure([image], {"truth": [TRUTH], "student": [TRUTH] * 2}, CLASSES)
    with pytest.raises(ValueError, match="truth is 'gt'"):
        comparison_figure([image], {"truth": [TRUTH]}, CLASSES, truth="gt")


def test_scalars_of_a_resumed_and_killed_run(tmp_path):
    path = tmp_path / "metrics.json"
    lines = [
        json.dumps({"iteration": 19, "cka/p2": 0.1, "total_loss": 3.0}),
        json.dumps({"iteration": 39, "cka/p2": 0.2, "cka/p3": 0.5}),
        json.dumps({"iteration": 39, "bbox/AP": 12.0}),  # an evaluation has a line of its own
        '{"iteration": 59, "cka/p2": 0.3' + json.dumps({"iteration": 39, "cka/p2": 0.25}),
        json.dumps({"iteration": 59, "cka/p2": float("nan")}),
        json.dumps({"iteration": 39, "cka/p2": 0.26}),
        "3",
        '{"iteration": 79, "cka/p2": 0.',
    ]
    path.write_text("\n".join(lines))
    found = read_scalars(path, "cka/")
    assert sorted(found) == ["cka/p2", "cka/p3"]
    iterations, values = found["cka/p2"]
    assert iterations.tolist() == [19, 39, 59]
    assert values[:2].tolist() == [0.1, 0.26] and np.isnan(values[2])
    assert [v.tolist() for v in found["cka/p3"]] == [[39], [0.5]]
    assert read_scalars(path, "none/") == {}
    assert last_iteration(path) == int(max(max(i) for i, _ in found.values())) + 1
    assert last_iteration(tmp_path / "not there yet.json") == 0
