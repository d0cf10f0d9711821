"""PCKA: CKA between the patches of two feature maps (arXiv 2401.11824, section 3.3)."""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import Tensor

from pcka.core.autograd import with_gradients
from pcka.core.collectives import check_same_shape
from pcka.core.patches import PatchOptions, center_inside
from pcka.core.streaming import patch_cka_with_gradients

from .base import DistillLoss


def patch_cka(
    student: Tensor, teacher: Tensor, options: PatchOptions | None = None, **keywords: Any
) -> Tensor:
    """Return the mean CKA over the groups of two maps.

    :func:`pcka.core.reference.patch_cka` is its definition.

    Args:
        student: ``(B, C, H, W)``.
        teacher: ``(B, C', H, W)``; C' may differ from C with the groupings ``batch`` and
            ``position`` unless ``inter``.
        options: how to cut and compare the maps.
        keywords: fields of :class:`pcka.core.PatchOptions`, in place of the object or of some of
            its values: ``patch_cka(student, teacher, patch_size=8, grouping="batch")``.

    Returns:
        a scalar in [0, 1] (debiased: [-1, 1]). Differentiable once.

    Raises:
        ValueError: options or shapes that do not fit, or too few patches for a signal.
        TypeError: inputs that are not floating point, or an option that does not exist.
    """
    if options is None:
        options = PatchOptions(**keywords)
    elif keywords:
        options = replace(options, **keywords)
    _check_maps(student, teacher, options)
    if options.gather:
        check_same_shape(student)
    return with_gradients(partial(patch_cka_with_gradients, options=options), student, teacher)


class PatchCKA(DistillLoss):
    """The loss ``1 -`` :func:`patch_cka`; the options are the same."""

    inputs = "maps"
    similarity = "cka"

    def __init__(self, **options: Any):
        self.patch_options = PatchOptions(**options)
        self.needs_equal_width = self.patch_options.needs_equal_width
        super().__init__(**asdict(self.patch_options))

    def check_map(self, height: int, width: int) -> None:
        """Raise ValueError for a map of too few patches."""
        self.patch_options.check_map(height, width)

    def without_padding(self, x: Tensor, inside: Tensor) -> Tensor:
        """Take padding out of the Gram matrices; see :func:`center_inside`.

        ``inter`` centres otherwise, so with it the cells are set to 0.
        """
        options = self.patch_options
        if options.center and not options.share:
            return center_inside(x, inside, options.patch_shape)
        return super().without_padding(x, inside)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar in [0, 1] (debiased: [0, 2]) of ``(B, C, H, W)``, ``(B, C', H, W)``."""
        return 1 - patch_cka(student, teacher, self.patch_options)


def _check_maps(student: Tensor, teacher: Tensor, options: PatchOptions) -> None:
    shapes = tuple(student.shape), tuple(teacher.shape)
    if student.dim() != 4 or teacher.dim() != 4:
        raise ValueError(f"feature maps are (B, C, H, W), got {shapes[0]} and {shapes[1]}")
    for name, value in (("student", student), ("teacher", teacher)):
        if not value.is_floating_point():
            raise TypeError(f"patch_cka needs floating-point maps, the {name}'s is {value.dtype}")
    if 0 in shapes[0] + shapes[1]:
        raise ValueError(f"empty feature maps: student {shapes[0]}, teacher {shapes[1]}")
    if shapes[0][0] != shapes[1][0] or shapes[0][2:] != shapes[1][2:]:
        raise ValueError(
            f"student {shapes[0]} and teacher {shapes[1]} differ in batch or map size: "
            "bring them to one size first"
        )
    if options.needs_equal_width and shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"student {shapes[0]} and teacher {shapes[1]} differ in channels: adapt the student "
            "(conv1x1), or use grouping 'batch' or 'position' without inter"
        )
    options.check_map(shapes[0][2], shapes[0][3])
    options.check_features(*shapes[0][:2])
