from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pairclean.execution import Progress
from pairclean.pairs import UserError
from pairclean.paper.draws import SeededDraws
from pairclean.paper.evaluation import recalls, similarities
from pairclean.paper.fit import BEST, fit, load_model
from pairclean.paper.generated import architecture, draw
from pairclean.paper.networks import RetrievalModel
from pairclean.paper.training import L2RM, Settings

SETTINGS = replace(Settings(), warm_up=2, epochs=2, batch=32, queue=32, rate=1e-3)


def training(settings: Settings = SETTINGS) -> L2RM:
    torch.manual_seed(0)
    return L2RM(RetrievalModel(architecture("SAF")), draw(96, seed=0), settings, SeededDraws(0))


class KilledIn(Progress):
    """Kills a training in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.now = epoch, 0

    def start(self, stage: str, total: int | None = None) -> None:
        self.now = int(stage.split()[-1])

    def advance(self, steps: int = 1) -> None:
        if self.now == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [1, 4])
def test_a_killed_training_ends_as_one_that_was_not(tmp_path: Path, epoch: int) -> None:
    dev = draw(40, seed=1)
    whole = fit(training(), dev, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(training(), dev, tmp_path / "killed", KilledIn(epoch))
    resumed = fit(training(), dev, tmp_path / "killed")
    assert [replace(e, seconds=0) for e in resumed] == [replace(e, seconds=0) for e in whole]
    assert (tmp_path / "killed" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
    assert [e.warm_up for e in whole] == [True, True, False, False]
    again = fit(training(), dev, tmp_path / "whole")  # nothing is left to do
    assert again == whole


def test_the_best_model_on_dev_is_kept(tmp_path: Path) -> None:
    dev = draw(40, seed=1)
    history = fit(training(), dev, tmp_path)
    found = recalls(similarities(load_model(tmp_path / BEST), dev), 1)
    assert found.rsum == max(epoch.dev.rsum for epoch in history)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    dev = draw(40, seed=1)
    fit(training(replace(SETTINGS, epochs=0)), dev, tmp_path)
    with pytest.raises(UserError, match="is of another training"):
        fit(training(replace(SETTINGS, epochs=1)), dev, tmp_path)
    other = training(replace(SETTINGS, epochs=0))
    other.data.image_of[:2] = [1, 0]
    with pytest.raises(UserError, match="is of another training"):
        fit(other, dev, tmp_path)


def test_drawn_pairs_repeat_and_pictures_may_be_copied() -> None:
    one, two = draw(200, seed=3, copies=True), draw(200, seed=3, copies=True)
    np.testing.assert_array_equal(one.images, two.images)
    assert [c.tolist() for c in one.captions] == [c.tolist() for c in two.captions]
    assert 3 <= (one.image_of != np.arange(200)).sum() <= 30
