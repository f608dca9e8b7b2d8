"""Captions of which half is another's, in real data: the words that do not fit are found and shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pairclean_cli.show import marked
from rich.text import Text

import pairclean
from pairclean.assess.plant import plant
from pairclean.metrics.detection import auroc
from pairclean.pairs import UserError


def right_words(found: str | None, planted: str | None, caption: str) -> bool:
    """At least half of what was found was planted, and it is at most 60% of the caption."""
    if found is None or planted is None:
        return False
    start, place = caption.index(found), caption.index(planted)
    common = min(start + len(found), place + len(planted)) - max(start, place)
    return common >= 0.5 * len(found) and len(found) <= 0.6 * len(caption)


@pytest.mark.slow
@pytest.mark.data
def test_the_words_that_do_not_fit_are_named(shared: Path, tmp_path: Path) -> None:
    plant(shared / "data/fashion_unseen", tmp_path / "in", rate=0.4, kind="partial")
    truth = pd.read_parquet(tmp_path / "in.truth.parquet").set_index("key")
    partly = truth["noise_kind"] == "partial"
    spans = truth[partly]
    assert all(
        span in caption for span, caption in zip(spans["mismatched_text"], spans["carried_caption"], strict=True)
    )
    assert truth.loc[~partly, "mismatched_text"].isna().all()

    model = f"local-dir:{shared}/models/tinyclip"
    run = pairclean.clean(tmp_path / "in", tmp_path / "run", model=model, phrases=True)
    verdicts = run.verdicts().to_pandas().set_index("pair_id").loc[truth.index]
    named, planted = ([x if isinstance(x, str) else None for x in of["mismatched_text"]] for of in (verdicts, truth))
    triples = list(zip(named, planted, truth["carried_caption"], strict=True))
    assert all(found is None or found in caption for found, _, caption in triples)
    hits = pd.Series([right_words(*triple) for triple in triples], truth.index)
    assert hits[partly].mean() >= 0.8
    assert auroc(-verdicts["clean_probability"].to_numpy(), partly.to_numpy()) >= 0.9

    rate = run.report["mismatch_rate"]
    assert rate["low"] <= partly.mean() <= rate["high"]
    assert rate["parts"]["partly"]["estimate"] > 0.3
    flagged = verdicts[verdicts["verdict"] == "noisy"]
    assert (flagged["reason_code"] == "partly_wrong").mean() > 0.9


def test_the_words_are_underlined() -> None:
    text = marked("a red ball, a blue box", "a blue box")
    assert isinstance(text, Text)
    assert [(text.plain[s.start : s.end], str(s.style)) for s in text.spans] == [("a blue box", "underline")]
    assert marked("a red ball", None).spans == []


def test_vectors_that_were_made_elsewhere_have_no_phrases(tmp_path: Path) -> None:
    rng, source = np.random.default_rng(0), tmp_path / "source"
    for folder in ("img_emb", "text_emb", "metadata"):
        (source / folder).mkdir(parents=True)
    for side in ("img", "text"):
        np.save(source / f"{side}_emb/{side}_emb_0.npy", rng.standard_normal((40, 8)).astype(np.float32))
    captions = pd.DataFrame({"key": [f"k{i}" for i in range(40)], "caption": [f"caption {i}" for i in range(40)]})
    captions.to_parquet(source / "metadata/metadata_0.parquet")
    with pytest.raises(UserError, match="made elsewhere, and phrases have to be encoded: leave out --phrases"):
        pairclean.clean(source, tmp_path / "run", method="zero-shot", phrases=True)
