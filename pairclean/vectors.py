"""Vectors in memory, judged and rematched in one call: any encoder, any two modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arrays import Pairs, PairScorer, chunks
from .config import Config
from .embed import prepared, resolve_devices
from .execution import Execution
from .export.copies import Copies
from .export.verdicts import Verdicts
from .judge import Faults, Judgement, Learned, PairScorers, judge, learn_mended, script_codes, with_strays
from .options import STAGES
from .pairs import PAIR_SCHEMA, Row, UserError, content_id
from .rematch import Rematches, rematch
from .sources.base import Vectors

SHARD = "memory"
_CHUNK = 65_536
#: Labels are columns of a source, and phrases are read by an encoder: neither is here.
_OPTIONS = [
    name
    for stage in ("align", "judge", "rematch")
    for name in STAGES[stage]
    if not name.endswith("_column") and name not in ("use_labels", "phrases")
]


@dataclass(frozen=True)
class CleanedVectors:
    """What was found about N pairs of vectors.

    verdicts: `pairs.VERDICT_SCHEMA`, one row per pair, in the order given; `.to_pandas()` gives a frame.
    faults: captions that moved together.  learned: the models.  judgement, rematches: arrays over the N pairs.
    """

    verdicts: pa.Table
    faults: Faults
    learned: Learned
    judgement: Judgement
    rematches: Rematches

    @property
    def mismatch_rate(self) -> dict[str, float | None]:
        """`estimate`, `low`, `high` and `level`; None where nothing could be judged."""
        return self.judgement.mismatch_rate


def clean_vectors(
    image: np.ndarray,
    text: np.ndarray,
    *,
    captions: Sequence[str | None] | None = None,
    ids: Sequence[str] | None = None,
    image_ids: Sequence[Any] | np.ndarray | None = None,
    kinds: Sequence[Any] | np.ndarray | None = None,
    comparable: bool | None = None,
    scorer: PairScorer | Sequence[PairScorer] | None = None,
    fold: Sequence[int] | np.ndarray | None = None,
    execution: Execution | None = None,
    **options: Any,
) -> CleanedVectors:
    """Align, judge and rematch pairs of vectors; the verdicts are those of a run over the same vectors in files.

    image: (N, d), text: (N, e), any float; vectors of any encoder and of any two modalities, a row per pair. They are
    scaled to unit length and kept in half precision. A pair with a vector of zeros gets the verdict `unreadable`.
    captions: N texts. Equal ones are one caption, and a pair without one is `unreadable`. None: captions are equal if
    their vectors are.
    ids: N different strings, the verdicts' `pair_id`; None numbers the rows.
    image_ids: N integers or strings, equal for the same image. None: images are equal if their vectors are.
    kinds: N values, equal for pairs of one kind (product type, species, language), within which wrong captions
    resemble the right ones. None: kinds are found in the captions.
    comparable: whether the cosine of an image and a text means something by itself, as with CLIP. None: if d == e.
    scorer: compares images with captions in place of their vectors: the pairs are judged and candidates for rematches
    are ranked by it; vectors find the kinds of pairs and the candidates. It names pairs by their rows, from 0 to N - 1,
    and must not have trained on the pairs that it scores, or it takes for right what it has memorised.
    fold: N integers. Of several scorers, scorer[fold[i]] scores pair i, and has trained on no pair of that fold. Copies
    of an image are in one fold.
    options: those of `Config` for `align`, `judge` and `rematch`, without labels (and so without the method drcl).
    Raises UserError if arguments do not fit together, a vector is not finite, or an option is wrong.

    >>> import numpy as np, pairclean
    >>> rng = np.random.default_rng(0)
    >>> image = rng.standard_normal((500, 32))
    >>> text = image + 0.5 * rng.standard_normal((500, 32))
    >>> text[:100] = np.roll(text[:100], 1, axis=0)  # a fifth of the captions belong to the next image
    >>> found = pairclean.clean_vectors(image, text, method="zero-shot")
    >>> rate = found.mismatch_rate
    >>> rate["low"] <= 0.2 <= rate["high"]
    True
    >>> found.verdicts["verdict"][:100].value_counts().field("values").to_pylist()
    ['rematched']
    """
    config = _config(options)
    image, text = _vectors("image", image), _vectors("text", text)
    n = len(image)
    for name, given in (
        ("text", text),
        ("captions", captions),
        ("ids", ids),
        ("image_ids", image_ids),
        ("kinds", kinds),
        ("fold", fold),
    ):
        if given is not None and len(given) != n:
            raise UserError(f"there are {n} image vectors and {len(given)} {name}: give one of each per pair")
    if comparable and image.shape[1] != text.shape[1]:
        raise UserError(
            f"comparable vectors are of one length, and these are of {image.shape[1]} and {text.shape[1]}: leave "
            "comparable out"
        )
    _check_ids(ids)
    scorers, of_scorer = _scorers(scorer, fold, n)
    image_id = None if image_ids is None else _identities(image_ids)
    text_id = None if captions is not None else _identities([vector.tobytes() for vector in text])
    rows = [
        Row(
            i, f"{SHARD}:{i}" if ids is None else ids[i], None, (None if captions is None else captions[i],), reason=why
        )
        for i, why in enumerate(_why_unreadable(image, text))
    ]
    tables = []
    unit_image, unit_text = (np.empty(vectors.shape, np.float16) for vectors in (image, text))
    for part in chunks(n, _CHUNK):
        of_part = (None if known is None else known[part] for known in (image_id, text_id))
        table, unit_image[part], unit_text[part] = prepared(
            SHARD, Vectors(rows[part], image[part], text[part], *of_part)
        )
        tables.append(table)
    table = pa.concat_tables(tables or [PAIR_SCHEMA.empty_table()])
    pairs = Pairs(unit_image, unit_text, table["image_id"].to_numpy(), table["caption_id"].to_numpy())
    if len(scorers) > 1 and not _constant(of_scorer, pairs.image_id):
        raise UserError("copies of an image are in different folds: give all pairs of an image the same fold")
    return _cleaned(table, pairs, comparable, _kinds(kinds), scorers, of_scorer, config, execution or Execution())


def _cleaned(
    table: pa.Table,
    pairs: Pairs,
    comparable: bool | None,
    kinds: np.ndarray | None,
    scorers: Sequence[PairScorer],
    fold: np.ndarray,
    config: Config,
    execution: Execution,
) -> CleanedVectors:
    is_readable = pc.is_null(table["reason"]).to_numpy()
    readable = np.flatnonzero(is_readable)
    devices, progress = resolve_devices(execution.device), execution.progress
    one_space = pairs.image.shape[1] == pairs.text.shape[1] if comparable is None else comparable
    common: dict[str, Any] = {"seed": config.seed, "device": devices[0]}
    learned, faults = learn_mended(
        pairs,
        is_readable,
        comparable=one_space,
        repair=config.repair,
        method=config.method,
        kind_column=kinds,
        seed=config.seed,
        devices=devices,
        progress=progress,
    )
    progress.start("judge")
    texts = table["caption"]
    given = PairScorers.of(scorers, fold, faults.caption, readable) if scorers else None
    judgement = judge(
        faults.mended(pairs),
        readable,
        learned,
        score=config.score,
        calibration=config.calibration,
        scripts=script_codes(texts.to_pylist())[faults.caption],
        captions=lambda rows: [
            text or "" for text in table["caption"].take(pa.array(faults.caption[rows])).to_pylist()
        ],
        scorers=given,
        comparable=one_space,
        **common,
    )
    judgement = with_strays(judgement, faults, pairs.caption_id)
    progress.start("rematch")
    of_rematch = {name: getattr(config, name) for name in STAGES["rematch"]}
    rematches = rematch(pairs, learned, judgement, faults, scorers=given, **of_rematch, **common)
    verdicts = Verdicts(
        judgement,
        rematches,
        faults,
        Copies.of(learned, faults),
        readable=len(readable),
        pair_ids=lambda rows: table["pair_id"].take(pa.array(rows)).to_pylist(),
        captions=lambda rows: table["caption"].take(pa.array(rows)).to_pylist(),
        rows=np.arange(len(table)),
    )
    return CleanedVectors(verdicts.table(table), faults, learned, judgement, rematches)


def _config(options: dict[str, Any]) -> Config:
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise UserError(f"clean_vectors has no option {unknown[0]}; it has {', '.join(_OPTIONS)}")
    if options.get("method") == "drcl":
        raise UserError("method drcl learns from labels in the columns of a source: choose another, or use files")
    return Config.make(**options)


def _scorers(
    given: PairScorer | Sequence[PairScorer] | None, fold: Sequence[int] | np.ndarray | None, n: int
) -> tuple[Sequence[PairScorer], np.ndarray]:
    """The scorers, and which of them scores each of n pairs, (n,) int64."""
    scorers = [] if given is None else list(given) if isinstance(given, Sequence) else [given]
    for scorer in scorers:
        if not callable(getattr(scorer, "score", None)):
            raise UserError(f"the scorer {scorer!r} has no method score: see pairclean.arrays.PairScorer")
    if fold is None:
        if len(scorers) > 1:
            raise UserError(f"there are {len(scorers)} scorers: give fold, which says which of them scores a pair")
        return scorers, np.zeros(n, np.int64)
    if not scorers:
        raise UserError("fold says which scorer scores a pair, and no scorer was given: leave it out")
    of_pair = np.asarray(fold)
    if of_pair.dtype.kind not in "iu" or not np.isin(of_pair, range(len(scorers))).all():
        raise UserError(f"fold should have integers from 0 to {len(scorers) - 1}: which scorer scores each pair")
    return scorers, of_pair.astype(np.int64)


def _constant(values: np.ndarray, ids: np.ndarray) -> bool:
    """Whether equal identities have equal values, (n,) each."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return bool((values == values[first][inverse]).all())


