"""The report: report.json (numbers) and report.html (the same numbers, with figures and pictures)."""

from __future__ import annotations

from .gallery import Gallery, Pick, Tile, choose_gallery, load_thumbnails, read_captions
from .html import render_html
from .summary import summarise

__all__ = [
    "Gallery",
    "Pick",
    "Tile",
    "choose_gallery",
    "load_thumbnails",
    "read_captions",
    "render_html",
    "summarise",
]
