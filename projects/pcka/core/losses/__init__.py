"""One loss family per file: a function and a thin module ``loss(student, teacher) -> scalar``.

``LOSSES`` holds the losses that a configuration may name. The contract of an entry, with its
defaults in ``base.DistillLoss``, is:

- the constructor takes keyword arguments alone and raises ValueError for bad ones;
- ``forward(student, teacher)`` gives a scalar, computed in float32 (float64 for float64) with
  autocast off, that is 0 at a perfect match, and gradients to the student; its docstring says where
  its size is not of order 1;
- ``inputs`` says what the loss takes: ``"maps"``, two ``(B, C, H, W)`` of one height and width;
  ``"samples"``, two tensors with one row per sample of a batch, all other axes free;
  ``"logits"``, two ``(B, P)``;
- ``needs_equal_width`` says whether channels or classes have to agree in number;
- ``needs_target``: ``forward(student, teacher, target)`` also takes the labels, ``(B,)``;
- ``check_map(height, width)`` raises ValueError for a map that teaches nothing;
- ``without_padding(map, inside)`` returns the map so that its padding adds nothing to the loss;
- ``gather`` says whether the loss reads the batches of all processes, which then need one shape;
- ``similarity`` names the figure ``1 - loss``, or is empty.

Losses of ``"samples"``, and of logits over a batch, say nothing about batches of one or two. RCKA
is a weighted sum of losses of features and of logits, so a configuration lists it as three terms.
"""

from .at import AT, at_loss
from .base import DistillLoss
from .cwd import CWD, cwd_loss
from .dist import DIST, dist_loss
from .dkd import DKD, dkd_loss
from .feature_cka import FeatureCKA, feature_cka
from .itrd import ITRD, itrd_loss
from .kd import KD, kd_loss
from .logit_cka import LogitCKA, logit_cka
from .mimic import Mimic, mimic_loss
from .patch_cka import PatchCKA, patch_cka
from .pkd import PKD, pkd_loss
from .rcka import RCKA, rcka
from .rkd import RKD, rkd_loss
from .sp import SP, sp_loss
from .ttm import TTM, ttm_loss

LOSSES: dict[str, type[DistillLoss]] = {
    "PatchCKA": PatchCKA,
    "FeatureCKA": FeatureCKA,
    "LogitCKA": LogitCKA,
    "Mimic": Mimic,
    "PKD": PKD,
    "CWD": CWD,
    "AT": AT,
    "SP": SP,
    "RKD": RKD,
    "KD": KD,
    "DKD": DKD,
    "DIST": DIST,
    "TTM": TTM,
    "ITRD": ITRD,
}

__all__ = [
    "AT",
    "CWD",
    "DIST",
    "DKD",
    "ITRD",
    "KD",
    "LOSSES",
    "PKD",
    "RCKA",
    "RKD",
    "SP",
    "TTM",
    "DistillLoss",
    "FeatureCKA",
    "LogitCKA",
    "Mimic",
    "PatchCKA",
    "at_loss",
    "cwd_loss",
    "dist_loss",
    "dkd_loss",
    "feature_cka",
    "itrd_loss",
    "kd_loss",
    "logit_cka",
    "mimic_loss",
    "patch_cka",
    "pkd_loss",
    "rcka",
    "rkd_loss",
    "sp_loss",
    "ttm_loss",
]
