"""Centered Kernel Alignment as a training signal; needs torch alone.

Read ``reference`` first: CKA and PCKA in the lines of their definition.
"""

from .cka import cka
from .dataset_cka import CKAMatrix, CKAMeter
from .features import FeatureShape
from .loss_weights import gradient_ratios, loss_shares
from .losses import (
    AT,
    CWD,
    DIST,
    DKD,
    ITRD,
    KD,
    LOSSES,
    PKD,
    RCKA,
    RKD,
    SP,
    TTM,
    FeatureCKA,
    LogitCKA,
    Mimic,
    PatchCKA,
    at_loss,
    cwd_loss,
    dist_loss,
    dkd_loss,
    feature_cka,
    itrd_loss,
    kd_loss,
    logit_cka,
    mimic_loss,
    patch_cka,
    pkd_loss,
    rcka,
    rkd_loss,
    sp_loss,
    ttm_loss,
)
from .patches import PatchOptions
from .schedules import Schedule
from .taps import Taps
from .term_spec import TermSpec
from .terms import DistillTerms

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
    "CKAMatrix",
    "CKAMeter",
    "DistillTerms",
    "FeatureCKA",
    "FeatureShape",
    "LogitCKA",
    "Mimic",
    "PatchCKA",
    "PatchOptions",
    "Schedule",
    "Taps",
    "TermSpec",
    "at_loss",
    "cka",
    "cwd_loss",
    "dist_loss",
    "dkd_loss",
    "feature_cka",
    "gradient_ratios",
    "itrd_loss",
    "kd_loss",
    "logit_cka",
    "loss_shares",
    "mimic_loss",
    "patch_cka",
    "pkd_loss",
    "rcka",
    "rkd_loss",
    "sp_loss",
    "ttm_loss",
]
