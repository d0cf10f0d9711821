"""Linear Centered Kernel Alignment (Cortes et al. 2012; Kornblith et al. 2019, eq. 5).

Shapes: ``...`` any number of groups, each with its own CKA; N samples; Dx, Dy features.
"""

import torch
from torch import Tensor

# A centred group within this many rounding errors of its mean holds no relation at all.
_DEAD_RATIO = 8.0


def cka(x: Tensor, y: Tensor, *, center: bool = True) -> Tensor:
    """How alike two representations relate the same N samples: 1 alike, 0 not at all.

    ``CKA = <K, L> / (|K| |L|)`` with ``K = X X^T``, ``L = Y Y^T`` and Frobenius products.
    It does not change under orthogonal maps and isotropic scaling of either side or a
    permutation of the samples, nor, if centred, under translation.

    Args:
        x: student, ``(..., N, Dx)``, floating point.
        y: teacher, ``(..., N, Dy)``, with the same groups and samples.
        center: subtract the mean over the N samples first. ``True`` is CKA as defined;
            ``False`` is what the released code of arXiv 2401.11824 computes.

    Returns:
        ``(...)``, in [0, 1], float32 (float64 for float64 inputs), also under autocast.
        A group without energy (all zero; if centred, all samples equal) gives 0 with zero
        gradient; NaN stays NaN. Centred, two samples always give 1.

    Raises:
        ValueError: shapes that do not fit, no samples, or one sample to be centred.
        TypeError: inputs that are not floating point.
    """
    _check(x, y, center)
    with torch.autocast(x.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        x, x_noise = _centered(x.to(dtype), center)
        y, y_noise = _centered(y.to(dtype), center)
        (n, dx), dy = x.shape[-2:], y.shape[-1]
        # <X X^T, Y Y^T> = |X^T Y|^2, so either side will do: take the one of fewer products.
        if n * (dx + dy) <= dx * dx + dx * dy + dy * dy:
            k, _, x_dead = _scaled(x @ x.mT, x_noise)
            l, _, y_dead = _scaled(y @ y.mT, y_noise)
            alignment = _inner(k, l)
        else:
            k, k_scale, x_dead = _scaled(x.mT @ x, n * x_noise)
            l, l_scale, y_dead = _scaled(y.mT @ y, n * y_noise)
            # One factor after the other: their product could leave the range of float32.
            cross = (x.mT @ y) * k_scale.rsqrt() * l_scale.rsqrt()
            alignment = _inner(cross, cross)
        value = alignment / (_inner(k, k).sqrt() * _inner(l, l).sqrt())
        # A product, not a fill: what is NaN on the live side has to stay NaN.
        value = torch.where(x_dead | y_dead, value * 0, value)
        return value.clamp(0, 1)


def _centered(x: Tensor, center: bool) -> tuple[Tensor, Tensor]:
    """Features ``(..., N, D)`` about their mean, and the energy of a sample that is rounding."""
    if not center:
        return x, x.new_zeros(x.shape[:-2])
    # The mean first, not H K H: far from the origin the latter cancels digits.
    mean = x.mean(-2, keepdim=True)
    noise = (_DEAD_RATIO * torch.finfo(x.dtype).eps) ** 2
    return x - mean, noise * mean.detach().square().sum((-2, -1))


def _scaled(gram: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A Gram or covariance matrix ``(..., M, M)`` brought to a largest entry of 1.

    Returns:
        the scaled matrix (all ones where dead, so that its norm has a gradient), the scale
        ``(..., 1, 1)`` and the mask ``(...)`` of groups with no energy above ``noise``.
    """
    # CKA does not change with the scale, so the scale needs no gradient.
    scale = gram.detach().diagonal(dim1=-2, dim2=-1).amax(-1)
    dead = scale <= noise  # False for NaN
    scale = torch.where(dead, torch.ones_like(scale), scale)[..., None, None]
    return torch.where(dead[..., None, None], torch.ones_like(gram), gram / scale), scale, dead


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Frobenius product ``(..., M, M) x (..., M, M) -> (...)``; two sums keep float32 exact."""
    return (a * b).sum(-1).sum(-1)


def _check(x: Tensor, y: Tensor, center: bool) -> None:
    for name, value in (("x", x), ("y", y)):
        if not value.is_floating_point():
            raise TypeError(f"cka needs floating-point features, {name} is {value.dtype}")
        if value.dim() < 2:
            raise ValueError(f"cka needs (..., N, D), {name} is {tuple(value.shape)}")
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            "cka compares the same groups and samples: (..., N, Dx) with (..., N, Dy), "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    samples = x.shape[-2]
    if samples < 1 or (center and samples < 2):
        raise ValueError(
            f"cka of {samples} sample(s) is undefined, x is {tuple(x.shape)}: give two or more"
            + (", or set center=False" if samples else "")
        )
