"""Shapes of features, and the part of the maps of two networks that can be compared."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class FeatureShape(NamedTuple):
    """The shape of a feature, known before any image is seen.

    A map ``(B, C, H, W)`` has ``channels`` and a ``stride``, the pixels of the input per cell. A
    vector ``(B, C)``, such as logits, has ``channels`` and no stride.
    """

    channels: int
    stride: int | None = None

    @property
    def kind(self) -> str:
        return "vector" if self.stride is None else "map"


def on_common_extent(
    student: Tensor, teacher: Tensor, stride: int, teacher_stride: int
) -> tuple[Tensor, Tensor]:
    """Return the part of the image that both maps cover, at the student's resolution.

    Two networks may pad a batch differently (to multiples of 32 or of 64, to a square). Padding
    lies on the right and below, so cells of equal index show the same pixels. Cutting both maps to
    the smaller extent aligns them without changing the input of either network. If the strides
    differ, the teacher's map is then resized bilinearly.

    Args:
        student, teacher: ``(B, C, H, W)``, ``(B, C', H', W')``.
        stride, teacher_stride: pixels per cell.

    Returns:
        ``(B, C, h, w)`` and ``(B, C', h, w)``.
    """
    extent = [
        min(s * stride, t * teacher_stride)
        for s, t in zip(student.shape[-2:], teacher.shape[-2:], strict=True)
    ]
    student = student[..., : -(-extent[0] // stride), : -(-extent[1] // stride)]
    teacher = teacher[..., : -(-extent[0] // teacher_stride), : -(-extent[1] // teacher_stride)]
    if student.shape[-2:] != teacher.shape[-2:]:
        size = student.shape[-2:]
        teacher = F.interpolate(teacher, size=size, mode="bilinear", align_corners=False)
    return student, teacher


def cells_of_images(x: Tensor, stride: int, sizes: Sequence[tuple[int, int]]) -> Tensor | None:
    """Return which cells of a padded batch hold a pixel of their image.

    Args:
        x: map ``(B, C, H, W)``.
        stride: pixels per cell.
        sizes: height and width of each image in pixels; padding lies right and below.

    Returns:
        ``(B, 1, H, W)``, False where a cell lies wholly in padding; None if none does.
    """
    cells = [[-(-side // stride) for side in size] for size in sizes]
    if all(h >= x.shape[-2] and w >= x.shape[-1] for h, w in cells):
        return None
    extents = torch.tensor(cells, device=x.device)
    down, across = (
        torch.arange(x.shape[axis], device=x.device) < extents[:, axis, None] for axis in (-2, -1)
    )
    return down[:, None, :, None] & across[:, None, None, :]
