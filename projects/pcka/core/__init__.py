"""Centered Kernel Alignment as a training signal. Needs torch alone.

Tensors flow one way: features -> adapter -> patches -> Gram matrices -> CKA -> losses.
"""

from .cka import cka
from .losses import LOSSES, PatchCKA, patch_cka
from .taps import Taps
from .terms import DistillTerms, FeatureShape, TermSpec

__all__ = [
    "LOSSES",
    "DistillTerms",
    "FeatureShape",
    "PatchCKA",
    "Taps",
    "TermSpec",
    "cka",
    "patch_cka",
]
