"""Distances between vectors and distributions along some axes, shared by several losses."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(x: Tensor, dim: int | tuple[int, ...], *, least: Tensor | float = 0.0) -> Tensor:
    """Return ``x / |x|`` along ``dim``; 0 with zero gradient where ``|x| <= least``. NaN stays."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.masked_fill(norm <= least, torch.inf)


def in_safe_range(x: Tensor) -> Tensor:
    """Multiply by the power of two that brings the largest magnitude of ``x`` near 1.

    This changes no digit, and squares neither overflow nor vanish then. NaN and infinity stay.
    """
    exponent = torch.frexp(x.detach().abs().amax()).exponent.clamp(-100, 100)
    return x * torch.ldexp(x.new_ones(()), -exponent)


def pearson(x: Tensor, y: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return Pearson's correlation along ``dim``, in [-1, 1]; 0 where a side is constant."""
    return (_centred_unit(x, dim) * _centred_unit(y, dim)).sum(dim)


def standardized(x: Tensor) -> Tensor:
    """Return x with mean 0 and variance 1 along the last axis; 0 where it is constant."""
    return x.shape[-1] ** 0.5 * _centred_unit(x, -1)


def _centred_unit(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    x = in_safe_range(x)
    # The rounding errors of a constant are not a direction.
    norm = torch.linalg.vector_norm(x.detach(), dim=dim, keepdim=True)
    return unit(x - x.mean(dim, keepdim=True), dim, least=8 * torch.finfo(x.dtype).eps * norm)


def shifted_softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last axis, up to a constant for all: for correlations.

    Near 1 / P, where logits are nearly equal, rounding would eat what distinguishes them. There
    the difference from 1 / P is returned, which keeps all digits.
    """
    excess = torch.expm1(logits - logits.amax(-1, keepdim=True))  # exp(...) - 1, from -1 to 0
    mean = excess.mean(-1, keepdim=True)
    difference = (excess - mean) / (logits.shape[-1] * (1 + mean))
    return torch.where(excess.detach().amin() > -0.5, difference, logits.softmax(-1))


def softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 KL(softmax(teacher / T) || softmax(student / T))`` over the last axis.

    T^2 keeps the size of the gradient independent of T (Hinton et al. 2015, section 2.1).
    """
    log_p, log_q = (F.log_softmax(side / temperature, -1) for side in (teacher, student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)
