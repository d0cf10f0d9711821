"""The sizes of a comparison of two maps: chunks, splits, and the layout of the workspace.

Shapes: B images, C channels, (H, W) map, (P, Q) patch, (U, V) grid; G groups, N patches,
D features of a patch; a matrix ``(N, D)`` is a map of N rows whose patches are its rows.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from ..closed_form import Needs
from .tiles import Tiles

# Programs that fill a card. Gram matrices with fewer tiles are split along the features.
_PROGRAMS = 264
# The largest grid along its third axis.
_MOST_GROUPS = 65535
# Every tensor of the workspace starts at a multiple of this, in bytes.
_ALIGNMENT = 256
_BYTES = {torch.float16: 2, torch.float32: 4, torch.float64: 8}


@dataclass(frozen=True)
class Side:
    """The sizes of one map ``(B, C, H, W)``, and how its rows are cut.

    Attributes:
        dtype, shape, strides: those of the map.
        aligned: whether its address is a multiple of 16 bytes.
        resized: W after resizing or padding.
        patch_width: Q.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    aligned: bool
    resized: int
    patch_width: int

    @property
    def unit(self) -> bool:
        """Whether neighbours in a row are neighbours in memory."""
        return self.strides[3] == 1

    @property
    def wide(self) -> bool:
        """Whether all rows start at a multiple of eight cells."""
        return self.unit and not any(stride % 8 for stride in self.strides[:3])

    def blocks(self, columns: int) -> int:
        """Return the blocks of ``columns`` cells that a row of a patch has."""
        return -(-self.patch_width // columns)

    def numbers(self, columns: int) -> tuple[int, ...]:
        """Return the sizes and strides of this side as kernels take them."""
        channels, width = self.shape[1], self.shape[3]
        blocks = self.blocks(columns)
        return channels, width, self.resized, self.patch_width, blocks, *self.strides


@dataclass(frozen=True)
class Place:
    """The place of a tensor in the workspace: its first byte, its type and its shape."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that follows from the sizes of two maps and the options.

    Attributes:
        sides: the student's and the teacher's.
        patch_height: P.
        down, across: the grid ``(U, V)`` of patches.
        batch: whether the images are the groups; otherwise the channels are.
        center: whether to subtract the mean over the patches.
        share: the share of the (uncentred) CKA over the features of a patch in the result.
        pad: whether a map is padded with zeros to a multiple of the patch instead of resized.
        needs: whether the gradient of the student and of the teacher is wanted.
        parts: how many float16 numbers hold a feature.
        tiles: how much each program works on.
        workspace: bytes that a chunk of groups may take.
    """

    sides: tuple[Side, Side]
    patch_height: int
    down: int
    across: int
    batch: bool
    center: bool
    share: float
    pad: bool
    needs: Needs
    parts: int
    tiles: Tiles
    workspace: int

    @cached_property
    def patches(self) -> int:
        """N."""
        return self.down * self.across

    @cached_property
    def groups(self) -> int:
        """G."""
        return self.sides[0].shape[0 if self.batch else 1]

    @cached_property
    def features(self) -> tuple[int, ...]:
        """D of each side."""
        return tuple(
            side.shape[1 if self.batch else 0] * self.patch_height * side.patch_width
            for side in self.sides
        )

    @cached_property
    def chunk(self) -> int:
        """The number of groups that are worked on at a time."""
        n = self.patches
        grams = 3 if self.share else 2
        one_group = 2 * self.parts * n * sum(self.depths) + grams * 4 * n * self.padded
        chunks = min(-(-self.groups * one_group // self.workspace), self.groups)
        return -(-self.groups // max(chunks, -(-self.groups // _MOST_GROUPS)))

    @cached_property
    def ragged(self) -> bool:
        """Whether kernels read beyond the last feature, so that the workspace starts as zeros."""
        return self.features != self.depths

    @cached_property
    def places(self) -> dict[str, Place]:
        """The places of the tensors in the workspace, by name."""
        n, chunk, size = self.patches, self.chunk, self.tiles.gram
        planes = [self.sides[0].shape[0] * side.shape[1] for side in self.sides]
        blocks = [side.blocks(self.columns) for side in self.sides]
        measured = sum(p * b for p, b in zip(planes, blocks, strict=True))
        means = sum(
            p * self.patch_height * s.patch_width for p, s in zip(planes, self.sides, strict=True)
        )
        wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "means": (torch.float32, (means if self.center else 1,)),
            "peaks": (torch.float32, (measured,)),
            "energies": (torch.float64, (measured,)),
            "x_patches": (torch.float16, (self.parts, chunk, n, self.depths[0])),
            "y_patches": (torch.float16, (self.parts, chunk, n, self.depths[1])),
            "k": (torch.float32, (chunk, n, self.padded)),
            "l": (torch.float32, (chunk, n, self.padded)),
            "e": (torch.float32, (chunk, n, self.padded) if self.share else (1,)),
            "sums": (torch.float32, (chunk, 4, self.strips)),
            "partial": (
                torch.float32,
                (chunk, self.splits, self.upper, 2, size, size) if self.splits > 1 else (1,),
            ),
        }
        found, start = {}, 0
        for name, (dtype, shape) in wanted.items():
            found[name] = Place(start, dtype, shape)
            bytes_ = math.prod(shape) * _BYTES[dtype]
            start += -(-bytes_ // _ALIGNMENT) * _ALIGNMENT
        found["end"] = Place(start, torch.float16, ())
        return found

    @cached_property
    def cell_types(self) -> tuple[torch.dtype, ...]:
        """The types of the gradients before backward: float16 for half maps."""
        return tuple(
            torch.float32 if side.dtype == torch.float32 else torch.float16 for side in self.sides
        )

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """D of each side as padded in memory."""
        return tuple(-(-d // 64) * 64 for d in self.features)

    @cached_property
    def padded(self) -> int:
        """Entries of a row of a Gram matrix as padded in memory."""
        return -(-self.patches // 8) * 8

    @cached_property
    def side_tiles(self) -> int:
        """Tiles of a row of a Gram matrix."""
        return -(-self.patches // self.tiles.gram)

    @cached_property
    def upper(self) -> int:
        """Tiles of the upper half of a Gram matrix."""
        return self.side_tiles * (self.side_tiles + 1) // 2

    @cached_property
    def splits(self) -> int:
        """The number of parts that the features are split into, to have enough programs."""
        if self.share:
            return 1  # only with `channel`, which has many groups
        wanted = -(-_PROGRAMS // (self.upper * self.chunk))
        steps = max(self.depths) // self.tiles.gram_depth
        return max(min(wanted, steps // 4), 1)

    @cached_property
    def strips(self) -> int:
        """Parts in which the products of a group's Gram matrices are added up."""
        return self.upper * (self.tiles.gram // self.tiles.strip if self.splits > 1 else 1)

    @cached_property
    def columns(self) -> int:
        """Columns of a patch that a program reads at a time."""
        return min(power_of_two(max(side.patch_width for side in self.sides)), 128)

    @cached_property
    def exact(self) -> bool:
        """Whether a program reads whole rows of a patch, whose width is then a constant."""
        return all(side.patch_width == self.columns for side in self.sides)

    @cached_property
    def resizes(self) -> dict[str, bool]:
        """Which axes of the maps are resized."""
        side = self.sides[0]
        return {
            "RESIZE_Y": not self.pad and self.down * self.patch_height != side.shape[2],
            "RESIZE_X": not self.pad and any(s.resized != s.shape[3] for s in self.sides),
        }


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is ``n`` or more."""
    return 1 << (n - 1).bit_length()
