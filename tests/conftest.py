"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time: what is new is looked for by `python -m benchmarks.fuzz_readers`.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the development data and models; tests that need it skip where it is missing."""
    root = Path(os.environ.get("PAIRCLEAN_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip("the development data is not here; name its folder in PAIRCLEAN_TEST_DATA")
    return root
