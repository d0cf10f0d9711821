"""The launches of a comparison of two maps, worked out once for all maps of these sizes.

measure -> (cut -> gram (-> merge) -> pull) for every chunk of groups -> adjoint in backward.

Letters: see :mod:`.plan`.
"""

import math
from collections.abc import Iterator
from functools import cached_property

from . import adjoint, cells, gram, pull
from .launch import Launch
from .plan import Plan, power_of_two


class Steps:
    """The launches of a plan, in their order; a :class:`Launch` names the tensors that it takes.

    Attributes:
        plan: the sizes of both maps.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self._backward: dict[tuple[int, bool, float], Launch] = {}

    @cached_property
    def forward(self) -> list[Launch]:
        """The launches of the forward pass."""
        groups, chunk = self.plan.groups, self.plan.chunk
        return [
            self._measure(),
            *(
                launch
                for first in range(0, groups, chunk)
                for launch in self._compare(first, min(chunk, groups - first))
            ),
        ]

    @cached_property
    def _reading(self) -> dict[str, bool]:
        plan = self.plan
        x, y = plan.sides
        return {
            "BATCH": plan.batch,
            "CENTER": plan.center,
            **plan.resizes,
            "PAD": plan.pad,
            "EXACT": plan.exact,
            "X_UNIT": x.unit,
            "X_WIDE": x.wide,
            "Y_UNIT": y.unit,
            "Y_WIDE": y.wide,
        }

    @cached_property
    def _tile(self) -> dict[str, int]:
        plan = self.plan
        rows = max(plan.tiles.cells // plan.columns, 1)
        return {"ROWS": min(rows, power_of_two(plan.patches)), "COLUMNS": plan.columns}

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        plan = self.plan
        images, _, height, _ = plan.sides[0].shape
        resized = plan.down * plan.patch_height
        return images, height, resized, plan.patch_height, plan.across, plan.patches

    def _measure(self) -> Launch:
        plan = self.plan
        planes = plan.sides[0].shape[0] * max(side.shape[1] for side in plan.sides)
        blocks = max(side.blocks(plan.columns) for side in plan.sides)
        return Launch(
            cells.measure,
            (planes, blocks, 2),
            ("x", "y", "means", "peaks", "energies"),
            (
                *self._shape,
                *(n for side in plan.sides for n in side.numbers(plan.columns)),
            ),
            {**self._reading, **self._tile},
            warps=plan.tiles.cell_warps,
        )

    def _compare(self, first: int, groups: int) -> Iterator[Launch]:
        """Yield the launches that compute values and needed gradients of some groups."""
        plan = self.plan
        n, n_8, size, tiles = (
            plan.patches,
            plan.padded // 8,
            plan.tiles.gram,
            plan.tiles,
        )
        parts = [plan.chunk * n * depth // 64 for depth in plan.depths]
        depths = [depth // 64 for depth in plan.depths]
        x, y = (side.numbers(plan.columns) for side in plan.sides)
        members = [side.shape[1 if plan.batch else 0] for side in plan.sides]
        lines = max(plan.patch_height * side.blocks(plan.columns) for side in plan.sides)
        yield Launch(
            cells.cut,
            (groups * max(members), lines, 2),
            ("x", "y", "means", "peaks", "x_patches", "y_patches"),
            (*parts, first, groups, *self._shape, *x, depths[0], *y, depths[1]),
            {**self._reading, "PARTS": plan.parts, **self._tile},
            warps=tiles.cell_warps,
        )
        split = plan.splits > 1
        yield Launch(
            gram.gram,
            (plan.upper, plan.splits, groups),
            ("x_patches", "y_patches", "partial" if split else "k", "l", "e", "sums"),
            (*parts, n, n_8, *depths, plan.side_tiles, plan.splits),
            {
                "PARTS": plan.parts,
                "SPLIT": split,
                "INTER": plan.share > 0,
                "SIZE": size,
                "DEPTH": tiles.gram_depth,
            },
            warps=tiles.gram_warps,
            stages=tiles.gram_stages,
        )
        if split:
            yield Launch(
                gram.merge,
                (plan.strips, groups, 1),
                ("partial", "k", "l", "sums"),
                (n, n_8, plan.side_tiles, plan.splits, plan.upper),
                {"SIZE": size, "ROWS": tiles.strip},
            )
        peaks = [m * s.blocks(plan.columns) for m, s in zip(members, plan.sides, strict=True)]
        numbers = float(plan.share), first, plan.groups, *peaks, n, plan.strips
        compared = "sums", "peaks", "energies", "values"
        if not any(plan.needs):
            inter = {"INTER": plan.share > 0}
            yield Launch(pull.compare, (groups, 1, 1), compared, numbers, inter)
        for i, side in enumerate(plan.sides):
            if not plan.needs[i]:
                continue
            own, inputs = "x", ("x_patches", "y_patches", "k", "l", "e")
            if i == 1:
                own, inputs = "y", ("y_patches", "x_patches", "l", "k", "e")
            sizes = (
                side.shape[1],
                plan.patch_height,
                side.patch_width,
                plan.down,
                plan.across,
            )
            yield Launch(
                pull.pull,
                (-(-plan.features[i] // tiles.pull_width), plan.side_tiles, groups),
                (*inputs, *compared, f"{own}_factors", f"{own}_cells"),
                (parts[i], self._keep, *numbers, n_8, plan.features[i], depths[i], *sizes),
                {
                    "BATCH": plan.batch,
                    "TEACHER": i == 1,
                    "INTER": plan.share > 0,
                    "PARTS": plan.parts,
                    "PATCH_WIDTH": side.patch_width if plan.exact else 0,
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
        plan = self.plan
        # A row of the operator is at most 2 long, a column of features 2^14 sqrt(N). Over the
        # features all of X bounds an entry.
        bound = 2.0 * pull.OPERATOR_SCALE.value * 2.0**14 * math.sqrt(plan.patches)
        if plan.share:
            bound *= math.sqrt(max(plan.features))
        return 2.0 ** math.floor(math.log2(2.0**15 / bound))

    def backward(self, i: int, strides: tuple[int, ...], each: bool, factor: float) -> Launch:
        """Return the launch that finishes the gradient of a side in backward.

        Args:
            i: 0 for the student, 1 for the teacher.
            strides: those of the gradient.
            each: whether the incoming gradient has a number for each group.
            factor: a factor of all entries.
        """
        plan = self.plan
        found = self._backward.get((i, each, factor))
        if found is not None:
            return found
        side = plan.sides[i]
        (b, c, height, width), down = side.shape, plan.down * plan.patch_height
        rows, columns = plan.tiles.adjoint_rows, plan.tiles.adjoint_columns
        sizes = (height, down, "RESIZE_Y"), (width, side.resized, "RESIZE_X")
        # The number of cells of the resized map that are less than one cell of the map away.
        shares = [-(-2 * to // size) if plan.resizes[key] else 1 for size, to, key in sizes]
        launch = self._backward[i, each, factor] = Launch(
            adjoint.adjoint,
            (b * c, -(-height // rows), -(-width // columns)),
            (f"{'xy'[i]}_cells", f"{'xy'[i]}_factors", "outer", "out"),
            (factor, int(each), c, height, width, down, side.resized, *shares, *strides),
            {
                "BATCH": plan.batch,
                **plan.resizes,
                "UNIT": strides[3] == 1,
                "WIDE": not any(s % 8 for s in (*strides[:3], width, side.resized)),
                "ROWS": rows,
                "COLUMNS": columns,
            },
            warps=plan.tiles.cell_warps,
        )
        return launch
