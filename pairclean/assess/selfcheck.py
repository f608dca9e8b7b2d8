"""How far the flags can be trusted on given data: mismatches are planted in a sample of it, and searched for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config
from ..files import fingerprint, write_json, written_whole
from ..pairs import Row, Shard, UserError
from ..pipeline import advance
from ..run import Execution, Run

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from ..sources import Source

SHARDS = 50  # rows are drawn from at most this many shards, each of which is read completely
FEWEST = 200


def selfcheck(
    source: str | Path,
    *,
    rate: float = 0.3,
    pairs: int = 5000,
    seed: int = 0,
    keep: str | Path | None = None,
    execution: Execution | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Plant mismatches in a random sample of the data, clean it, and compare the result with what was planted.

    Of the planted mismatches half are captions of any other pair, a quarter captions of a pair of the same kind, an
    eighth one caption under many images, and an eighth one image with many captions (`synthetic.plant_mixture`).

    source, options: as for `clean`.
    rate: share of the sampled pairs to change, in (0, 1).  pairs: approximate size of the sample, at least 200.
    seed: of the sample and the run.
    keep: a new directory for the run, its verdicts and the truth; without it, nothing is kept.
    Rows are drawn from the whole source, or from `SHARDS` of its shards if it has more.

    Pairs that were mismatched before planting are unknown and count as correct in the truth, so precisions are lower
    bounds. The result contains:

    - pairs, rate (share of pairs whose caption is now another image's), seed, and scores: what
      `metrics.detection.compare_run` returns, with `kinds`: how many of each kind were planted, and flagged.
    - own_rate: `estimate`, `low` and `high` of the share that was mismatched before, by the run's own estimate.
    - flag_precision: `at_least` counts only planted mismatches as correct flags; `about` also counts further flags, as
      far as `own_rate` and the recall of planted mismatches account for them.
    - unjudged: why nothing could be judged, else None.
    - sentence: the conclusion.

    Raises UserError for everything that the caller can fix.
    """
    import numpy as np

    from ..run.results import open_judgement

    if not 0 < rate < 1:
        raise UserError(f"--rate {rate}: it should be a share between 0 and 1")
    if pairs < FEWEST:
        raise UserError(f"--pairs {pairs}: at least {FEWEST} are needed to learn from them")
    execution = execution or Execution()
    with _folder(keep) as folder:
        rng = np.random.default_rng(seed)
        whole = Run.create(folder / "run", source, Config.make(**options, seed=seed))
        run = _SampleRun(whole, _sampled(whole.open_source(), pairs, rng))
        advance(run, ["embed"], execution)
        truth = _plant(run, rate, pairs, rng)
        advance(run, ["align", "judge", "rematch"], execution)
        verdicts = _verdicts(run)
        judged = open_judgement(run)
        found = _result(verdicts, truth, judged.mismatch_rate, judged.unjudged, seed)
        if keep is not None:
            _write(folder / "truth.parquet", truth)
            _write(folder / "verdicts.parquet", verdicts)
            write_json(folder / "selfcheck.json", found)
    return found


@contextmanager
def _folder(keep: str | Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="pairclean-selfcheck-") as temporary:
            yield Path(temporary)
        return
    folder = Path(keep)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: name a new directory")
    yield folder


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    with written_whole(path) as file:
        pq.write_table(table, file)


# --- the sample ---------------------------------------------------------------------------------------------------


class _SampleRun(Run):
    """A run over a sample of its source."""

    def __init__(self, whole: Run, sample: Source):
        super().__init__(whole.path, whole.manifest)
        self._sample = sample

    def open_source(self, *, strict: bool = False) -> Source:
        return self._sample


