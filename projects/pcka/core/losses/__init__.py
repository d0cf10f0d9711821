"""One loss family per file: a function and a thin module ``loss(student, teacher) -> scalar``.

``LOSSES`` holds what a configuration may name. Contract of an entry:

- the constructor takes keyword arguments alone and raises ValueError for bad ones;
- ``forward(student, teacher)`` takes two ``(B, C, H, W)`` maps of one size, gives a scalar of
  order 1 that is 0 at a perfect match, and gradients to the student alone;
- ``needs_equal_width`` says whether the channel counts have to agree;
- ``check_map(height, width)`` raises ValueError for a map that it cannot learn from;
- ``similarity`` names the figure that ``1 - loss`` is, or is empty.

``BATCH_LOSSES`` holds the losses that relate the samples of a batch instead of the places of a map:
``forward(student, teacher)`` takes two tensors with one row per sample, features ``(B, ...)`` or
logits ``(B, P)``. They say nothing about batches of one or two images. RCKA, their weighted sum,
takes features and logits at once and is in neither.
"""

from .feature_cka import FeatureCKA, feature_cka
from .logit_cka import LogitCKA, logit_cka
from .patch_cka import PatchCKA, patch_cka
from .rcka import RCKA, rcka

LOSSES = {"PatchCKA": PatchCKA}
BATCH_LOSSES = {"FeatureCKA": FeatureCKA, "LogitCKA": LogitCKA}

__all__ = [
    "BATCH_LOSSES",
    "LOSSES",
    "RCKA",
    "FeatureCKA",
    "LogitCKA",
    "PatchCKA",
    "feature_cka",
    "logit_cka",
    "patch_cka",
    "rcka",
]
