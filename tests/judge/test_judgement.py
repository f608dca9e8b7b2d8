"""The judge's choices in a whole run: which score, which calibration, which threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairclean.config import Config
from pairclean.judge import NOISE_KINDS, Judgement
from pairclean.judge.decoys import Rate
from pairclean.judge.judgement import NEARLY_ALL, rate_notes
from pairclean.pairs import PAIR_SCHEMA
from pairclean.pipeline import advance, redo
from pairclean.run import Execution, Run
from pairclean.run.embedded import embedded_run
from pairclean.run.results import open_judgement, open_learned

N, D = 700, 48


def run_over(
    home: Path, image: np.ndarray, text: np.ndarray, carried: np.ndarray, *, first: int = 0, **options: Any
) -> Run:
    """A run directory over vectors, as if an encoder whose spaces are comparable had made them; numbered from first."""
    n = len(image)
    columns = {
        "pair_id": [str(i) for i in range(n)],
        "shard": ["all"] * n,
        "row": np.arange(n),
        "caption_index": np.zeros(n, np.int32),
        "caption": [f"caption {c}" for c in carried],
        "image_id": np.arange(first, first + n) * 1024 + 5,
        "caption_id": carried * 1024 + 9,
        "reason": pa.nulls(n, pa.string()),
    }
    parts = [("all", pa.table(columns, schema=PAIR_SCHEMA), image, text)]
    return embedded_run(home, Config.make(**options), parts, encoder={"comparable": True})


def world(seed: int = 0, noise: float = 1.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aligned vectors with a hub among the captions, the first two in five of which were moved."""
    rng = np.random.default_rng(seed)
    meaning = rng.standard_normal((N, D)) * np.geomspace(3, 0.3, D)
    image, text = (meaning + noise * rng.standard_normal((N, D)) for _ in range(2))
    carried = np.arange(N)
    moved = rng.permutation(2 * N // 5)
    carried[moved] = np.roll(moved, 1)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text[carried]))
    return image, text, carried


def found(run: Run) -> tuple[Judgement, np.ndarray]:
    advance(run, ("align", "judge"), Execution())
    judged = open_judgement(run)
    return judged, judged.clean_probability


