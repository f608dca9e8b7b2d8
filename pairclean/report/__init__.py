"""The report: report.json (numbers) and report.html (the same numbers, with figures and pictures)."""

from __future__ import annotations

from .checks import check_calibration, rematch_curve
from .findings import describe, describe_repeated, describe_slice, describe_unread, ordered
from .gallery import Gallery, Pick, Tile, choose_gallery, finding_section, load_thumbnails, pick_examples, read_captions
from .html import render_html
from .summary import summarise

__all__ = [
    "Gallery",
    "Pick",
    "Tile",
    "check_calibration",
    "choose_gallery",
    "describe",
    "describe_repeated",
    "describe_slice",
    "describe_unread",
    "finding_section",
    "load_thumbnails",
    "ordered",
    "pick_examples",
    "read_captions",
    "rematch_curve",
    "render_html",
    "summarise",
]
