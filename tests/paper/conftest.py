from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

Vectors = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def vectors(shared: Path) -> Vectors:
    """Inputs and outputs of the published code."""
    with np.load(shared / "reference" / "l2rm_networks.npz") as file:
        return dict(file)
