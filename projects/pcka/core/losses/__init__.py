"""One loss family per file: a function and a thin module ``loss(student, teacher) -> scalar``.

``LOSSES`` holds what a configuration may name. Contract of an entry:

- the constructor takes keyword arguments alone and raises ValueError for bad ones;
- ``forward(student, teacher)`` takes two ``(B, C, H, W)`` maps of one size, gives a scalar of
  order 1 that is 0 at a perfect match, and gradients to the student alone;
- ``needs_equal_width`` says whether the channel counts have to agree;
- ``check_map(height, width)`` raises ValueError for a map that it cannot learn from;
- ``similarity`` names the figure that ``1 - loss`` is, or is empty.
"""

from .patch_cka import PatchCKA, patch_cka

LOSSES = {"PatchCKA": PatchCKA}

__all__ = ["LOSSES", "PatchCKA", "patch_cka"]