def _sampled(source: Source, pairs: int, rng: np.random.Generator) -> Source:
    """The source with rows for about `pairs` pairs, drawn from all its shards or from `SHARDS` of them."""
    import numpy as np

    chosen = sorted(rng.permutation(len(source.shards))[:SHARDS].tolist())
    shards = [source.shards[i] for i in chosen if source.shards[i].rows]
    if not shards:
        raise UserError(f"{source.path} has no rows to draw from: name another source")
    if source.vectors is not None:  # nothing has to be embedded: `_plant` draws the pairs
        source.shards = shards
        return source
    first = next(iter(source.rows(shards[0], images=False)))
    offsets = np.cumsum([0, *(shard.rows for shard in shards)])
    wanted = min(int(offsets[-1]), -(-pairs // max(1, len(first.captions))))
    drawn = np.sort(rng.choice(offsets[-1], wanted, replace=False))
    rows = [drawn[(drawn >= a) & (drawn < b)] - a for a, b in pairwise(offsets)]
    return _Sample(source, {s: set(r.tolist()) for s, r in zip(shards, rows, strict=True) if len(r)})


class _Sample:
    """Some rows of a source of pictures."""

    def __init__(self, source: Source, rows: dict[Shard, set[int]]):
        self._source, self._whole = source, {shard.name: shard for shard in rows}
        self._rows = {shard.name: drawn for shard, drawn in rows.items()}
        self.path, self.layout, self.roles, self.columns = source.path, source.layout, source.roles, source.columns
        self.many, self.vectors, self.broken, self.strict = source.many, source.vectors, source.broken, source.strict
        self.encoding = source.encoding
        self.notes = source.notes
        self.shards = [
            replace(shard, rows=len(drawn), fingerprint=fingerprint(shard.fingerprint, sorted(drawn)))
            for shard, drawn in rows.items()
        ]

    def rows(self, shard: Shard, *, images: bool = True) -> Iterator[Row]:
        drawn = self._rows[shard.name]
        return (row for row in self._source.rows(self._whole[shard.name], images=images) if row.row in drawn)

    def sample(self, shard: Shard, count: int) -> Iterator[Row]:
        return islice(self.rows(shard), count)

    def batches(self, shard: Shard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows, drawn or not: a row keeps its number, by which it is looked up."""
        return self._source.batches(self._whole[shard.name], columns)

    def image(self, shard: Shard, row: int) -> bytes:
        return self._source.image(self._whole[shard.name], row)


# --- planting and comparing -----------------------------------------------------------------------------------------


def _plant(run: Run, rate: float, pairs: int, rng: np.random.Generator) -> pa.Table:
    """Mismatch a share `rate` of `pairs` readable pairs; remove other pairs from the run.

    Returns the truth, as `pairclean plant` writes it, with the kinds of `synthetic.plant_mixture`.
    """
    import numpy as np
    import pyarrow as pa

    from ..embed import write_part
    from ..judge import PairKinds, Partition
    from ..run.results import open_embeddings
    from ..synthetic.mismatches import plant_mixture

    emb = open_embeddings(run)
    rows = np.flatnonzero(emb.readable)
    if len(rows) > pairs:
        rows = np.sort(rng.choice(rows, pairs, replace=False))
    if len(rows) < FEWEST:
        raise UserError(
            f"only {len(rows)} pairs of the sample can be read: at least {FEWEST} are needed, raise --pairs"
        )
    kinds = PairKinds.of(Partition.fit(emb.pairs, rows), emb.pairs, rows).peer_text
    pictured, carried, kind = plant_mixture(kinds, rate, rng, owners=emb.image_id[rows])
    pictured, carried = rows[pictured], rows[carried]
    image, text = emb.image[pictured], emb.text[carried]
    table = pa.concat_tables([emb.pair_table(name) for name in run.shards])
    before, lent, donors = (table.take(pa.array(of)) for of in (rows, pictured, carried))
    after = before
    for column, taken in (("caption", donors), ("caption_id", donors), ("image_id", lent)):
        after = after.set_column(after.column_names.index(column), after.schema.field(column), taken[column])
    ends = np.searchsorted(rows, emb.shard_offsets)
    for name, (start, stop) in zip(run.shards, pairwise(ends.tolist()), strict=True):
        part, done = after.slice(start, stop - start), run.manifest["parts"][name]
        write_part(run.embeddings, name, done, part, image[start:stop], text[start:stop])
    return pa.table(
        {
            "key": before["pair_id"],
            "caption_key": donors["pair_id"],
            "caption": lent["caption"],  # the one that belongs to the image that the pair has now
            "carried_caption": donors["caption"],
            "noise_kind": pa.array([name or "clean" for name in kind], pa.string()),
        }
    )


def _verdicts(run: Run) -> pa.Table:
    import pyarrow as pa

    from ..run.results import open_embeddings
    from ..stages.export import verdict_tables

    return pa.concat_tables(verdict_tables(run, open_embeddings(run)))


def _result(
    verdicts: pa.Table, truth: pa.Table, rate: dict[str, float | None], unjudged: str | None, seed: int
) -> dict[str, Any]:
    from ..metrics.detection import compare_run

    scores = compare_run(verdicts, truth, rate)
    planted, pairs = scores["true_mismatch_rate"], scores["pairs"]
    own = {
        name: None if found is None else min(1.0, max(0.0, (found - planted) / (1 - planted)))
        for name, found in ((name, scores["mismatch_rate"][name]) for name in ("estimate", "low", "high"))
    }
    flagged = scores["flag_rate"] * pairs
    right = scores["flag_precision"] * flagged
    beyond = min(flagged - right, scores["flag_recall"] * (own["estimate"] or 0.0) * (1 - planted) * pairs)
    precision = {"at_least": scores["flag_precision"], "about": (right + beyond) / max(1.0, flagged)}
    found = {
        "pairs": pairs,
        "rate": planted,
        "seed": seed,
        "own_rate": own,
        "flag_precision": precision,
        "unjudged": unjudged,
        "scores": scores,
    }
    return {**found, "sentence": _sentence(found)}


def _sentence(found: dict[str, Any]) -> str:
    scores, own, precision = found["scores"], found["own_rate"], found["flag_precision"]

    def hundred(share: float) -> str:
        return f"{100 * share:.0f} in 100"

    start = f"In a random sample of {found['pairs']:,} of your pairs"
    if found["unjudged"]:
        return f"{start} nothing could be judged, so there are no flags to trust: {found['unjudged']}."
    planted = f"{start}, {hundred(found['rate'])} of which were mismatched on purpose,"
    flags = f"pairclean finds {hundred(scores['flag_recall'])} of these mismatches{_by_kind(scores['kinds'])}"
    if not scores["flag_rate"]:
        return f"{planted} pairclean flags nothing."
    sure = f"at least {hundred(precision['at_least'])} of the pairs that it flags are mismatched"
    if own["low"]:
        sure += f" (about {hundred(precision['about'])}, if {hundred(own['estimate'])} were mismatched before, as it"
        sure += " estimates)"
    if not scores["rematch_emitted"]:
        return f"{planted} {flags}; {sure}; no pair gets another caption."
    new = f"{scores['rematch_emitted']:,} pairs get another caption"
    return f"{planted} {flags}; {sure}; {new}, of which at least {hundred(scores['rematch_precision'])} are correct."


_KINDS = {
    "random": "of captions moved at random",
    "within_kind": "of captions moved within a kind",
    "generic": "of one caption under many images",
    "placeholder": "of one image with many captions",
}


def _by_kind(kinds: dict[str, dict[str, Any]]) -> str:
    """What was found of each kind that was planted."""
    shown = [
        f"{100 * kinds[name]['flagged']:.0f} {what}"
        for name, what in _KINDS.items()
        if kinds.get(name, {}).get("pairs")
    ]
    return f" ({', '.join(shown)})" if shown else ""
