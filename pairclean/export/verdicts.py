"""The verdict of every pair of a shard: one row per input pair, in input order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..judge import NOISE_KINDS, UNJUDGED, Judgement
from ..pairs import VERDICT_SCHEMA, Verdict
from ..rematch import REASONS, Rematches


@dataclass(frozen=True)
class Findings:
    """What the stages found about n pairs, aligned with their pair table.

    clean_probability: (n,) float64, similarity, aligned_similarity: (n,) float32, NaN where not known.
    partner_id, partner_caption: (n,) objects, None where not rematched.  rematch_probability: (n,) float32.
    why_not: (n,) objects, why a noisy pair was not rematched.  noise_kind: (n,) objects, the kind of mismatch if it is
    one, None where not known.  unjudged: (n,) objects, why a readable pair was not judged, or None.
    """

    clean_probability: np.ndarray
    similarity: np.ndarray
    aligned_similarity: np.ndarray
    partner_id: np.ndarray
    partner_caption: np.ndarray
    rematch_probability: np.ndarray
    why_not: np.ndarray
    noise_kind: np.ndarray
    unjudged: np.ndarray
    flag_below: float


def verdict_table(pairs: pa.Table, found: Findings) -> pa.Table:
    """pairs: PAIR_SCHEMA, n rows -> VERDICT_SCHEMA, n rows."""
    unread = pairs["reason"].to_numpy(zero_copy_only=False)
    unreadable = np.array([reason is not None for reason in unread], bool)
    judged = ~unreadable & ~np.isnan(found.clean_probability)
    noisy = judged & (found.clean_probability < found.flag_below)
    rematched = noisy & np.array([partner is not None for partner in found.partner_id], bool)
    verdict = np.select(
        [unreadable, ~judged, rematched, noisy],
        [Verdict.UNREADABLE.value, Verdict.UNJUDGED.value, Verdict.REMATCHED.value, Verdict.NOISY.value],
        Verdict.CLEAN.value,
    )
    reason = found.unjudged.copy()
    reason[judged] = None
    reason[noisy & ~rematched] = found.why_not[noisy & ~rematched]
    reason[unreadable] = unread[unreadable]
    columns = {
        **{name: pairs[name] for name in ("pair_id", "shard", "row", "caption_index")},
        "verdict": verdict,
        "is_noisy": pa.array(noisy, mask=~judged),
        "clean_probability": _floats(found.clean_probability, judged),
        "similarity": _floats(found.similarity, ~unreadable),
        "aligned_similarity": _floats(found.aligned_similarity, ~unreadable),
        "rematch_pair_id": _where(rematched, found.partner_id),
        "rematch_caption": _where(rematched, found.partner_caption),
        "rematch_probability": _floats(found.rematch_probability, rematched),
        "reason": pa.array(reason, pa.string()),
        "noise_kind": _where(noisy, found.noise_kind),
    }
    return pa.table(columns, schema=VERDICT_SCHEMA)


def verdict_tables(
    tables: Iterable[pa.Table],
    judgement: Judgement,
    rematches: Rematches,
    *,
    pair_ids: Callable[[np.ndarray], list[str]],
    captions: Callable[[np.ndarray], list[str]],
) -> Iterator[pa.Table]:
    """The verdicts of N pairs, VERDICT_SCHEMA, a table for each of theirs.

    tables: PAIR_SCHEMA, of consecutive parts of the pairs.  pair_ids, captions: of any (n,) int64 rows; each is called
    once, since rematches point anywhere in the data.
    """
    partners = np.unique(rematches.partner[rematches.partner >= 0])
    ids, texts = (np.array(of(partners), object) for of in (pair_ids, captions))
    kinds, reasons = np.array(NOISE_KINDS, object), np.array(REASONS, object)
    unjudged = np.array([judgement.unjudged, *UNJUDGED[1:]], object)
    start = 0
    for table in tables:
        part = slice(start, start + len(table))
        start = part.stop
        partner = np.asarray(rematches.partner[part])
        there = np.flatnonzero(partner >= 0)
        at = np.searchsorted(partners, partner[there])
        partner_id, partner_caption = np.full((2, len(partner)), None, object)
        partner_id[there], partner_caption[there] = ids[at], texts[at]
        found = Findings(
            clean_probability=rematches.clean_probability[part],
            similarity=judgement.similarity[part],
            aligned_similarity=judgement.aligned_similarity[part],
            partner_id=partner_id,
            partner_caption=partner_caption,
            rematch_probability=rematches.probability[part],
            why_not=reasons[rematches.reason[part]],
            noise_kind=kinds[judgement.noise_kind[part]],
            unjudged=unjudged[judgement.unjudged_reason[part]],
            flag_below=rematches.flag_below,
        )
        yield verdict_table(table, found)


def _floats(values: np.ndarray, there: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.float32), mask=~there | np.isnan(values))


def _where(there: np.ndarray, values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.string(), mask=~there)
