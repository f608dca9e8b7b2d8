"""Beside the corridor: metrics. Arrays and tables in, numbers out."""
