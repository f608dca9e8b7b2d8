"""What the methods that learn by batches share."""

from __future__ import annotations

import numpy as np
import torch

from pairclean.align.alignment import Head
from pairclean.align.training import BATCH, Batches, Trainer
from pairclean.arrays import Pairs

N = 5000


def some_pairs() -> Batches:
    owner = Trainer(comparable=True)
    owner.image, owner.text = Head(2, seed=0), Head(2, seed=1)
    vectors, ids = np.zeros((N, 2)), np.arange(N)
    return Batches(Pairs(vectors, vectors, ids, ids), ids, owner)


def test_an_epoch_has_every_pair_once() -> None:
    batches = some_pairs().batches(3)
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(N))
    assert all(abs(len(batch) - BATCH) < BATCH / 2 for batch in batches)


def test_a_long_epoch_is_cut_to_pairs_that_differ_from_epoch_to_epoch() -> None:
    pairs, most = some_pairs(), 2 * BATCH
    epochs = [pairs.batches(epoch, most=most) for epoch in range(8)]
    assert [len(batches) for batches in epochs] == [2] * 8
    drawn = [torch.cat(batches) for batches in epochs]
    assert all(len(set(of.tolist())) == most for of in drawn)
    assert len(set(torch.cat(drawn).tolist())) > 0.95 * N


def test_batches_can_be_drawn_from_some_of_the_pairs() -> None:
    among = torch.arange(10, 50)
    assert torch.equal(torch.cat(some_pairs().batches(0, among)).sort().values, among)
