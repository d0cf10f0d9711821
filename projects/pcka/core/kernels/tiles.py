"""Tile sizes of the kernels."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The sizes that each program works on; every number is a power of two.

    Args:
        gram: rows and columns of a Gram matrix.
        gram_depth: features that are multiplied in one step of the Gram matrices.
        pull_width: features of the gradient.
        pull_depth: patches that are multiplied in one step of the gradient.
        gram_warps, gram_stages, pull_warps, pull_stages: Triton's ``num_warps``, ``num_stages``.
        cells: cells that are read at a time, patches times columns of a patch.
        cell_warps: ``num_warps`` of the kernels that read and write maps.
        strip: rows of a tile that one program adds up over the splits.
        adjoint_rows, adjoint_columns: cells of a gradient.
    """

    gram: int = 64
    gram_depth: int = 64
    gram_warps: int = 4
    gram_stages: int = 3
    pull_width: int = 128
    pull_depth: int = 32
    pull_warps: int = 4
    pull_stages: int = 3
    cells: int = 2048
    cell_warps: int = 4
    strip: int = 8
    adjoint_rows: int = 8
    adjoint_columns: int = 128


# The tiles by how many float16 parts a number has.
CHOSEN = {1: Tiles(), 2: Tiles()}
