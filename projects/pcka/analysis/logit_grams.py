"""Figures of the matrices that LogitCKA compares: logits between samples and between classes.

Letters: N samples, P classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pcka.core import logit_cka

from .grams import draw_grams, label, normalized_gram
from .plotting import GREY, INK, new_figure, title_above

_WIDTH, _GAP = 10.0, 0.3  # inches
_MOST_NAMES = 32  # classes whose names still fit beside a matrix


def logit_gram_figure(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    classes: Sequence[str],
    *,
    center: bool = True,
    temperature: float | None = None,
    title: str = "",
) -> Figure:
    """Draw one column per network: the matrix between samples, and below it between classes.

    Args:
        logits: the logits ``(N, P)`` of the same samples by network, the teacher first.
        labels: ``(N,)``; samples are shown class by class, with lines between them.
        classes: P names.
        center, temperature: as in :func:`pcka.core.logit_cka`.
        title: a line above everything.

    Returns:
        The figure. Its axes are the matrices between samples and the bar of colours, then those
        between classes and theirs. Below a matrix stands its CKA to the first one: *intra* between
        samples, *inter* between classes.

    Raises:
        ValueError: logits of other samples or classes.
    """
    shape = len(labels), len(classes)
    for name, values in logits.items():
        if tuple(values.shape) != shape:
            raise ValueError(
                f"logits of {name!r} are {tuple(values.shape)}, but there are {shape[0]} labels "
                f"and {shape[1]} classes"
            )
    order = torch.argsort(labels, stable=True)
    labels = labels[order].cpu()
    logits = {name: values.detach()[order].double() for name, values in logits.items()}
    teacher = next(iter(logits.values()))

    named = shape[1] <= _MOST_NAMES
    margin = 0.07 * max(map(len, classes)) + 0.15 if named else 0.4
    cell = min(2.9, (_WIDTH - 0.95 - margin - _GAP * len(logits)) / len(logits))
    total = 2 * cell + 1.55 + margin
    figure = new_figure(_WIDTH, total)
    title_above(figure, title)
    for relation, top in (("intra", 0.65), ("inter", 1.25 + cell)):

        def place(column: int, share: float = 1.0, top: float = top) -> Axes:
            x, y = margin + column * (cell + _GAP), total - top - cell
            return figure.add_axes((x / _WIDTH, y / total, share * cell / _WIDTH, cell / total))

        axes = [place(column) for column in range(len(logits))]
        grams = [_gram(v, relation, center, temperature) for v in logits.values()]
        draw_grams(axes, grams, place(len(logits), 0.06))
        for column, (where, (name, values)) in enumerate(zip(axes, logits.items(), strict=True)):
            value = logit_cka(
                values, teacher, relation=relation, center=center, temperature=temperature
            ).item()
            what = "samples" if relation == "intra" else "classes"
            label(where, f"{name}: {what}", value if column else None)
            if relation == "intra":
                _mark_samples(where, labels, classes if named and column == 0 else [])
            else:
                _name_classes(where, classes if named else [], left=column == 0)
    return figure


def _gram(logits: Tensor, relation: str, center: bool, temperature: float | None) -> np.ndarray:
    features = logits if temperature is None else (logits / temperature).softmax(-1)
    features = features if relation == "intra" else features.mT
    return normalized_gram(features, center=center).cpu().numpy()


def _mark_samples(axes: Axes, labels: Tensor, classes: Sequence[str]) -> None:
    """Draw lines between the classes of sorted samples, and the names of classes at the left."""
    present, counts = labels.unique(return_counts=True)
    ends = counts.cumsum(0)
    for border in ends[:-1].tolist():
        for line in (axes.axhline, axes.axvline):
            line(border - 0.5, color=INK, linewidth=0.5)
    middles = (ends - counts / 2 - 0.5).tolist() if classes else []
    axes.set_xticks([])
    axes.set_yticks(middles, [classes[i] for i in present.tolist()] if classes else [], color=GREY)


def _name_classes(axes: Axes, classes: Sequence[str], *, left: bool) -> None:
    """Write names below each matrix, turned, and at the left of the first one."""
    axes.set_xticks(range(len(classes)), classes, rotation=90, color=GREY)
    axes.set_yticks(range(len(classes)) if left else [], classes if left else [], color=GREY)
