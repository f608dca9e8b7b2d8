"""Synthetic data with a known truth: drawn scenes, their captions, and planted mismatches."""
