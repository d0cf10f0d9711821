"""CKA written down as in the papers, in float64 autograd: what the fast form has to equal.

Nothing here is fast, safe or batched; that is the point.
"""

import torch
import torch.nn.functional as F

ESTIMATORS = [(False, False), (True, False), (True, True)]  # center, debiased


def value_and_gradients(function, *tensors):
    """Of the oracle's functions and of ours alike, with respect to all tensors."""
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    value = function(*tensors)
    return value.detach(), *torch.autograd.grad(value.sum(), tensors)


def assert_same(ours, wanted, tolerance=1e-11):
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def plain_hsic(k, l, debiased):
    n = len(k)
    if not debiased:
        return torch.trace(k @ l)
    # Song et al. 2012, equation 5
    k, l = (m - torch.diag(torch.diag(m)) for m in (k, l))
    one = torch.ones(n, dtype=k.dtype)
    return (
        torch.trace(k @ l)
        + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ k @ l @ one)
    ) / (n * (n - 3))


def plain_cka(x, y, center=True, debiased=False):
    """``(N, Dx), (N, Dy) -> ()``, by H K H."""
    n = len(x)
    h = torch.eye(n, dtype=x.dtype) - (1 / n if center else 0)
    k, l = x @ x.T, y @ y.T
    if not debiased:
        k, l = h @ k @ h, h @ l @ h
    return plain_hsic(k, l, debiased) / torch.sqrt(
        plain_hsic(k, k, debiased) * plain_hsic(l, l, debiased)
    )


def plain_patches(x, patch, grouping, resize):
    """``(B, C, H, W)`` -> list of ``(N, D)``, patch by patch."""
    p, q = patch
    height, width = -(-x.shape[2] // p) * p, -(-x.shape[3] // q) * q
    if resize == "pad":
        x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2]))
    else:
        x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    patches = [
        x[:, :, i : i + p, j : j + q] for i in range(0, height, p) for j in range(0, width, q)
    ]
    stacked = torch.stack(patches)  # (N, B, C, P, Q)
    if grouping == "channel":
        return [stacked[:, :, c].flatten(1) for c in range(x.shape[1])]
    if grouping == "batch":
        return [stacked[:, b].flatten(1) for b in range(x.shape[0])]
    return [stacked[..., i, j].flatten(1) for i in range(p) for j in range(q)]


def plain_patch_cka(
    student, teacher, patch, grouping, center=True, debiased=False, share=0.0, resize="bilinear"
):
    xs, ys = (plain_patches(m, patch, grouping, resize) for m in (student, teacher))
    values = []
    for x, y in zip(xs, ys, strict=True):
        value = 0
        if share < 1:
            value = value + (1 - share) * plain_cka(x, y, center, debiased)
        if share > 0:
            value = value + share * plain_cka(x.T, y.T, center, debiased)
        values.append(value)
    return torch.stack(values).mean()
