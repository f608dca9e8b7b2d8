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
from .choice import ENCODER_SCORES, GIVEN
from .compared import PairScorers
from .crossfit import CrossFit, Scores, cosine_scores, separates_better
from .decoy_fit import calibrate
from .decoys import LEVEL, DecoyScale, Rate
from .folds import FOLDS, Folds, assign_folds, fold_of
from .held_out import HeldOutRetrieval, clean_by_fold, draw_sure
from .judgement import NOISE_KINDS, UNJUDGED, Histogram, Judgement, judge, judge_as
from .kinds import PairKinds, Partition
from .languages import script_codes
from .lemon import NeighbourIndex, lemon_scores
from .near_duplicates import near_identities
from .offsets import Faults, Finding, find_faults
from .partial import kind_cut, mixed_scores
from .particulars import keeps_particulars, near_ranks
from .phrased import Words
from .recalibration import Recalibration
from .refit import FEWEST_LABELS, Labelled, with_labels
from .repair import faults_before, learn_mended, with_strays
from .rounds import Learned, learn
from .scores import Reference, Scorer, pair_codes, reference_rows
from .thresholds import threshold_for, threshold_table, thresholds_shown

__all__ = [
    "ENCODER_SCORES",
    "FEWEST",
    "FEWEST_LABELS",
    "FOLDS",
    "GIVEN",
    "LEVEL",
    "NOISE_KINDS",
    "UNJUDGED",
    "Calibration",
    "CrossFit",
    "DecoyScale",
    "Faults",
    "Finding",
    "Folds",
    "HeldOutRetrieval",
    "Histogram",
    "Judgement",
    "Labelled",
    "Learned",
    "NeighbourIndex",
    "PairKinds",
    "PairScorers",
    "Partition",
    "Rate",
    "Recalibration",
    "Reference",
    "Scorer",
    "Scores",
    "Words",
    "all_alike",
    "assign_folds",
    "calibrate",
    "calibrate_scores",
    "cannot_judge",
    "clean_by_fold",
    "cosine_scores",
    "draw_sure",
    "faults_before",
    "find_faults",
    "fold_of",
    "judge",
    "judge_as",
    "judge_scores",
    "keeping",
    "keeps_particulars",
    "kind_cut",
    "learn",
    "learn_mended",
    "lemon_scores",
    "mixed_scores",
    "near_identities",
    "near_ranks",
    "pair_codes",
    "read_calibration",
    "reference_rows",
    "script_codes",
    "separates_better",
    "threshold_for",
    "threshold_table",
    "thresholds_shown",
    "with_labels",
    "with_strays",
]
