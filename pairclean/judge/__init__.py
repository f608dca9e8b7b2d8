"""Judging: out-of-fold scores, and what decoys say about them."""

from .crossfit import (
    Scores,
    cosine_scores,
    cross_scores,
    frozen_scores,
    keeps_particulars,
    near_ranks,
    separates_better,
)
from .decoys import LEVEL, DecoyScale, Rate, calibrate
from .folds import assign_folds, fold_of
from .judgement import (
    ENCODER_SCORES,
    FEWEST,
    FOLDS,
    Calibration,
    all_alike,
    calibrate_scores,
    cannot_judge,
    judge_scores,
    keeping,
    read_calibration,
)
from .lemon import Company, lemon_scores
from .near_duplicates import near_identities
from .partial import kind_cut, mixed_scores
from .scores import REFERENCE, Reference, Scorer, pair_codes, reference_rows

__all__ = [
    "ENCODER_SCORES",
    "FEWEST",
    "FOLDS",
    "LEVEL",
    "REFERENCE",
    "Calibration",
    "Company",
    "DecoyScale",
    "Rate",
    "Reference",
    "Scorer",
    "Scores",
    "all_alike",
    "assign_folds",
    "calibrate",
    "calibrate_scores",
    "cannot_judge",
    "cosine_scores",
    "cross_scores",
    "fold_of",
    "frozen_scores",
    "judge_scores",
    "keeping",
    "keeps_particulars",
    "kind_cut",
    "lemon_scores",
    "mixed_scores",
    "near_identities",
    "near_ranks",
    "pair_codes",
    "read_calibration",
    "reference_rows",
    "separates_better",
]
