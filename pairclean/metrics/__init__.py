"""Metrics: arrays and tables in, numbers out. They know neither files nor models."""
