"""The kinds that the judge found, as columns by which pairs are grouped."""

from __future__ import annotations

import numpy as np

from ..judge.names import kind_names
from ..run import Run
from ..run.results import open_embeddings, open_faults, open_learned

#: Kinds of captions, and of pictures; both are named by captions.
KIND, PICTURE_KIND = "kind", "picture_kind"
KINDS = (KIND, PICTURE_KIND)
#: Captions by which a kind is named.
CAPTIONS_OF_KIND = 200


def kind_columns(run: Run) -> dict[str, np.ndarray]:
    """KIND and PICTURE_KIND: (N,) object each, the name of the kind of every pair of the run, None if unreadable.

    A text with many different pictures, and a picture with many different captions, is a kind of its own.
    """
    emb, faults, learned = open_embeddings(run), open_faults(run), open_learned(run)
    rows = np.flatnonzero(emb.readable)
    kinds = learned.kinds(faults.mended(emb.pairs), rows, None)
    columns = {}
    for column, codes in ((KIND, kinds.text), (PICTURE_KIND, kinds.image)):
        present, code = np.unique(codes, return_inverse=True)
        rng, samples = np.random.default_rng(0), []
        for k in range(len(present)):
            some = rng.permutation(np.flatnonzero(code == k))[:CAPTIONS_OF_KIND]
            texts = emb.captions(faults.caption[rows[np.sort(some)]])
            samples.append([text for text in texts if text is not None])
        values = np.full(len(emb), None, object)
        values[rows] = np.array(kind_names(samples), object)[code]
        columns[column] = values
    return columns
