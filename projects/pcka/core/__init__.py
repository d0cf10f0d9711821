"""Centered Kernel Alignment as a training signal. Needs torch alone.

Tensors flow one way: features -> adapter -> patches -> Gram matrices -> CKA -> losses.
"""

from .cka import cka
from .losses import (
    BATCH_LOSSES,
    LOSSES,
    RCKA,
    FeatureCKA,
    LogitCKA,
    PatchCKA,
    feature_cka,
    logit_cka,
    patch_cka,
    rcka,
)
from .meter import CKAMeter
from .taps import Taps
from .terms import DistillTerms, FeatureShape, TermSpec

__all__ = [
    "BATCH_LOSSES",
    "LOSSES",
    "RCKA",
    "CKAMeter",
    "DistillTerms",
    "FeatureCKA",
    "FeatureShape",
    "LogitCKA",
    "PatchCKA",
    "Taps",
    "TermSpec",
    "cka",
    "feature_cka",
    "logit_cka",
    "patch_cka",
    "rcka",
]
