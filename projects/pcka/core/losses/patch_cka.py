"""PCKA: CKA between the patches of two feature maps (arXiv 2401.11824, section 3.3)."""

from torch import Tensor, nn

from ..cka import cka
from ..patches import GROUPINGS, PatchSize, check_grid, patch_shape, to_patches


def patch_cka(
    student: Tensor,
    teacher: Tensor,
    *,
    patch_size: PatchSize = 16,
    grouping: str = "channel",
    center: bool = True,
    inter: bool = False,
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
        inter: average the CKA over patches (*intra*) with the one over the features of a
            patch (*inter*, the transposed patch matrix). The released code adds the two.

    Returns:
        a scalar in [0, 1].

    Raises:
        ValueError: shapes that do not fit, or too few patches for a signal.
    """
    _check_maps(student, teacher, same_width=_needs_equal_width(grouping, inter))
    check_grid(*student.shape[-2:], patch_size, center=center)
    x = to_patches(student, patch_size, grouping)
    y = to_patches(teacher, patch_size, grouping)
    intra = cka(x, y, center=center).mean()
    if not inter:
        return intra
    return (intra + cka(x.mT, y.mT, center=center).mean()) / 2


class PatchCKA(nn.Module):
    """``1 -`` :func:`patch_cka`, as a loss; the arguments are the same."""

    similarity = "cka"

    def __init__(
        self,
        *,
        patch_size: PatchSize = 16,
        grouping: str = "channel",
        center: bool = True,
        inter: bool = False,
    ):
        super().__init__()
        if grouping not in GROUPINGS:
            raise ValueError(f"unknown grouping {grouping!r}: one of {', '.join(GROUPINGS)}")
        for name, value in (("center", center), ("inter", inter)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} is true or false, got {value!r}")
        self.patch_size = patch_shape(patch_size)
        self.grouping = grouping
        self.center = center
        self.inter = inter

    @property
    def needs_equal_width(self) -> bool:
        return _needs_equal_width(self.grouping, self.inter)

    def check_map(self, height: int, width: int) -> None:
        """Raise ValueError for a map of too few patches."""
        check_grid(height, width, self.patch_size, center=self.center)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``(B, C, H, W)``, ``(B, C', H, W)`` -> scalar in [0, 1]."""
        return 1 - patch_cka(
            student,
            teacher,
            patch_size=self.patch_size,
            grouping=self.grouping,
            center=self.center,
            inter=self.inter,
        )

    def extra_repr(self) -> str:
        return (
            f"patch_size={self.patch_size}, grouping={self.grouping!r}, "
            f"center={self.center}, inter={self.inter}"
        )


def _needs_equal_width(grouping: str, inter: bool) -> bool:
    # Per channel, group i meets group i; inter relates feature i to feature i. Otherwise the
    # channels are summed over within each side's own Gram matrix.
    return grouping == "channel" or inter


def _check_maps(student: Tensor, teacher: Tensor, *, same_width: bool) -> None:
    shapes = tuple(student.shape), tuple(teacher.shape)
    if student.dim() != 4 or teacher.dim() != 4:
        raise ValueError(f"feature maps are (B, C, H, W), got {shapes[0]} and {shapes[1]}")
    if shapes[0][0] != shapes[1][0] or shapes[0][2:] != shapes[1][2:]:
        raise ValueError(
            f"student {shapes[0]} and teacher {shapes[1]} differ in batch or map size: "
            "bring them to one size first"
        )
    if same_width and shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"student {shapes[0]} and teacher {shapes[1]} differ in channels: adapt the student "
            "(conv1x1), or use grouping 'batch' or 'position' without inter"
        )
