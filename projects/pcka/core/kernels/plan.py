"""What a comparison of two maps launches, worked out once for all maps of these sizes.

measure -> (cut -> gram (-> merge) -> pull) for every chunk of groups -> adjoint in backward.

Shapes: B images, C channels, (H, W) map, (P, Q) patch, (U, V) grid; G groups, N patches,
D features of a patch; a matrix ``(N, D)`` is a map of N rows whose patches are its rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from ..closed_form import Needs
from . import cells, products
from .launch import Launch
from .tiles import Tiles

# Programs that fill a card: the Gram matrices of fewer tiles are split along the features.
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
        aligned: its address is a multiple of 16 bytes.
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
    """Where a tensor lies in the workspace: its first byte, its type and its shape."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """All launches of one comparison; equal plans are made once (see :func:`.level.patch_cka`).

    Attributes:
        sides: the student's and the teacher's.
        patch_height: P.
        down, across: the grid ``(U, V)`` of patches.
        batch: the images are the groups, and not the channels.
        center: subtract the mean over the patches.
        share: that of the CKA over the features of a patch, uncentred, in the result.
        pad: pad a map with zeros that is no multiple of the patch, in place of resizing it.
        needs: whether the gradient of the student and of the teacher is wanted.
        parts: how many float16 numbers hold a feature.
        tiles: what a program works on.
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
        """How many groups are worked on at a time."""
        n = self.patches
        grams = 3 if self.share else 2
        one_group = 2 * self.parts * n * sum(self._depths) + grams * 4 * n * self._padded
        chunks = min(-(-self.groups * one_group // self.workspace), self.groups)
        return -(-self.groups // max(chunks, -(-self.groups // _MOST_GROUPS)))

    @cached_property
    def ragged(self) -> bool:
        """Whether kernels read beyond the last feature: the workspace has to start as zeros."""
        return self.features != self._depths

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where the tensors of the workspace lie, by name."""
        n, chunk, size = self.patches, self.chunk, self.tiles.gram
        planes = [self.sides[0].shape[0] * side.shape[1] for side in self.sides]
        blocks = [side.blocks(self._columns) for side in self.sides]
        measured = sum(p * b for p, b in zip(planes, blocks, strict=True))
        means = sum(
            p * self.patch_height * s.patch_width for p, s in zip(planes, self.sides, strict=True)
        )
        wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "means": (torch.float32, (means if self.center else 1,)),
            "peaks": (torch.float32, (measured,)),
            "energies": (torch.float64, (measured,)),
            "x_patches": (torch.float16, (self.parts, chunk, n, self._depths[0])),
            "y_patches": (torch.float16, (self.parts, chunk, n, self._depths[1])),
            "k": (torch.float32, (chunk, n, self._padded)),
            "l": (torch.float32, (chunk, n, self._padded)),
            "e": (torch.float32, (chunk, n, self._padded) if self.share else (1,)),
            "sums": (torch.float32, (chunk, 4, self._strips)),
            "partial": (
                torch.float32,
                (chunk, self._splits, self._upper, 2, size, size) if self._splits > 1 else (1,),
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
    def forward(self) -> list[Launch]:
        """The launches of the forward pass."""
        return [
            self._measure(),
            *(
                launch
                for first in range(0, self.groups, self.chunk)
                for launch in self._compare(first, min(self.chunk, self.groups - first))
            ),
        ]

    @cached_property
    def backward(self) -> dict[tuple[int, bool, float], Launch]:
        """The launches of the backward pass, as :meth:`adjoint` made them."""
        return {}

    @cached_property
    def _depths(self) -> tuple[int, ...]:
        """D as it lies in memory."""
        return tuple(-(-d // 64) * 64 for d in self.features)

    @cached_property
    def _padded(self) -> int:
        """Entries of a row of a Gram matrix as it lies in memory."""
        return -(-self.patches // 8) * 8

    @cached_property
    def _side_tiles(self) -> int:
        return -(-self.patches // self.tiles.gram)

    @cached_property
    def _upper(self) -> int:
        """Tiles of the upper half of a Gram matrix."""
        return self._side_tiles * (self._side_tiles + 1) // 2

    @cached_property
    def _splits(self) -> int:
        """Into how many parts the features are split, for enough programs."""
        if self.share:
            return 1  # by channel alone, and there are many
        wanted = -(-_PROGRAMS // (self._upper * self.chunk))
        steps = max(self._depths) // self.tiles.gram_depth
        return max(min(wanted, steps // 4), 1)

    @cached_property
    def _strips(self) -> int:
        """Parts in which the products of a group's Gram matrices are added up."""
        return self._upper * (self.tiles.gram // self.tiles.strip if self._splits > 1 else 1)

    @cached_property
    def _columns(self) -> int:
        """Columns of a patch that a program reads at a time."""
        return min(_power_of_two(max(side.patch_width for side in self.sides)), 128)

    @cached_property
    def _exact(self) -> bool:
        return all(side.patch_width == self._columns for side in self.sides)

    @cached_property
    def _resizes(self) -> dict[str, bool]:
        side = self.sides[0]
        return {
            "RESIZE_Y": not self.pad and self.down * self.patch_height != side.shape[2],
            "RESIZE_X": not self.pad and any(s.resized != s.shape[3] for s in self.sides),
        }

    @cached_property
    def _reading(self) -> dict[str, bool]:
        x, y = self.sides
        return {
            "BATCH": self.batch,
            "CENTER": self.center,
            **self._resizes,
            "PAD": self.pad,
            "EXACT": self._exact,
            "X_UNIT": x.unit,
            "X_WIDE": x.wide,
            "Y_UNIT": y.unit,
            "Y_WIDE": y.wide,
        }

    @cached_property
    def _tile(self) -> dict[str, int]:
        rows = max(self.tiles.cells // self._columns, 1)
        return {"ROWS": min(rows, _power_of_two(self.patches)), "COLUMNS": self._columns}

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        images, _, height, _ = self.sides[0].shape
        resized = self.down * self.patch_height
        return images, height, resized, self.patch_height, self.across, self.patches

    def _measure(self) -> Launch:
        planes = self.sides[0].shape[0] * max(side.shape[1] for side in self.sides)
        blocks = max(side.blocks(self._columns) for side in self.sides)
        return Launch(
            cells.measure,
            (planes, blocks, 2),
            ("x", "y", "means", "peaks", "energies"),
            (*self._shape, *(n for side in self.sides for n in side.numbers(self._columns))),
            {**self._reading, **self._tile},
            warps=self.tiles.cell_warps,
        )

    def _compare(self, first: int, groups: int) -> Iterator[Launch]:
        """Yield the launches for some groups: their values, and the gradients that are needed."""
        n, n_8, size, tiles = self.patches, self._padded // 8, self.tiles.gram, self.tiles
        parts = [self.chunk * n * depth // 64 for depth in self._depths]
        depths = [depth // 64 for depth in self._depths]
        x, y = (side.numbers(self._columns) for side in self.sides)
        members = [side.shape[1 if self.batch else 0] for side in self.sides]
        lines = max(self.patch_height * side.blocks(self._columns) for side in self.sides)
        yield Launch(
            cells.cut,
            (groups * max(members), lines, 2),
            ("x", "y", "means", "peaks", "x_patches", "y_patches"),
            (*parts, first, groups, *self._shape, *x, depths[0], *y, depths[1]),
            {**self._reading, "PARTS": self.parts, **self._tile},
            warps=tiles.cell_warps,
        )
        split = self._splits > 1
        yield Launch(
            products.gram,
            (self._upper, self._splits, groups),
            ("x_patches", "y_patches", "partial" if split else "k", "l", "e", "sums"),
            (*parts, n, n_8, *depths, self._side_tiles, self._splits),
            {
                "PARTS": self.parts,
                "SPLIT": split,
                "INTER": self.share > 0,
                "SIZE": size,
                "DEPTH": tiles.gram_depth,
            },
            warps=tiles.gram_warps,
            stages=tiles.gram_stages,
        )
        if split:
            yield Launch(
                products.merge,
                (self._strips, groups, 1),
                ("partial", "k", "l", "sums"),
                (n, n_8, self._side_tiles, self._splits, self._upper),
                {"SIZE": size, "ROWS": tiles.strip},
            )
        peaks = [m * s.blocks(self._columns) for m, s in zip(members, self.sides, strict=True)]
        numbers = float(self.share), first, self.groups, *peaks, n, self._strips
        compared = "sums", "peaks", "energies", "values"
        if not any(self.needs):
            inter = {"INTER": self.share > 0}
            yield Launch(products.compare, (groups, 1, 1), compared, numbers, inter)
        for i, side in enumerate(self.sides):
            if not self.needs[i]:
                continue
            own, inputs = "x", ("x_patches", "y_patches", "k", "l", "e")
            if i == 1:
                own, inputs = "y", ("y_patches", "x_patches", "l", "k", "e")
            sizes = side.shape[1], self.patch_height, side.patch_width, self.down, self.across
            yield Launch(
                products.pull,
                (-(-self.features[i] // tiles.pull_width), self._side_tiles, groups),
                (*inputs, *compared, f"{own}_factors", f"{own}_cells"),
                (parts[i], self._keep, *numbers, n_8, self.features[i], depths[i], *sizes),
                {
                    "BATCH": self.batch,
                    "TEACHER": i == 1,
                    "INTER": self.share > 0,
                    "PARTS": self.parts,
                    "PATCH_WIDTH": side.patch_width if self._exact else 0,
                    "SIZE": size,
                    "WIDTH": tiles.pull_width,
                    "DEPTH": tiles.pull_depth,
                },
                warps=tiles.pull_warps,
                stages=tiles.pull_stages,
            )

    @cached_property
    def _keep(self) -> float:
        """The power of two that brings the gradient of the cells into float16's range."""
        # A row of the operator is at most 2 long, a column of features 2^14 sqrt(N). Over the
        # features all of X bounds an entry.
        bound = 2.0 * products.OPERATOR_SCALE.value * 2.0**14 * math.sqrt(self.patches)
        if self.share:
            bound *= math.sqrt(max(self.features))
        return 2.0 ** math.floor(math.log2(2.0**15 / bound))

    def adjoint(self, i: int, strides: tuple[int, ...], each: bool, factor: float) -> Launch:
        """Return the launch that finishes the gradient of a side in backward.

        Args:
            i: 0 for the student, 1 for the teacher.
            strides: those of the gradient.
            each: the incoming gradient has a number for each group.
            factor: what all is multiplied by.
        """
        found = self.backward.get((i, each, factor))
        if found is not None:
            return found
        side = self.sides[i]
        (b, c, height, width), down = side.shape, self.down * self.patch_height
        rows, columns = self.tiles.adjoint_rows, self.tiles.adjoint_columns
        sizes = (height, down, "RESIZE_Y"), (width, side.resized, "RESIZE_X")
        # So many cells of the resized map are less than one cell of the map away.
        shares = [-(-2 * to // size) if self._resizes[key] else 1 for size, to, key in sizes]
        launch = self.backward[i, each, factor] = Launch(
            cells.adjoint,
            (b * c, -(-height // rows), -(-width // columns)),
            (f"{'xy'[i]}_cells", f"{'xy'[i]}_factors", "outer", "out"),
            (factor, int(each), c, height, width, down, side.resized, *shares, *strides),
            {
                "BATCH": self.batch,
                **self._resizes,
                "UNIT": strides[3] == 1,
                "WIDE": not any(s % 8 for s in (*strides[:3], width, side.resized)),
                "ROWS": rows,
                "COLUMNS": columns,
            },
            warps=self.tiles.cell_warps,
        )
        return launch


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is ``n`` or more."""
    return 1 << (n - 1).bit_length()
