"""Rematching: which caption of the data set belongs to each noisy image, and how sure that is."""

from .rematch import (
    SURE,
    Calibration,
    Pool,
    Proposals,
    Searched,
    Terms,
    calibrate_rematching,
    draw_sure,
    emit,
    fit_temperature,
    propose,
    settle,
)

__all__ = [
    "SURE",
    "Calibration",
    "Pool",
    "Proposals",
    "Searched",
    "Terms",
    "calibrate_rematching",
    "draw_sure",
    "emit",
    "fit_temperature",
    "propose",
    "settle",
]
