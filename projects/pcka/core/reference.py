"""CKA and PCKA in the lines of their definition: read this first, all other code has to equal it.

Plain torch, differentiable by autograd, and neither fast nor safe: give it float64. The tests hold
the fast form against these functions, values and gradients.

Letters: N samples; Dx, Dy features; B images, C channels, (H, W) map, (P, Q) patch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cka(x: Tensor, y: Tensor, *, center: bool = True, debiased: bool = False) -> Tensor:
    """Return how alike two representations relate N samples: ``(N, Dx), (N, Dy) -> ()``.

    ``CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` with the Gram matrices ``K = X X^T``,
    ``L = Y Y^T`` (Cortes et al. 2012; Kornblith et al. 2019, equation 2). Without ``center`` the
    matrices stay as they are, as in the released code of arXiv 2401.11824.
    """
    k, l = x @ x.T, y @ y.T
    if debiased:
        products = [unbiased_hsic(*pair) for pair in ((k, l), (k, k), (l, l))]
    else:
        h = torch.eye(len(x), dtype=x.dtype) - (1 / len(x) if center else 0)
        k, l = h @ k @ h, h @ l @ h
        products = [(a * b).sum() for a, b in ((k, l), (k, k), (l, l))]
    return products[0] / (products[1] * products[2]).sqrt()


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:
    """Return the unbiased HSIC of two Gram matrices (Song et al. 2012, equation 5): -> ().

    ``(N, N)``, ``(N, N)`` with N >= 4.
    """
    n = len(k)
    k, l = (m - torch.diag(m.diagonal()) for m in (k, l))
    trace, sums, rows = (k * l).sum(), k.sum() * l.sum(), k.sum(0) @ l.sum(1)
    return (trace + sums / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))


def cut_patches(
    x: Tensor, patch: tuple[int, int], grouping: str = "channel", resize: str = "bilinear"
) -> Tensor:
    """Cut maps into the samples of each group: ``(B, C, H, W) -> (G, N, D)``.

    A map that is not a multiple of the patch is first resized up, or padded with zeros (``pad``).
    A group is one ``channel`` of all images (G = C), one image of the ``batch`` (G = B), or one
    ``position`` in the patches (G = P Q).
    """
    p, q = patch
    height, width = -(-x.shape[2] // p) * p, -(-x.shape[3] // q) * q
    if resize == "pad":
        x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))
    else:
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    places = [(i, j) for i in range(0, height, p) for j in range(0, width, q)]
    patches = torch.stack([x[:, :, i : i + p, j : j + q] for i, j in places])  # (N, B, C, P, Q)
    if grouping == "position":
        return patches.flatten(3).movedim(3, 0).flatten(2)
    return patches.movedim(2 if grouping == "channel" else 1, 0).flatten(2)


def patch_cka(
    student: Tensor,
    teacher: Tensor,
    *,
    patch: tuple[int, int],
    grouping: str = "channel",
    center: bool = True,
    debiased: bool = False,
    inter: float = 0.0,
    resize: str = "bilinear",
) -> Tensor:
    """Return PCKA: the mean, over groups, of the CKA between the patches of two maps: -> ().

    The maps are ``(B, C, H, W)`` and ``(B, C', H, W)`` (arXiv 2401.11824, section 3.3). ``inter``
    is the share of the CKA over the features of a patch; the rest is the CKA over the patches.
    """
    values = []
    sides = [cut_patches(m, patch, grouping, resize) for m in (student, teacher)]
    for x, y in zip(*sides, strict=True):  # (N, D), (N, D')
        value = x.new_zeros(())
        if inter < 1:
            value = value + (1 - inter) * cka(x, y, center=center, debiased=debiased)
        if inter > 0:
            value = value + inter * cka(x.T, y.T, center=center, debiased=debiased)
        values.append(value)
    return torch.stack(values).mean()
