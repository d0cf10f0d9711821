"""PCKA: CKA between the patches of two feature maps (arXiv 2401.11824, section 3.3)."""

from functools import partial

from torch import Tensor

from pcka.core.chunked import Options, patch_cka_with_gradients
from pcka.core.distributed import check_same_shape
from pcka.core.fused import with_gradients
from pcka.core.patches import (
    GROUPINGS,
    RESIZES,
    PatchSize,
    center_inside,
    check_choice,
    check_grid,
    patch_shape,
)

from .base import DistillLoss, check_estimator


def patch_cka(
    student: Tensor,
    teacher: Tensor,
    *,
    patch_size: PatchSize = 16,
    grouping: str = "channel",
    center: bool = True,
    inter: bool | float = False,
    debiased: bool = False,
    resize: str = "bilinear",
    gather: bool = False,
) -> Tensor:
    """Mean CKA over the groups of two maps.

    Args:
        student: ``(B, C, H, W)``.
        teacher: ``(B, C', H, W)``; C' may differ from C with the groupings ``batch`` and
            ``position`` unless ``inter``.
        patch_size: P or ``(P, Q)`` in cells of the map.
        grouping: what shares a Gram matrix: ``channel`` (the paper's), ``batch``, ``position``;
            see :func:`pcka.core.patches.to_patches`.
        center: see :func:`pcka.core.cka`. The released code is ``center=False``.
        inter: the share of the CKA over the features of a patch (*inter*, the transposed patch
            matrix) in the result, the rest being the CKA over patches (*intra*): False is 0,
            True 1/2, a number in [0, 1] itself. The released code adds the two.
        debiased: see :func:`pcka.core.cka`.
        resize: see :func:`pcka.core.patches.to_patches`.
        gather: of the global batch of all processes; see :mod:`pcka.core.distributed`.

    Returns:
        a scalar in [0, 1] (debiased: [-1, 1]). Differentiable once.

    Raises:
        ValueError: shapes that do not fit, or too few patches for a signal.
        TypeError: inputs that are not floating point.
    """
    options = Options(patch_size, grouping, center, _share(inter), debiased, resize, gather)
    _check_maps(student, teacher, options)
    if gather:
        check_same_shape(student)
    return with_gradients(partial(patch_cka_with_gradients, options=options), student, teacher)


class PatchCKA(DistillLoss):
    """``1 -`` :func:`patch_cka`, as a loss; the arguments are the same."""

    inputs = "maps"
    similarity = "cka"

    def __init__(
        self,
        *,
        patch_size: PatchSize = 16,
        grouping: str = "channel",
        center: bool = True,
        inter: bool | float = False,
        debiased: bool = False,
        resize: str = "bilinear",
        gather: bool = False,
    ):
        check_choice("grouping", grouping, GROUPINGS)
        check_choice("resize", resize, RESIZES)
        check_estimator(center, debiased, gather)
        self.needs_equal_width = _needs_equal_width(grouping, _share(inter))
        super().__init__(
            patch_size=patch_shape(patch_size),
            grouping=grouping,
            center=center,
            inter=inter,
            debiased=debiased,
            resize=resize,
            gather=gather,
        )

    def check_map(self, height: int, width: int) -> None:
        """Raise ValueError for a map of too few patches."""
        patch_size, center, debiased = (
            self.options[name] for name in ("patch_size", "center", "debiased")
        )
        check_grid(height, width, patch_size, center=center, debiased=debiased)

    def without_padding(self, x: Tensor, inside: Tensor) -> Tensor:
        """A patch wholly outside adds nothing to the Gram matrices, see :func:`center_inside`.

        With ``inter``, whose centring is another, the cells are 0.
        """
        if self.options["center"] and not self.options["inter"]:
            return center_inside(x, inside, self.options["patch_size"])
        return super().without_padding(x, inside)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``(B, C, H, W)``, ``(B, C', H, W)`` -> scalar in [0, 1]; debiased: [0, 2]."""
        return 1 - patch_cka(student, teacher, **self.options)


def _share(inter: bool | float) -> float:
    if isinstance(inter, bool):
        return 0.5 if inter else 0.0
    if not isinstance(inter, int | float) or not 0 <= inter <= 1:
        raise ValueError(f"inter is true, false or a share in [0, 1], got {inter!r}")
    return float(inter)


def _needs_equal_width(grouping: str, share: float) -> bool:
    # Per channel, group i meets group i; inter relates feature i to feature i. Otherwise the
    # channels are summed over within each side's own Gram matrix.
    return grouping == "channel" or share > 0


def _check_maps(student: Tensor, teacher: Tensor, options: Options) -> None:
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
    if _needs_equal_width(options.grouping, options.inter) and shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"student {shapes[0]} and teacher {shapes[1]} differ in channels: adapt the student "
            "(conv1x1), or use grouping 'batch' or 'position' without inter"
        )
    check_choice("grouping", options.grouping, GROUPINGS)
    check_choice("resize", options.resize, RESIZES)
    check_estimator(options.center, options.debiased, options.gather)
    check_grid(*shapes[0][2:], options.patch_size, center=options.center, debiased=options.debiased)
