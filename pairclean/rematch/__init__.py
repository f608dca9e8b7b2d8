"""Rematching: which caption of the data set belongs to each noisy image, and how sure that is."""

from .calibration import SURE, RematchCalibration, calibrate_rematching, fit_temperature
from .pool import CandidatePool, Pool, Proposals, RematchOptions, propose
from .rematches import REASONS, Rematches, emit, rematch, settle

__all__ = [
    "REASONS",
    "SURE",
    "CandidatePool",
    "Pool",
    "Proposals",
    "RematchCalibration",
    "RematchOptions",
    "Rematches",
    "calibrate_rematching",
    "emit",
    "fit_temperature",
    "propose",
    "rematch",
    "settle",
]
