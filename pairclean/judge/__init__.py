"""Judging: learning in two rounds, out-of-fold scores, and their calibration by decoys.

`learn` fits models per fold, `judge` scores every pair by a model that never trained on it and calibrates the scores.
"""

from .calibration import (
    FEWEST,
    Calibration,
    all_alike,
    calibrate_scores,
    cannot_judge,
    judge_scores,
    keeping,
    read_calibration,
)
from .crossfit import CrossFit, Scores, cosine_scores, separates_better
from .decoy_calibration import calibrate
from .decoys import LEVEL, DecoyScale, Rate
from .folds import FOLDS, Folds, assign_folds, fold_of
from .held_out import clean_by_fold, draw_sure
from .judgement import ENCODER_SCORES, NOISE_KINDS, UNJUDGED, HeldOutRetrieval, Histogram, Judgement, judge, judge_as
from .kinds import PairKinds, Partition
from .lemon import NeighbourIndex, lemon_scores
from .near_duplicates import near_identities
from .partial import kind_cut, mixed_scores
from .particulars import keeps_particulars, near_ranks
from .rounds import Learned, learn
from .scores import REFERENCE, Reference, Scorer, pair_codes, reference_rows
from .scripts import script_codes

__all__ = [
    "ENCODER_SCORES",
    "FEWEST",
    "FOLDS",
    "LEVEL",
    "NOISE_KINDS",
    "REFERENCE",
    "UNJUDGED",
    "Calibration",
    "CrossFit",
    "DecoyScale",
    "Folds",
    "HeldOutRetrieval",
    "Histogram",
    "Judgement",
    "Learned",
    "NeighbourIndex",
    "PairKinds",
    "Partition",
    "Rate",
    "Reference",
    "Scorer",
    "Scores",
    "all_alike",
    "assign_folds",
    "calibrate",
    "calibrate_scores",
    "cannot_judge",
    "clean_by_fold",
    "cosine_scores",
    "draw_sure",
    "fold_of",
    "judge",
    "judge_as",
    "judge_scores",
    "keeping",
    "keeps_particulars",
    "kind_cut",
    "learn",
    "lemon_scores",
    "mixed_scores",
    "near_identities",
    "near_ranks",
    "pair_codes",
    "read_calibration",
    "reference_rows",
    "script_codes",
    "separates_better",
]
