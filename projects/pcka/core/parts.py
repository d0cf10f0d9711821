"""CKA over the samples of features that are too many to be in memory at once.

A Gram matrix is the sum of those of the parts. So each part is made twice: to add up the Gram
matrices, and to have its gradient once they are complete.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .gram import Comparison, Gram, gram_of
from .sides import centered


class Parts(NamedTuple):
    makers: Sequence[Callable[[], Tensor]]  # each makes (G, N, D) with D of its own
    scale: Tensor  # (G, 1, 1), see scale_for; of all features, so of each part


def cka_of_parts(
    x: Parts, y: Parts, *, center: bool, debiased: bool, needs: tuple[bool, bool]
) -> tuple[Tensor, Iterator[Tensor] | None, Iterator[Tensor] | None]:
    """As :func:`~pcka.core.closed_form.cka_with_gradients`, the gradients part by part."""
    both = Comparison(*(_sum_of_grams(side, center) for side in (x, y)), debiased)
    return both.value().flatten(), *(
        _gradients(side, both.pull(i), center) if needs[i] else None
        for i, side in enumerate((x, y))
    )


def _sum_of_grams(side: Parts, center: bool) -> Gram:
    grams = (gram_of(centered(make(), side.scale, center)) for make in side.makers)
    matrix, _, noise = next(grams)
    for gram in grams:
        matrix += gram.matrix
        noise = noise + gram.noise
    return Gram(matrix, side.scale, noise)


def _gradients(side: Parts, pull: Tensor, center: bool) -> Iterator[Tensor]:
    for make in side.makers:
        yield torch.bmm(pull, centered(make(), side.scale, center).features)
