"""Feature maps of an 800x1344 image, and PCKA in ten plain lines."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIZES = {"p2": (200, 336), "p3": (100, 168), "p4": (50, 84), "p5": (25, 42)}
TOY_SIZES = {"p2": (9, 12), "p3": (8, 12)}


def pairs(
    device: torch.device, toy: bool, images: int, dtype: torch.dtype, channels: int = 256
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return student and teacher ``(B, C, H, W)`` of every level; the student wants a gradient."""
    generator = torch.Generator(device).manual_seed(0)
    found = {}
    for name, size in (TOY_SIZES if toy else SIZES).items():
        shape = images, 3 if toy else channels, *size
        teacher = torch.randn(shape, generator=generator, device=device).relu()
        student = 0.5 * teacher + torch.randn(shape, generator=generator, device=device)
        found[name] = student.to(dtype).requires_grad_(), teacher.to(dtype)
    return found


def plain(
    student: Tensor,
    teacher: Tensor,
    patch: int,
    grouping: str = "channel",
    center: bool = True,
    inter: bool = False,
) -> Tensor:
    """Return PCKA by batched products and autograd, in the lines that anybody would write."""

    def patches(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        u, v = -(-h // patch), -(-w // patch)
        x = F.interpolate(x.float(), size=(u * patch, v * patch), mode="bilinear")
        x = x.reshape(b, c, u, patch, v, patch)
        order = (1, 2, 4, 0, 3, 5) if grouping == "channel" else (0, 2, 4, 1, 3, 5)
        x = x.permute(order).reshape(c if grouping == "channel" else b, u * v, -1)
        return x - x.mean(1, keepdim=True) if center else x

    def cka(x: Tensor, y: Tensor) -> Tensor:
        k, l = x @ x.mT, y @ y.mT
        kl, kk, ll = [(a * b).sum((-2, -1)) for a, b in ((k, l), (k, k), (l, l))]
        return (kl / (kk * ll).sqrt()).mean()

    x, y = patches(student), patches(teacher)
    return (cka(x, y) + cka(x.mT, y.mT)) / 2 if inter else cka(x, y)