@pytest.mark.parametrize("score", ["clip", "negclip", "lemon", "auto"])
def test_every_score_judges_and_judges_other_data_alike(score: str, tmp_path: Path) -> None:
    image, text, carried = world()
    run = run_over(tmp_path / "run", image, text, carried, method="zero-shot", score=score)
    judged, p = found(run)
    assert judged.score == ("negclip" if score == "auto" else score)
    assert judged.rate.estimate == pytest.approx(0.4, abs=0.08)
    noisy = carried != np.arange(N)
    assert (p[~noisy] > 0.5).mean() > 0.85
    assert (p[noisy] < 0.5).mean() > 0.85
    order = np.argsort(p)
    if score == "clip":
        cosine = judged.similarity
        assert (np.diff(cosine[order]) >= -1e-3).all()  # the embeddings are kept as float16
    half = np.arange(N // 2, N)
    some = image[half], text[half], carried[half]
    again = run_over(tmp_path / "again", *some, first=N // 2, method="zero-shot", score=score)
    again.manifest["frozen_from"] = run._as_judge()
    again.save()
    _, q = found(again)
    np.testing.assert_allclose(q, p[half], atol=2e-3)


@pytest.mark.parametrize("score", ["clip", "auto"])
def test_captions_that_are_half_right_are_told_from_wrong_ones(score: str, tmp_path: Path) -> None:
    image, text, carried = world(3)
    half, whole = np.arange(N // 5), np.arange(N // 5, 2 * N // 5)
    own = world(3)[1][np.argsort(carried)]  # the texts in the order of their own pictures
    text = text.copy()
    text[half] = (own[half] + text[half]) / np.linalg.norm(own[half] + text[half], axis=1, keepdims=True)
    run = run_over(tmp_path / "run", image, text, carried, method="zero-shot", score=score)
    judged, _ = found(run)
    kind, mixed = judged.noise_kind, judged.mixed_clean_probability
    if score == "clip":  # knows no mixtures
        assert not kind.any()
        assert not len(mixed)
    else:
        assert (kind[half] == NOISE_KINDS.index("partial")).mean() > 0.7
        assert (kind[whole] == NOISE_KINDS.index("complete")).mean() > 0.85
        assert 0.1 < np.median(mixed) < 0.999


@pytest.mark.parametrize(
    ("noise", "calibration", "weak"),
    [(1.2, "decoy", False), (2.5, "decoy", True), (3, "decoy", False), (2.5, "beta", False)],
)
def test_a_weak_encoder_is_said_to_miss_captions_of_similar_pictures(
    noise: float, calibration: str, weak: bool, tmp_path: Path
) -> None:
    """Unless that is known of all its captions already.  Only the evidence says how weak it is, and no mixture."""
    image, text, carried = world(4, noise)
    judged, p = found(run_over(tmp_path / "run", image, text, carried, method="zero-shot", calibration=calibration))
    said = [note for note in judged.notes if "captions of similar pictures" in note]
    assert len(said) == weak
    if weak:
        noisy = carried != np.arange(N)
        above = (p[~noisy][:, None] > p[noisy]).mean()
        assert int(said[0].split("only ")[1][:2]) / 100 == pytest.approx(above, abs=0.05)


@pytest.mark.parametrize("kind", ["decoy", "beta", "gauss"])
def test_every_calibration_is_recorded_and_keeps_the_order(kind: str, tmp_path: Path) -> None:
    run = run_over(tmp_path / "run", *world(), method="zero-shot", calibration=kind)
    judged, p = found(run)
    assert judged.calibration.kind == kind
    assert judged.rate == judged.calibration.rate
    assert judged.mismatch_rate["level"] == 0.95
    assert len(np.unique(p)) > 0.9 * N
    assert np.array_equal(p, p.astype(np.float32))
    # Mixtures go by the score alone, and so agree; decoys are compared within kinds.
    other_kind = "gauss" if kind == "beta" else "beta"
    redo(run, "judge", Execution(), calibration=other_kind)
    other = open_judgement(run).clean_probability
    agreement = np.corrcoef(np.argsort(np.argsort(p)), np.argsort(np.argsort(other)))[0, 1]
    assert agreement > (0.95 if kind == "decoy" else 0.999)


def test_spaces_that_have_only_their_size_in_common_are_learned_from_nothing(tmp_path: Path) -> None:
    image, text, carried = world(1)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((D, D)))[0]
    run = run_over(tmp_path / "run", image, text @ turn, carried, seed=1)
    judged, p = found(run)
    assert judged.unjudged is None
    assert judged.score in ("first", "aligned")
    assert any("do not tell matches from mismatches" in note for note in judged.notes)
    noisy = carried != np.arange(N)
    assert p[~noisy].mean() > p[noisy].mean() + 0.3
    plain, q = found(run_over(tmp_path / "plain", image, text @ turn, carried, method="zero-shot"))
    assert "no higher than random" in plain.unjudged
    assert np.isnan(q).all()


def test_near_copies_of_a_picture_share_their_fold(tmp_path: Path) -> None:
    image, text, carried = world(3)
    half = N // 2
    image[1:half:2] = image[:half:2] + 1e-3 * np.random.default_rng(0).standard_normal((half // 2, D))
    run = run_over(tmp_path / "run", image, text, carried, method="zero-shot")
    found(run)
    near = open_learned(run).image_id
    assert np.array_equal(near[:half:2], near[1:half:2])
    assert len(set(near)) == N - half // 2
    tied = open_learned(run).folds.image_id
    assert len(tied) > N / 8  # in another fold than their own hash says


@pytest.mark.parametrize(("estimate", "said"), [(0.95, True), (0.6, False)])
def test_a_rate_near_one_says_where_to_look(estimate: float, said: bool) -> None:
    rate = Rate(estimate, estimate - 0.05, min(1.0, estimate + 0.05))
    assert (NEARLY_ALL in rate_notes(rate)) == said
