"""Beside the corridor: metrics, and data whose truth is known. Arrays and tables in, numbers out."""
