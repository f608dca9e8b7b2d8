"""The verdict of every pair of a shard: one row per input pair, in input order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..judge import FEWEST, NOISE_KINDS, UNJUDGED, Faults, Judgement
from ..pairs import VERDICT_SCHEMA, ReasonCode, Verdict, unreadable_code
from ..rematch import REASON_CODES, REASONS, Rematches
from .copies import Copies

#: What is wrong with pairs of these kinds says more than why they got no other caption, or that they got one.
KIND_CODES = {"generic": ReasonCode.GENERIC_CAPTION, "placeholder": ReasonCode.PLACEHOLDER_IMAGE}


@dataclass(frozen=True)
class Findings:
    """What the stages found about n pairs, aligned with their pair table.

    clean_probability: (n,) float64, similarity, aligned_similarity: (n,) float32, NaN where not known.
    partner_id, partner_caption: (n,) objects, None where not rematched.  rematch_probability: (n,) float32.
    why_not: (n,) objects, why a noisy pair was not rematched.  noise_kind: (n,) objects, the kind of mismatch if it is
    one, None where not known.  mismatched_text: (n,) objects, the words of the caption that do not fit, or None.
    fault: (n,) objects, the systematic fault that the pair is part of, in words, or None.
    unjudged: (n,) objects, why a readable pair was not judged, or None; unjudged_code: the same for all of them.
    image_group, caption_group: (n,) int64, equal for copies.  kept_instead: (n,) objects, the id of the pair of which
    this one is a copy that is left out, or None.
    """

    clean_probability: np.ndarray
    similarity: np.ndarray
    aligned_similarity: np.ndarray
    partner_id: np.ndarray
    partner_caption: np.ndarray
    rematch_probability: np.ndarray
    why_not: np.ndarray
    noise_kind: np.ndarray
    mismatched_text: np.ndarray
    fault: np.ndarray
    unjudged: np.ndarray
    unjudged_code: ReasonCode
    image_group: np.ndarray
    caption_group: np.ndarray
    kept_instead: np.ndarray
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
    code = np.full(len(pairs), found.unjudged_code.value, object)
    code[judged] = None
    reason[noisy & ~rematched] = found.why_not[noisy & ~rematched]
    code[noisy] = [REASON_CODES[why].value for why in found.why_not[noisy]]
    code[noisy & (found.noise_kind == "partial")] = ReasonCode.PARTLY_WRONG.value
    code[rematched] = ReasonCode.BELONGS_ELSEWHERE.value
    for kind, of_kind in KIND_CODES.items():
        code[noisy & (found.noise_kind == kind)] = of_kind.value
    shifted = (noisy | ~judged) & np.array([fault is not None for fault in found.fault], bool)
    reason[shifted], code[shifted] = found.fault[shifted], ReasonCode.SHIFTED.value
    for row in np.flatnonzero([instead is not None for instead in found.kept_instead]):
        reason[row] = f"its picture is that of {found.kept_instead[row]}, which is kept instead"
        code[row] = ReasonCode.DUPLICATE.value
    reason[unreadable] = unread[unreadable]
    code[unreadable] = [unreadable_code(why).value for why in unread[unreadable]]
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
        "noise_kind": _where(noisy & ~shifted, found.noise_kind),
        "reason_code": pa.array(code, pa.string()),
        "mismatched_text": _where(judged & ~shifted, found.mismatched_text),
        "image_group": pa.array(found.image_group, pa.int64(), mask=unreadable),
        "caption_group": pa.array(found.caption_group, pa.int64(), mask=unreadable),
    }
    return pa.table(columns, schema=VERDICT_SCHEMA)


class Verdicts:
    """Makes the verdicts of N pairs, a table for any part of them.

    readable: how many of the pairs are.  rows: (n,) int64, the pairs whose verdicts will be asked for.
    pair_ids, captions: of any (n,) int64 rows; each is called a few times only, since rematches point anywhere in the
    data.  kept_instead: (N,) int64 of `Copies.kept_instead`; None leaves out no copies.
    """

    def __init__(
        self,
        judgement: Judgement,
        rematches: Rematches,
        faults: Faults,
        copies: Copies,
        *,
        readable: int,
        pair_ids: Callable[[np.ndarray], list[str]],
        captions: Callable[[np.ndarray], list[str]],
        rows: np.ndarray,
        kept_instead: np.ndarray | None = None,
    ) -> None:
        self._judgement, self._rematches, self._faults, self._copies = judgement, rematches, faults, copies
        self._unjudged_code = ReasonCode.ENCODER_CANNOT_TELL if readable >= FEWEST else ReasonCode.TOO_FEW_PAIRS
        partner = rematches.partner[rows]
        self._partners = np.unique(partner[partner >= 0])
        self._ids, self._texts = (np.array(of(self._partners), object) for of in (pair_ids, captions))
        self._kept_instead = np.full(len(copies.image), -1) if kept_instead is None else kept_instead
        stays = self._kept_instead[rows]
        self._stays = np.unique(stays[stays >= 0])
        self._stays_id = np.array(pair_ids(self._stays), object)

    def table(self, pairs: pa.Table, start: int = 0) -> pa.Table:
        """VERDICT_SCHEMA, n rows.  pairs: PAIR_SCHEMA, n consecutive pairs.  start: the first of them among all N."""
        judgement, rematches, faults, copies = self._judgement, self._rematches, self._faults, self._copies
        kinds, reasons = np.array(NOISE_KINDS, object), np.array(REASONS, object)
        unjudged = np.array([judgement.unjudged, *UNJUDGED[1:]], object)
        part = slice(start, start + len(pairs))
        partner = np.asarray(rematches.partner[part])
        there = np.flatnonzero(partner >= 0)
        at = np.searchsorted(self._partners, partner[there])
        partner_id, partner_caption = np.full((2, len(partner)), None, object)
        partner_id[there], partner_caption[there] = self._ids[at], self._texts[at]
        fault = np.full(len(partner), None, object)
        for finding in faults.findings:
            if finding.kind != "repeated":
                fault[max(0, finding.start - part.start) : max(0, finding.stop - part.start)] = str(finding)
        if faults.repaired:  # what is wrong with the others is not the fault, which is mended
            fault[partner != faults.caption[part]] = None
        phrase = np.array(judgement.wrong_phrase[part])
        phrase[faults.caption[part] != np.arange(part.start, part.stop)] = -1  # they were judged with other captions
        instead = np.full(len(partner), None, object)
        kept_instead = self._kept_instead[part]
        left_out = np.flatnonzero(kept_instead >= 0)
        instead[left_out] = self._stays_id[np.searchsorted(self._stays, kept_instead[left_out])]
        found = Findings(
            clean_probability=rematches.clean_probability[part],
            similarity=judgement.similarity[part],
            aligned_similarity=judgement.aligned_similarity[part],
            partner_id=partner_id,
            partner_caption=partner_caption,
            rematch_probability=rematches.probability[part],
            why_not=reasons[rematches.reason[part]],
            noise_kind=kinds[judgement.noise_kind[part]],
            mismatched_text=_words(pairs["caption"], phrase),
            fault=fault,
            unjudged=unjudged[judgement.unjudged_reason[part]],
            unjudged_code=self._unjudged_code,
            image_group=copies.image[part],
            caption_group=copies.caption[part],
            kept_instead=instead,
            flag_below=rematches.flag_below,
        )
        return verdict_table(pairs, found)


def _words(captions: pa.ChunkedArray, span: np.ndarray) -> np.ndarray:
    """(n,) objects, a part of each caption, None where there is none.  span: (n, 2) its start and stop; -1 for none."""
    out = np.full(len(captions), None, object)
    for row in np.flatnonzero(span[:, 0] >= 0).tolist():
        start, stop = span[row].tolist()
        out[row] = captions[row].as_py()[start:stop]
    return out


def _floats(values: np.ndarray, there: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.float32), mask=~there | np.isnan(values))


def _where(there: np.ndarray, values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.string(), mask=~there)
