"""Linear Centered Kernel Alignment (Cortes et al. 2012; Kornblith et al. 2019, eq. 5).

Shapes: ``...`` any number of groups, each with its own CKA; N samples; Dx, Dy features.
"""

from functools import partial

from torch import Tensor

from . import kernels
from .autograd import with_gradients
from .closed_form import cka_with_gradients
from .grams import working_dtype


def cka(x: Tensor, y: Tensor, *, center: bool = True, debiased: bool = False) -> Tensor:
    """Return how alike two representations relate the same N samples: 1 alike, 0 not at all.

    ``CKA = <K, L> / (|K| |L|)`` with ``K = X X^T``, ``L = Y Y^T`` and Frobenius products.
    It does not change under orthogonal maps or isotropic scaling of either side, or under a
    permutation of the samples. Centred, it does not change under translation either.

    Args:
        x: student, ``(..., N, Dx)``, floating point.
        y: teacher, ``(..., N, Dy)``, with the same groups and samples.
        center: subtract the mean over the N samples first. ``True`` is CKA as defined;
            ``False`` is what the released code of arXiv 2401.11824 computes.
        debiased: put the unbiased HSIC (Song et al. 2012) in place of the three products, so
            that independent representations are near 0 for any number of samples. The value is
            then in [-1, 1]. Needs ``center`` and N >= 4.

    Returns:
        ``(...)``, in [0, 1], float32 (float64 for float64 inputs), also under autocast.
        A group without energy (all zero; if centred, all samples equal) gives 0 with zero
        gradient; NaN stays NaN. Centred, two samples always give 1. Differentiable once.

    Raises:
        ValueError: shapes that do not fit, or too few samples.
        TypeError: inputs that are not floating point.
    """
    _check(x, y, center, debiased)
    return with_gradients(partial(_compute, center=center, debiased=debiased), x, y)


def _compute(x: Tensor, y: Tensor, needs, *, center: bool, debiased: bool):
    if kernels.covers_matrices(x, y, debiased):
        return kernels.cka_with_gradients(x, y, needs, center)
    dtype = working_dtype(x, y)
    groups = [t.to(dtype).unsqueeze(0).flatten(0, -3) for t in (x, y)]
    value, *gradients = cka_with_gradients(*groups, center=center, debiased=debiased, needs=needs)
    gradients = [
        None if g is None else g.reshape_as(t) for g, t in zip(gradients, (x, y), strict=True)
    ]
    return value.view(x.shape[:-2]), 1.0, *gradients


def _check(x: Tensor, y: Tensor, center: bool, debiased: bool) -> None:
    for name, value in (("x", x), ("y", y)):
        if not value.is_floating_point():
            raise TypeError(f"cka needs floating-point features, {name} is {value.dtype}")
        if value.dim() < 2:
            raise ValueError(f"cka needs (..., N, D), {name} is {tuple(value.shape)}")
        if not value.shape[-1]:
            raise ValueError(f"cka of no features is undefined, {name} is {tuple(value.shape)}")
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            "cka compares the same groups and samples: (..., N, Dx) with (..., N, Dy), "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if debiased and not center:
        raise ValueError("debiased CKA is centred by definition: leave center=True")
    samples = x.shape[-2]
    if samples < 1 or (center and samples < 2):
        raise ValueError(
            f"cka of {samples} sample(s) is undefined, x is {tuple(x.shape)}: give two or more"
            + (", or set center=False" if samples else "")
        )
    if debiased and samples < 4:
        raise ValueError(f"debiased cka needs 4 samples or more, x is {tuple(x.shape)}")
