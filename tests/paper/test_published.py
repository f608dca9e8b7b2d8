from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pairclean.pairs import UserError
from pairclean.paper.published import load_published


def checkpoint(vectors: dict[str, np.ndarray], case: str) -> dict[str, Any]:
    """What the published code saves."""
    options = {name: value.item() for name, value in under(vectors, f"{case}/opt/").items()}
    state = {name: torch.tensor(value) for name, value in under(vectors, f"{case}/state/").items()}
    return {"epoch": 3, "net": state, "best_rsum": 480.5, "opt": argparse.Namespace(**options, gpu="0")}


def under(vectors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: value for name, value in vectors.items() if name.startswith(prefix)}


@pytest.mark.parametrize("case", ["sgr", "saf", "sgr_options", "saf_two_layers"])
def test_a_published_checkpoint_gives_the_published_similarities(
    vectors: dict[str, np.ndarray], tmp_path: Path, case: str
) -> None:
    torch.save(checkpoint(vectors, case), tmp_path / "model_best.pth.tar")
    model = load_published(tmp_path / "model_best.pth.tar")
    inputs = [torch.tensor(vectors[f"{case}/in/{name}"]) for name in ("images", "captions", "lengths")]
    with torch.no_grad():
        np.testing.assert_allclose(model(*inputs), vectors[f"{case}/eval/sims"], rtol=0, atol=1e-5)


class Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not run",)


def test_other_files_are_refused_and_run_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    for content in ({"weights": torch.zeros(2)}, {"opt": argparse.Namespace(), "net": {}}, Command()):
        torch.save(content, path)
        with pytest.raises(UserError, match="is no checkpoint of L2RM's code"):
            load_published(path)
    assert not capsys.readouterr().out
