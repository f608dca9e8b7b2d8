"""Beside the corridor: drawn scenes, their captions, and planted mismatches, whose truth is known."""
