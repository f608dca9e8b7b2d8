"""Judging: out-of-fold scores, and what decoys say about them."""

from .crossfit import Scores, cross_scores, frozen_scores, keeps_particulars, near_ranks, separates_better
from .decoys import LEVEL, Calibration, Rate, calibrate
from .folds import assign_folds, fold_of
from .judgement import FEWEST, FOLDS, all_alike, cannot_judge, judge_scores
from .scores import Reference, Scorer, reference_rows

__all__ = [
    "FEWEST",
    "FOLDS",
    "LEVEL",
    "Calibration",
    "Rate",
    "Reference",
    "Scorer",
    "Scores",
    "all_alike",
    "assign_folds",
    "calibrate",
    "cannot_judge",
    "cross_scores",
    "fold_of",
    "frozen_scores",
    "judge_scores",
    "keeps_particulars",
    "near_ranks",
    "reference_rows",
    "separates_better",
]