def _vectors(name: str, given: np.ndarray) -> np.ndarray:
    """(N, d) float32.  Raises UserError if it is anything else, or not finite."""
    array = np.asarray(given)
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise UserError(
            f"{name} is an array of {array.dtype} and shape {array.shape}: give a two-dimensional array of floats, a "
            "row per pair"
        )
    with np.errstate(over="ignore"):  # what is too large for float32 is reported as not finite
        array = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise UserError(f"{name}[{bad[0]}] is not finite (and {len(bad) - 1} more): leave such pairs out, or mend them")
    return array


def _kinds(given: Sequence[Any] | np.ndarray | None) -> np.ndarray | None:
    """(N,) int64, a number for each value, -1 for None."""
    if given is None:
        return None
    numbers: dict[str, int] = {}
    found = [-1 if value is None else numbers.setdefault(str(value), len(numbers)) for value in given]
    return np.array(found, np.int64)


def _check_ids(ids: Sequence[str] | None) -> None:
    seen: set[str] = set()
    for i, name in enumerate(ids or ()):
        if not isinstance(name, str):
            raise UserError(f"ids[{i}] is {name!r}: give strings")
        if name in seen:
            raise UserError(f"ids[{i}] is {name!r}, which is another pair's too: give each pair an id of its own")
        seen.add(name)


def _identities(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """(N,) int64: integers as they are, anything else by its content."""
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    return np.array([content_id(v if isinstance(v, bytes) else str(v).encode()) for v in values], np.int64)


def _why_unreadable(image: np.ndarray, text: np.ndarray) -> list[str | None]:
    reasons: list[str | None] = [None] * len(image)
    for what, vectors in (("caption", text), ("image", image)):
        for i in np.flatnonzero(~vectors.any(axis=1)).tolist():
            reasons[i] = f"the {what}'s vector is zero"
    return reasons
