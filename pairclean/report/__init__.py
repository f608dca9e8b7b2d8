"""The report: report.json (numbers) and report.html (the same numbers, with figures and pictures)."""

from __future__ import annotations

from .checks import check_calibration, rematch_curve
from .findings import describe
from .gallery import Gallery, Pick, Tile, choose_gallery, load_thumbnails, read_captions
from .html import render_html
from .summary import summarise

__all__ = [
    "Gallery",
    "Pick",
    "Tile",
    "check_calibration",
    "choose_gallery",
    "describe",
    "load_thumbnails",
    "read_captions",
    "rematch_curve",
    "render_html",
    "summarise",
]
