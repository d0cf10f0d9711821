"""What one PCKA or CKA launches: at most five kernels a chunk of groups, and one in backward.

measure -> (cut -> gram (-> merge) -> pull) for every chunk of groups -> adjoint in backward.

Shapes: B images, C channels, (H, W) map, (P, Q) patch, (U, V) grid; G groups, N patches,
D features of a patch; a matrix ``(N, D)`` is a map of N rows whose patches are its rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..closed_form import Needs
from ..collectives import all_sum_, world_size
from ..patches import PatchOptions, grid_shape
from . import cells, products, tiles
from .launch import on_device

# The patches and Gram matrices that are held at a time, in bytes: larger levels go in chunks.
WORKSPACE_BYTES = 224 << 20
# Programs that fill a card: the Gram matrices of fewer tiles are split along the features.
_PROGRAMS = 264
# The largest grid along its third axis.
_MOST_GROUPS = 65535


def patch_cka(
    student: Tensor, teacher: Tensor, needs: Needs, options: PatchOptions
) -> tuple[Tensor, float, Any, Any]:
    """Compute PCKA and what makes its gradients: the ``compute`` of :func:`.with_gradients`.

    Args:
        student, teacher: ``(B, C, H, W)``, ``(B, C', H, W)``, as :func:`.covers_maps` takes them.
        needs: whether the gradient of the student and of the teacher is wanted.
        options: see :class:`.PatchOptions`.

    Returns:
        The mean CKA over the groups, ``()``, float32; a factor; and for each map a
        :class:`Pulled`, or None where its gradient is not needed.
    """
    (p, q), (u, v) = (
        options.patch_shape,
        grid_shape(student.shape[2], student.shape[3], options.patch_shape),
    )
    batch = options.grouping == "batch"
    level = Level(
        tuple(Side(m, width=m.shape[3], resized=v * q, patch_width=q) for m in (student, teacher)),
        patch_height=p,
        down=u,
        across=v,
        batch=batch,
        center=options.center,
        pad=options.resize == "pad",
    )
    with on_device(student):
        values, slopes = level.run(needs)
        value, factor = values.mean(), 1 / len(values)
    if options.gather and batch:
        value = all_sum_(value) / world_size()
    elif options.gather:
        factor *= world_size()
    return value, factor, slopes[0], slopes[1]


def cka(x: Tensor, y: Tensor, needs: Needs, center: bool) -> tuple[Tensor, float, Any, Any]:
    """Compute the CKA ``(...)`` of ``(..., N, Dx)`` and ``(..., N, Dy)``, as :func:`patch_cka`."""
    sides = tuple(
        Side(
            m.unsqueeze(0).flatten(0, -3).unsqueeze(0),
            width=m.shape[-1],
            resized=m.shape[-1],
            patch_width=m.shape[-1],
            shape=m.shape,
        )
        for m in (x, y)
    )
    level = Level(
        sides, patch_height=1, down=x.shape[-2], across=1, batch=False, center=center, pad=False
    )
    with on_device(x):
        values, slopes = level.run(needs)
    return values.view(x.shape[:-2]), 1.0, slopes[0], slopes[1]


@dataclass(frozen=True)
class Side:
    """One map ``(B, C, H, W)``, and how its rows are cut.

    Attributes:
        width, resized: W before and after resizing or padding.
        patch_width: Q.
        shape: that of the gradient, if it is not the map's.
    """

    map: Tensor
    width: int
    resized: int
    patch_width: int
    shape: torch.Size | None = None

    @cached_property
    def unit(self) -> bool:
        """Whether neighbours in a row are neighbours in memory."""
        return self.map.stride(3) == 1

    @cached_property
    def wide(self) -> bool:
        """Whether all rows start at a multiple of eight cells."""
        return self.unit and not any(s % 8 for s in self.map.stride()[:3])

    def blocks(self, columns: int) -> int:
        """Return the blocks of ``columns`` cells that a row of a patch has."""
        return -(-self.patch_width // columns)

    def numbers(self, columns: int) -> tuple[int, ...]:
        """Return the sizes and strides of this side as kernels take them."""
        channels = self.map.shape[1]
        blocks = self.blocks(columns)
        return channels, self.width, self.resized, self.patch_width, blocks, *self.map.stride()


class Level:
    """Two maps that are compared, and the launches that do it.

    Args:
        sides: the student's and the teacher's map.
        patch_height: P.
        down, across: the grid ``(U, V)`` of patches.
        batch: the images are the groups, and not the channels.
        center: subtract the mean over the patches.
        pad: pad a map with zeros that is no multiple of the patch, in place of resizing it.
    """

    def __init__(
        self,
        sides: Sequence[Side],
        *,
        patch_height: int,
        down: int,
        across: int,
        batch: bool,
        center: bool,
        pad: bool,
    ):
        self.sides, self.batch, self.center = sides, batch, center
        self.patch_height, self.down, self.across = patch_height, down, across
        first = sides[0].map
        self.images, self.height, self.device = first.shape[0], first.shape[2], first.device
        self.groups = first.shape[0 if batch else 1]
        self.patches = down * across
        self.parts = 1 if all(_is_coarse(side.map) for side in sides) else 2
        self.tiles = tiles.CHOSEN[self.parts]
        widest = max(side.patch_width for side in sides)
        self.columns = min(_power_of_two(widest), 128)
        self.resizes = {
            "RESIZE_Y": not pad and down * patch_height != self.height,
            "RESIZE_X": not pad and any(side.resized != side.width for side in sides),
        }
        self.reading = {
            "BATCH": batch,
            "CENTER": center,
            **self.resizes,
            "PAD": pad,
            "EXACT": all(side.patch_width == self.columns for side in sides),
            "X_UNIT": sides[0].unit,
            "X_WIDE": sides[0].wide,
            "Y_UNIT": sides[1].unit,
            "Y_WIDE": sides[1].wide,
        }
        self.tile = {
            "ROWS": min(max(self.tiles.cells // self.columns, 1), _power_of_two(self.patches)),
            "COLUMNS": self.columns,
        }
        self.shape = (
            self.images,
            self.height,
            down * patch_height,
            patch_height,
            across,
            self.patches,
        )

    def run(self, needs: Needs) -> tuple[Tensor, list["Pulled | None"]]:
        """Return the CKA of each group, ``(G,)``, and the gradients before backward."""
        self._allocate(needs)
        self._measure()
        for first in range(0, self.groups, self.chunk):
            self._compare_groups(first, min(self.chunk, self.groups - first), needs)
        return self.values, self.slopes

    def _allocate(self, needs: Needs) -> None:
        """Make what holds the results, and the workspace of one chunk of groups."""
        n, side_tiles = self.patches, -(-self.patches // self.tiles.gram)
        self.upper = side_tiles * (side_tiles + 1) // 2
        self.padded = -(-n // 8) * 8
        self.features = [self._features(side) for side in self.sides]
        depths = [-(-d // 64) * 64 for d in self.features]
        one_group = 2 * self.parts * n * sum(depths) + 2 * 4 * n * self.padded
        chunks = -(-self.groups * one_group // WORKSPACE_BYTES)
        chunks = max(min(chunks, self.groups), -(-self.groups // _MOST_GROUPS))
        self.chunk = -(-self.groups // chunks)

        steps = max(depths) // self.tiles.gram_depth
        wanted = -(-_PROGRAMS // (self.upper * self.chunk))
        self.splits = min(wanted, max(steps // 4, 1)) if wanted > 1 else 1

        self.cut_patches = [
            # Where D is no multiple of 64 the kernels read beyond it: zeros.
            (torch.empty if d == depth else torch.zeros)(
                self.parts, self.chunk, n, depth, dtype=torch.float16, device=self.device
            )
            for d, depth in zip(self.features, depths, strict=True)
        ]
        self.grams = self._empty(2, self.chunk, n, self.padded)
        strips = self.tiles.gram // self.tiles.strip if self.splits > 1 else 1
        self.sums = self._empty(self.chunk, 3, self.upper * strips)
        size = self.tiles.gram
        self.partial = self.grams
        if self.splits > 1:
            self.partial = self._empty(self.chunk, self.splits, self.upper, 2, size, size)
        self.values = self._empty(self.groups)
        self.slopes = [
            Pulled(self, i, self._empty(self.groups)) if need else None
            for i, need in enumerate(needs)
        ]

    def _measure(self) -> None:
        columns = self.columns
        blocks = [side.blocks(columns) for side in self.sides]
        planes = [self.images * side.map.shape[1] for side in self.sides]
        cells_of_patches = [self.patch_height * side.patch_width for side in self.sides]
        self.means = self._empty(
            sum(p * c for p, c in zip(planes, cells_of_patches, strict=True)) if self.center else 1
        )
        numbers = [p * b for p, b in zip(planes, blocks, strict=True)]
        # Of each group: planes of one image, or one channel of all images.
        self.members = [n // self.groups for n in numbers]
        self.peaks = self._empty(sum(numbers))
        self.energies = self._empty(sum(numbers), dtype=torch.float64)
        self.side_numbers = [side.numbers(columns) for side in self.sides]
        cells.measure(
            (max(planes), max(blocks), 2),
            (*self._maps(), self.means, self.peaks, self.energies),
            (*self.shape, *self.side_numbers[0], *self.side_numbers[1]),
            {**self.reading, **self.tile},
            warps=self.tiles.cell_warps,
        )

    def _compare_groups(self, first: int, groups: int, needs: Needs) -> None:
        """Compare some groups: write their values, and the gradients that are needed."""
        parts = [patches.stride(0) // 64 for patches in self.cut_patches]
        depths = [patches.shape[3] // 64 for patches in self.cut_patches]
        members = [self.images, self.images]
        if self.batch:
            members = [side.map.shape[1] for side in self.sides]
        lines = [self.patch_height * side.blocks(self.columns) for side in self.sides]
        cells.cut(
            (groups * max(members), max(lines), 2),
            (*self._maps(), self.means, self.peaks, *self.cut_patches),
            (
                *parts,
                first,
                groups,
                *self.shape,
                *self.side_numbers[0],
                depths[0],
                *self.side_numbers[1],
                depths[1],
            ),
            {**self.reading, "PARTS": self.parts, **self.tile},
            warps=self.tiles.cell_warps,
        )
        n, n_8, size = self.patches, self.padded // 8, self.tiles.gram
        k, l = self.grams
        side_tiles = -(-n // size)
        products.gram(
            (self.upper, self.splits, groups),
            (*self.cut_patches, self.partial if self.splits > 1 else k, l, self.sums),
            (*parts, n, n_8, *depths, side_tiles, self.splits),
            {
                "PARTS": self.parts,
                "SPLIT": self.splits > 1,
                "SIZE": size,
                "DEPTH": self.tiles.gram_depth,
            },
            warps=self.tiles.gram_warps,
            stages=self.tiles.gram_stages,
        )
        if self.splits > 1:
            products.merge(
                (self.sums.shape[2], groups, 1),
                (self.partial, k, l, self.sums),
                (n, n_8, side_tiles, self.splits, self.upper),
                {"SIZE": size, "ROWS": self.tiles.strip},
            )
        compared = self.sums, self.peaks, self.energies, self.values
        numbers = first, self.groups, *self.members, n, self.sums.shape[2]
        if not any(needs):
            products.compare((groups, 1, 1), compared, numbers, {})
        for i, slope in enumerate(self.slopes):
            if slope is not None:
                channels = self.sides[i].map.shape[1]
                patch_width = self.sides[i].patch_width
                width = self.tiles.pull_width
                products.pull(
                    (-(-self.features[i] // width), side_tiles, groups),
                    (
                        self.cut_patches[i],
                        *((k, l) if i == 0 else (l, k)),
                        *compared,
                        slope.factors,
                        slope.cells,
                    ),
                    (
                        parts[i],
                        slope.keep,
                        *numbers,
                        n_8,
                        self.features[i],
                        depths[i],
                        channels,
                        self.patch_height,
                        patch_width,
                        self.down,
                        self.across,
                    ),
                    {
                        "BATCH": self.batch,
                        "TEACHER": i == 1,
                        "PARTS": self.parts,
                        "PATCH_WIDTH": patch_width if self.reading["EXACT"] else 0,
                        "SIZE": size,
                        "WIDTH": width,
                        "DEPTH": self.tiles.pull_depth,
                    },
                    warps=self.tiles.pull_warps,
                    stages=self.tiles.pull_stages,
                )

    def _maps(self) -> tuple[Tensor, Tensor]:
        return self.sides[0].map, self.sides[1].map

    def _features(self, side: Side) -> int:
        others = side.map.shape[1] if self.batch else self.images
        return others * self.patch_height * side.patch_width

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)


class Pulled:
    """The gradient of a map, on its resized cells, that waits for the incoming gradient.

    Attributes:
        cells: ``(B, C, U P, V Q)``, float32, or float16 for a half map: without what all entries
            of a group are multiplied by.
        factors: ``(G,)``, just that.
    """

    def __init__(self, level: Level, side: int, factors: Tensor):
        self.map, width = level.sides[side].map, level.sides[side].resized
        self.shape = level.sides[side].shape or self.map.shape
        self.batch, self.resizes, self.tiles = level.batch, level.resizes, level.tiles
        b, c = self.map.shape[:2]
        dtype = torch.float32 if self.map.dtype == torch.float32 else torch.float16
        self.cells = torch.empty(
            b, c, level.down * level.patch_height, width, dtype=dtype, device=self.map.device
        )
        self.factors = factors
        # A row of the operator has at most length 2, a column of features 2^13 sqrt(N).
        bound = 2.0 * products.OPERATOR_SCALE.value * 2**14 * math.sqrt(level.patches)
        self.keep = 2.0 ** math.floor(math.log2(2**15 / bound))

    def gradient(self, outer: Tensor, factor: float) -> Tensor:
        """Return the gradient of the map, in its type and memory format.

        Args:
            outer: the incoming gradient, ``()`` or one a group ``(...)``, float32.
            factor: what all is multiplied by besides.
        """
        out = torch.empty_like(self.map)
        (b, c, height, width), (resized_height, resized_width) = out.shape, self.cells.shape[2:]
        rows, columns = self.tiles.adjoint_rows, self.tiles.adjoint_columns
        shares = [
            -(-2 * resized // size) + 1 if resize else 1
            for resize, resized, size in zip(
                self.resizes.values(), self.cells.shape[2:], out.shape[2:], strict=True
            )
        ]
        outer = outer.contiguous()
        strides = out.stride()
        wide = not any(s % 8 for s in (*strides[:3], width, resized_width))
        with on_device(out):
            cells.adjoint(
                (b * c, -(-height // rows), -(-width // columns)),
                (self.cells, self.factors, outer, out),
                (
                    factor,
                    0 if outer.dim() == 0 else 1,
                    c,
                    height,
                    width,
                    resized_height,
                    resized_width,
                    *shares,
                    *strides,
                ),
                {
                    "BATCH": self.batch,
                    **self.resizes,
                    "UNIT": strides[3] == 1,
                    "WIDE": wide,
                    "ROWS": rows,
                    "COLUMNS": columns,
                },
                warps=self.tiles.cell_warps,
            )
        return out.view(self.shape)


def _is_coarse(x: Tensor) -> bool:
    """Return whether one float16 part holds a map: a half map, or float32 where TF32 is allowed."""
    return x.dtype != torch.float32 or torch.get_float32_matmul_precision() != "highest"


def _power_of_two(n: int) -> int:
    """Return the smallest power of two that is ``n`` or more."""
    return 1 << (n - 1).bit_length()
