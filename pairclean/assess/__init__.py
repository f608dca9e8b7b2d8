"""Measure how good a run is: plant mismatches, evaluate, selfcheck, demo."""
