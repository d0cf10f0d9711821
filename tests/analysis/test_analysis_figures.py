"""The data of the figures: arrays, labels and the numbers written beside them."""

import numpy as np
import pytest
import torch

from pcka.analysis import gram_figure, heatmap_figure, logit_gram_figure
from pcka.core import cka, logit_cka, patch_cka
from pcka.core.patches import PatchOptions, to_patches

TWO = PatchOptions(patch_size=2)

F64 = torch.float64


def array(axes):
    [image] = axes.images
    return np.asarray(image.get_array())


def texts(axes):
    return [text.get_text() for text in axes.texts]


def number_below(axes):
    words = axes.get_xlabel()
    return float(words.rsplit(" ", 1)[-1]) if words else None


def test_heatmap_has_labels_and_numbers():
    values = torch.tensor([[0.0, 0.256, -0.01], [1.0, float("nan"), 0.5]])
    figure = heatmap_figure(values, ["s1", "s2"], ["t1", "t2", "t3"], "some title")
    axes, bar = figure.axes
    np.testing.assert_array_equal(array(axes), np.ma.masked_invalid(values.numpy()))
    assert axes.images[0].get_clim() == (0, 1)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["s1", "s2"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["t1", "t2", "t3"]
    assert texts(axes) == ["0.00", "0.26", "-0.01", "1.00", "0.50"]
    assert axes.get_ylabel() == "student" and axes.get_xlabel() == "teacher"
    assert figure.texts[0].get_text() == "some title" and bar.get_ylabel() == "CKA"
    with pytest.raises(ValueError, match=r"\(2, 3\), but there are 3 rows and 3 columns"):
        heatmap_figure(values, ["a", "b", "c"], ["t1", "t2", "t3"])


def test_large_heatmap_leaves_out_what_does_not_fit():
    names = [str(n) for n in range(120)]
    figure = heatmap_figure(torch.rand(90, 120), names[:90], names)
    axes, _ = figure.axes
    assert not texts(axes) and figure.get_figwidth() <= 10
    assert 10 < len(axes.get_xticks()) < 120


@pytest.mark.parametrize("grouping", ["channel", "batch", "position"])
@pytest.mark.parametrize("center", [True, False])
def test_gram_figure_shows_what_patch_cka_compares(grouping, center):
    teacher, before = torch.randn(2, 6, 9, 12, dtype=F64)
    maps = {"teacher": teacher, "before": before, "after": teacher + 0.3 * before}
    image = np.zeros((33, 45, 3), np.uint8)
    options = {"patch_size": (4, 3), "grouping": grouping, "center": center}
    figure = gram_figure(image, maps, stride=4, options=PatchOptions(**options))
    picture, *panels, bar = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == list(maps)
    for axes, features in zip(panels, maps.values(), strict=True):
        x = to_patches(features[None], PatchOptions(**options))
        x = x - x.mean(1, keepdim=True) if center else x
        grams = x @ x.mT
        norms = grams.square().sum((1, 2), keepdim=True).sqrt()
        np.testing.assert_allclose(array(axes), (grams / norms).mean(0), atol=1e-12)
    for axes, name in zip(panels[1:], ("before", "after"), strict=True):
        wanted = patch_cka(maps[name][None], teacher[None], **options).item()
        assert number_below(axes) == pytest.approx(wanted, abs=5e-4)
    assert number_below(panels[0]) is None
    # 3 x 4 patches over 36 x 48 pixels, the last ones partly over padding.
    assert texts(picture) == [str(n) for n in range(12)]
    assert picture.get_xlim() == (0, 48) and picture.get_ylim() == (36, 0)
    assert picture.texts[6].get_position() == (30, 18)
    assert len({axes.images[0].get_clim() for axes in panels}) == 1


def test_gram_figure_of_one_channel():
    teacher, student = torch.randn(2, 3, 8, 8, dtype=F64)
    figure = gram_figure(
        np.zeros((8, 8, 3), np.uint8),
        {"t": teacher, "s": student},
        stride=1,
        options=TWO,
        channel=2,
    )
    x, y = (to_patches(m[None], TWO)[2] for m in (student, teacher))
    assert number_below(figure.axes[2]) == pytest.approx(cka(x, y).item(), abs=5e-4)
    x = x - x.mean(0)
    np.testing.assert_allclose(array(figure.axes[2]), x @ x.T / (x @ x.T).norm(), atol=1e-12)


def test_patches_end_where_the_resized_map_does():
    """Resizing cuts 5 cells into three patches of 5/3 cells, padding into patches of 2 cells."""
    maps, image = {"t": torch.randn(1, 5, 5)}, np.zeros((20, 20, 3), np.uint8)
    for resize, end in (("bilinear", 20), ("pad", 24)):
        figure = gram_figure(
            image, maps, stride=4, options=PatchOptions(patch_size=2, resize=resize)
        )
        assert figure.axes[0].get_xlim() == (0, end)
        assert texts(figure.axes[0])[-1] == "8"


def test_gram_figure_of_networks_that_cannot_be_compared():
    image = np.zeros((8, 8, 3), np.uint8)
    maps = {"t": torch.randn(3, 8, 8), "s": torch.randn(4, 8, 8)}
    assert number_below(gram_figure(image, maps, stride=1, options=TWO).axes[2]) is None
    by_image = PatchOptions(patch_size=2, grouping="batch")
    batch = gram_figure(image, maps, stride=1, options=by_image)
    assert number_below(batch.axes[2]) is not None
    with pytest.raises(ValueError, match="use a smaller patch_size"):
        gram_figure(image, maps, stride=1, options=PatchOptions(patch_size=8))
    with pytest.raises(ValueError, match="no channel 3: they are 0 to 2"):
        gram_figure(image, maps, stride=1, options=TWO, channel=3)
    with pytest.raises(ValueError, match="different sizes"):
        gram_figure(image, {**maps, "u": torch.randn(3, 4, 4)}, stride=1, options=TWO)


@pytest.mark.parametrize("temperature", [None, 2.0])
def test_logit_grams_are_sorted_by_class(temperature):
    classes = ["cat", "dog", "emu"]
    labels = torch.tensor([2, 0, 1, 0, 2, 2])
    order = [1, 3, 2, 0, 4, 5]
    teacher, student = torch.randn(2, 6, 3, dtype=F64)
    figure = logit_gram_figure(
        {"teacher": teacher, "student": student}, labels, classes, temperature=temperature
    )
    samples, class_panels = [figure.axes[i] for i in (0, 1)], [figure.axes[i] for i in (3, 4)]
    for relation, panels in (("intra", samples), ("inter", class_panels)):
        for axes, logits in zip(panels, (teacher, student), strict=True):
            x = logits[order] if temperature is None else (logits[order] / temperature).softmax(1)
            x = x if relation == "intra" else x.T
            x = x - x.mean(0)
            np.testing.assert_allclose(array(axes), x @ x.T / (x @ x.T).norm(), atol=1e-12)
        wanted = logit_cka(student, teacher, relation=relation, temperature=temperature).item()
        assert number_below(panels[1]) == pytest.approx(wanted, abs=5e-4)
        assert number_below(panels[0]) is None
    borders = {line.get_xdata()[0] for line in samples[0].lines if len({*line.get_xdata()}) == 1}
    assert borders == {1.5, 2.5}
    assert [t.get_text() for t in samples[0].get_yticklabels()] == classes
    assert list(samples[0].get_yticks()) == [0.5, 2, 4]
    for ticks in (class_panels[0].get_yticklabels(), class_panels[1].get_xticklabels()):
        assert [t.get_text() for t in ticks] == classes
    with pytest.raises(ValueError, match=r"'student' are \(5, 3\), but there are 6 labels"):
        logit_gram_figure({"student": student[:5]}, labels, classes)


def test_dead_features_are_blank_not_broken():
    figure = gram_figure(
        np.zeros((8, 8, 3), np.uint8), {"t": torch.zeros(2, 8, 8)}, stride=1, options=TWO
    )
    assert not array(figure.axes[1]).any()


@pytest.mark.parametrize("name", ["$\\frac$", "5$ 6$", "a_$x^", "<b>&amp;"])
def test_names_are_no_formulas(name):
    figure = heatmap_figure(np.eye(2), [name, "b"], ["a", name], name)
    figure.canvas.draw()
    assert name in [text.get_text() for text in figure.axes[0].get_xticklabels()]
