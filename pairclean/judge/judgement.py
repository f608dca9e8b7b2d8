"""The judgement of every pair: its score, the calibration of the scores, and what both say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from ..align.alignment import Alignment
from ..align.zero_shot import ZeroShot
from ..arrays import Pairs, chunks, single_unit
from ..execution import side_by_side
from ..pairs import UserError
from .agreement import spaces_agree
from .calibration import FEWEST, Calibration, Kind, all_alike, calibrate_scores, cannot_judge
from .choice import ENCODER_SCORES, GIVEN, Choice, by_scorers, choose, encoder_scores, of_kind, with_phrases
from .compared import PairScorers
from .crossfit import CrossFit, Scores
from .decoy_calibration import DecoyCalibration
from .decoys import DecoyScale, Rate
from .embedded import PART
from .evidence import Scored
from .held_out import HeldOutRetrieval, held_out_retrieval
from .languages import all_unread, language_notes, too_few_read, unread_captions, unread_note
from .lemon import NeighbourIndex
from .partial import kind_cut, mixed_scores
from .phrased import NO_SPAN, PhraseReader, Words
from .recalibration import Recalibration
from .rounds import Learned
from .scores import Scorer

#: The kind of a mismatch: not known, the caption of another image, a caption of which half belongs to another image,
#: the caption of an image of the same kind, a caption that says nothing of its image, an image that shows nothing.
NOISE_KINDS = (None, "complete", "partial", "within_kind", "generic", "placeholder")
CANNOT_TELL = "the encoder cannot tell whether it is matched"
CANNOT_READ = "the encoder cannot read the language of its caption"
UNJUDGED = (None, CANNOT_TELL, CANNOT_READ)
#: The weakest phrase of a pair is named if the pair is less likely matched than this, and likelier partly wrong than
#: completely: a reviewer has use for it before the pair is flagged.
NAMED_BELOW = 0.9
HISTOGRAM_BINS = 60
#: A mismatch rate from here on is hardly one by one: something went wrong where images and captions were joined.
NEARLY = 0.9
DECOYS_KEPT = 20_000

_WRONG = "all captions are with the wrong images. Look at a few pairs, and at how images and captions were joined."
NEARLY_ALL = f"Nearly {_WRONG}"
ALL_WRONG = (
    "But images and captions of these data do find each other in the encoder's space, only not in their pairs: nearly "
    + _WRONG
)
NEAR_MISSES = (
    "This encoder ranks only {:.0%} of the right captions above a random one. It cannot tell captions of similar "
    "pictures from right ones, and the mismatch rate counts few of them: `pairclean review` tells how many there are."
)
APPLIED_REFIT = (
    "The run that was applied refitted its probabilities with labels, and these are refitted in the same way; the "
    "mismatch rate is what the scores alone say of this data."
)
APPLIED = "Probabilities are those of the run that was applied; the mismatch rate is this data's own."


@dataclass(frozen=True)
class Histogram:
    """Counts of the pairs' scores, and of decoys scaled to the mismatched pairs that they represent.

    edges: b + 1 log odds of scoring above a decoy, on which scale the raw score's crowded upper end is spread out.
    observed, decoys: b counts.
    """

    edges: list[float]
    observed: list[int]
    decoys: list[float]

    @staticmethod
    def of(scores: Scores, rate: float) -> Histogram:
        scale = DecoyScale.fit(scores.decoys)
        pairs, decoys = -scale(scores.score), -scale(scores.decoys)
        low, high = np.quantile(np.concatenate([pairs, decoys]), [0.0005, 0.9995])
        edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
        observed, random = (np.histogram(np.clip(x, edges[0], edges[-1]), edges)[0] for x in (pairs, decoys))
        expected = random * (rate * len(pairs) / len(decoys))
        return Histogram(edges.tolist(), observed.tolist(), expected.tolist())


@dataclass(frozen=True)
class Judgement:
    """What was found about N pairs.  Where `unjudged` says why nothing could be judged, the optional fields are None.

    clean_probability: (N,) float64, values of float32, NaN where not judged.
    similarity, aligned_similarity: (N,) float32 cosines in the encoder's space and in the learned one; NaN where not
    known.  With scorers that the user gave, aligned_similarity has what these say of the pairs.
    noise_kind: (N,) int8, an index into NOISE_KINDS: the kind that each pair would be if it were mismatched.
    wrong_phrase: (N, 2) int32, where the words of the caption that do not fit start and stop, in characters; -1 where
    none are named.
    unjudged_reason: (N,) int8, an index into UNJUDGED: why a readable pair was not judged although others were.
    decoy_clean_probability: (d,) float64, of random re-pairings.
    mixed_clean_probability: (m,) float64, of captions that are half right.
    score: the one used: "first", "aligned", one of ENCODER_SCORES, or GIVEN.  scorers: what gives other pairs such
    scores, one per model; none for "clip".
    rate: the mismatch rate of these pairs; the calibration's own rate is of the pairs that it was fitted on.
    separation: AUROC of the pairs against decoys.
    recalibration: how labels refitted the probabilities, if they did (`with_labels`).
    """

    unjudged: str | None
    notes: list[str]
    clean_probability: np.ndarray
    similarity: np.ndarray
    aligned_similarity: np.ndarray
    noise_kind: np.ndarray
    wrong_phrase: np.ndarray
    unjudged_reason: np.ndarray
    decoy_clean_probability: np.ndarray
    mixed_clean_probability: np.ndarray
    score: str | None = None
    scorers: Sequence[Scorer | NeighbourIndex] = ()
    calibration: Calibration | None = None
    rate: Rate | None = None
    separation: float | None = None
    histogram: Histogram | None = None
    retrieval: HeldOutRetrieval | None = None
    recalibration: Recalibration | None = None

    @property
    def mismatch_rate(self) -> dict[str, float | None]:
        """`estimate`, `low`, `high` and `level` of the rate, as the reports have them."""
        return dict.fromkeys(("estimate", "low", "high", "level")) if self.rate is None else asdict(self.rate)

    def models(self, learned: Learned) -> list[Alignment]:
        """The models of the round whose scores were used; empty if the encoder's own were."""
        return {"first": learned.first, "aligned": learned.aligned}.get(self.score or "", [])


def judge(
    pairs: Pairs,
    rows: np.ndarray,
    learned: Learned,
    *,
    score: str = "auto",
    calibration: Kind = "decoy",
    scripts: np.ndarray | None = None,
    captions: Callable[[np.ndarray], Sequence[str]] | None = None,
    words: Words | None = None,
    scorers: PairScorers | None = None,
    comparable: bool,
    seed: int = 0,
    device: str = "cpu",
) -> Judgement:
    """Judge the pairs `rows` (n,) of N by models that never trained on them.

    pairs: the encoder's vectors, with identities that are equal for exact copies.  learned: from the same pairs.
    score, calibration: as in `Config`.  comparable: whether images and captions share the encoder's space.
    scripts: (N,) int64 of `script_codes`, the writing systems of the captions; None takes them all for one.
    captions: gives the captions of some of the N pairs, from which languages are told; None takes them all for one.
    words: reads captions by phrases, which tells those that are partly wrong; None reads them as wholes only. It reads
    them by vectors, and cannot be given with scorers.
    scorers: compare images with captions in place of the models that were learned, which then only find the kinds.
    Raises UserError for a score in the encoder's space if there is no such space, and for a score beside scorers.
    """
    if scorers is not None and score != "auto":
        raise UserError(f"the pairs are judged by the scorer that was given, not by the score {score}: leave score out")
    if score in ENCODER_SCORES and not comparable:
        raise UserError("the encoder has no similarity of its own to judge by: choose --score auto or aligned")
    assert words is None or scorers is None
    similarity = _similarity(pairs, rows, comparable)
    if len(rows) < FEWEST:
        return _unjudged(_too_few(len(rows)), similarity)
    kinds = learned.kinds(pairs, rows, learned.kind_column)
    if scorers is None:
        choice = choose(pairs, rows, learned, kinds, score, comparable, seed, device)
    else:
        choice = by_scorers(scorers, learned.near(pairs), rows, kinds, seed)
    why = cannot_judge(choice.unbiased)
    if why:
        found = _unjudged(why, similarity, _everywhere(len(pairs), rows, choice.aligned_similarity))
        agree = comparable and spaces_agree(pairs, rows, seed=seed)
        return replace(found, notes=[*found.notes, ALL_WRONG]) if agree else found
    if words is not None and calibration == "decoy":
        unbiased = with_phrases(choice.first, choice.unbiased, learned, kinds, pairs, words, seed)
        same = choice.scores is choice.unbiased
        choice = replace(choice, unbiased=unbiased, scores=unbiased if same else choice.scores)
    fitted = calibrate_scores(choice.unbiased, calibration, seed=seed)
    if choice.scores is not choice.unbiased:
        partly = isinstance(fitted, DecoyCalibration) and fitted.partial is not None
        if partly and score == "auto":
            choice = choice.by_first()
        else:
            if partly and words is not None:
                again = with_phrases(choice.cross_fit, choice.scores, learned, kinds, pairs, words, seed)
                choice = replace(choice, scores=again)
            fitted = calibrate_scores(choice.scores, calibration, like=fitted, seed=seed)
    language = ""
    if isinstance(fitted, DecoyCalibration) and (scripts is not None or captions is not None):
        z = fitted.scale(choice.scores.scored)
        unread, language = unread_captions(
            z,
            fitted,
            kinds.fine,
            scripts=None if scripts is None else scripts[rows],
            captions=None if captions is None else lambda members: captions(rows[members]),
        )
        if unread.any():
            reason = np.zeros(len(pairs), np.int8)
            reason[rows[unread]] = UNJUDGED.index(CANNOT_READ)
            read = int((~unread).sum())
            if read < FEWEST:
                share = fitted.share_among(z[unread])
                why = all_unread(share, language) if read < unread.sum() else too_few_read(read, FEWEST)
                return replace(_unjudged(why, similarity), unjudged_reason=reason)
            rest = judge(
                pairs,
                rows[~unread],
                learned,
                score=score,
                calibration=calibration,
                words=words,
                scorers=scorers,
                comparable=comparable,
                seed=seed,
                device=device,
            )
            reason = np.where(reason, reason, rest.unjudged_reason)
            notes = [*rest.notes, unread_note(unread)]
            return replace(rest, similarity=similarity, unjudged_reason=reason, notes=notes)
    found = _judged(choice, fitted, fitted.rate, pairs, learned, words, similarity, comparable, seed)
    return replace(found, notes=[*found.notes, *language_notes(language)])


def judge_as(
    earlier: Judgement,
    pairs: Pairs,
    rows: np.ndarray,
    learned: Learned,
    *,
    words: Words | None = None,
    comparable: bool,
    seed: int = 0,
    device: str = "cpu",
) -> Judgement:
    """Judge other pairs by the scorers and the calibration of an earlier judgement.

    Arguments as in `judge`.  learned: that of the earlier judgement, with these pairs' identities.
    """
    similarity = _similarity(pairs, rows, comparable)
    if len(rows) < FEWEST:
        return _unjudged(_too_few(len(rows)), similarity)
    if earlier.score is None or earlier.calibration is None:
        return _unjudged(f"the run that judges was not judged itself: {earlier.unjudged}", similarity)
    models = earlier.models(learned)
    kinds = learned.kinds(pairs, rows, None)
    if models:
        cross_fit = learned.cross_fit(models, pairs, rows)
        scores = cross_fit.scores(learned.near(pairs), kinds, seed=seed, scorers=of_kind(Scorer, earlier.scorers))
    else:
        cross_fit = CrossFit.single(ZeroShot(device=device), rows)
        scores = encoder_scores(earlier.score, cross_fit, learned.near(pairs), kinds, seed, earlier.scorers)
    why = all_alike(scores)
    if why:
        return _unjudged(why, similarity)
    choice = Choice(earlier.score, cross_fit, scores, cross_fit, scores, scores.similarity, [APPLIED])
    if words is not None and earlier.calibration.kind == "decoy":
        read = with_phrases(cross_fit, scores, learned, kinds, pairs, words, seed)
        choice = replace(choice, scores=read, unbiased=read)
    # The rate is this data's own; the scale that turns scores into probabilities is the earlier one.
    rate = calibrate_scores(choice.scores, earlier.calibration.kind, seed=seed).rate
    # A verdict must not depend on which other pairs are judged with it.
    choice = replace(choice, scores=choice.scores.without_standing())
    found = _judged(choice, earlier.calibration, rate, pairs, learned, words, similarity, comparable, seed)
    refit = earlier.recalibration
    if refit is None:
        return found
    return replace(
        found,
        notes=[*found.notes, APPLIED_REFIT],
        clean_probability=refit(found.clean_probability).astype(np.float32).astype(np.float64),
        decoy_clean_probability=refit(found.decoy_clean_probability),
        mixed_clean_probability=refit(found.mixed_clean_probability),
        recalibration=refit,
    )


def _judged(
    choice: Choice,
    calibration: Calibration,
    rate: Rate,
    pairs: Pairs,
    learned: Learned,
    words: Words | None,
    similarity: np.ndarray,
    comparable: bool,
    seed: int,
) -> Judgement:
    scores, rows, n = choice.scores, choice.cross_fit.rows, len(pairs)
    reader = None
    told = isinstance(calibration, DecoyCalibration) and calibration.reads_phrases
    if words is not None and scores.phrased is not None and told:
        reader = PhraseReader(choice.cross_fit, of_kind(Scorer, scores.scorers), learned.near(pairs), words, None)
    span = np.full((len(rows), 2), NO_SPAN, np.int32)
    if reader and isinstance(calibration, DecoyCalibration) and calibration.partial is not None:
        assert scores.phrased is not None
        weakest, span = reader.weakest(np.arange(len(rows)))
        scores = replace(scores, phrased=replace(scores.phrased, weakest=weakest))
    # As in the verdicts, so that a comparison with a threshold gives the same result here and there.
    clean = calibration.clean_probability(scores.scored).astype(np.float32)
    vectors = choice.score != GIVEN  # a scorer has none to mix, and none whose ranks can be counted
    mixed = Scored.plain(
        mixed_scores(choice.cross_fit, learned.near(pairs), scores, clean.astype(np.float64), seed=seed)
        if vectors
        else np.zeros(0)
    )
    of_rows = _noise_kinds(scores, calibration, kind_cut(mixed.score, scores.decoys))
    partly = (clean < NAMED_BELOW) & (of_rows == NOISE_KINDS.index("partial"))
    if reader:
        unread = np.flatnonzero(partly & (span[:, 0] < 0))
        span[unread] = reader.weakest(unread)[1]
    kind, phrase = np.zeros(n, np.int8), np.full((n, 2), NO_SPAN, np.int32)
    kind[rows] = of_rows
    phrase[rows[partly]] = span[partly]
    reason = np.zeros(n, np.int8)
    if isinstance(calibration, DecoyCalibration):
        undecided = calibration.undecided(scores.scored)
        clean[undecided] = np.nan
        reason[rows[undecided]] = UNJUDGED.index(CANNOT_TELL)
    everywhere = np.full(n, np.nan)
    everywhere[rows] = clean
    return Judgement(
        unjudged=None,
        notes=[*choice.notes, *rate_notes(rate), *near_misses(calibration)],
        clean_probability=everywhere,
        similarity=similarity,
        aligned_similarity=_everywhere(n, rows, choice.aligned_similarity),
        noise_kind=kind,
        wrong_phrase=phrase,
        unjudged_reason=reason,
        decoy_clean_probability=calibration.clean_probability(
            scores.scored_decoys.take(slice(None, None, max(1, len(scores.decoys) // DECOYS_KEPT)))
        ),
        mixed_clean_probability=calibration.clean_probability(mixed),
        score=choice.score,
        scorers=scores.scorers,
        calibration=calibration,
        rate=rate,
        separation=scores.separation,
        histogram=Histogram.of(scores, rate.estimate),
        retrieval=held_out_retrieval(choice.cross_fit, pairs, everywhere, comparable, seed) if vectors else None,
    )


def _noise_kinds(scores: Scores, calibration: Calibration, cut: float | None) -> np.ndarray:
    """(n,) int8, an index into NOISE_KINDS: what each pair is if it is mismatched.

    cut: the score above which a mismatch is likelier partial; None if that cannot be told.
    """
    kind = np.zeros(len(scores.score), np.int8)
    if cut is not None:
        kind[:] = np.where(scores.score < cut, NOISE_KINDS.index("complete"), NOISE_KINDS.index("partial"))
    if isinstance(calibration, DecoyCalibration):
        if calibration.partial is not None:
            partly = calibration.partly(scores.scored)
            kind[:] = np.where(partly, NOISE_KINDS.index("partial"), NOISE_KINDS.index("complete"))
        kind[calibration.resembles(scores.scored)] = NOISE_KINDS.index("within_kind")
        kind[calibration.identities.generic(scores.scored)] = NOISE_KINDS.index("generic")
        kind[calibration.identities.placeholder(scores.scored)] = NOISE_KINDS.index("placeholder")
    return kind


def near_misses(calibration: Calibration | None) -> list[str]:
    """What a reader should know of the captions of similar pictures, if the encoder does not tell them."""
    if isinstance(calibration, DecoyCalibration) and calibration.blind_to_near_misses:
        return [NEAR_MISSES.format(calibration.ranked)]
    return []


def rate_notes(rate: Rate) -> list[str]:
    """What a reader should know of the rate: why it is a range, if it is one, and what to do if nearly all is wrong."""
    notes = [] if rate.why_wide is None else [f"The mismatch rate is a range: {rate.why_wide}."]
    return [*notes, NEARLY_ALL] if rate.estimate >= NEARLY else notes


def _unjudged(why: str, similarity: np.ndarray, aligned_similarity: np.ndarray | None = None) -> Judgement:
    nan = np.full(len(similarity), np.nan)
    return Judgement(
        unjudged=why,
        notes=[f"Nothing was judged: {why}."],
        clean_probability=nan,
        similarity=similarity,
        aligned_similarity=nan.astype(np.float32) if aligned_similarity is None else aligned_similarity,
        noise_kind=np.zeros(len(similarity), np.int8),
        wrong_phrase=np.full((len(similarity), 2), NO_SPAN, np.int32),
        unjudged_reason=np.zeros(len(similarity), np.int8),
        decoy_clean_probability=np.zeros(0),
        mixed_clean_probability=np.zeros(0),
    )


def _too_few(count: int) -> str:
    return f"only {count} readable {'pair' if count == 1 else 'pairs'}: at least {FEWEST} are needed to judge"


def _everywhere(n: int, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) float32, the values at `rows` and NaN elsewhere."""
    out = np.full(n, np.nan, np.float32)
    out[rows] = values
    return out


def _similarity(pairs: Pairs, rows: np.ndarray, comparable: bool) -> np.ndarray:
    """(N,) float32 cosines of the encoder's own vectors, NaN except at `rows`, or everywhere if not comparable."""
    out = np.full(len(pairs), np.nan, np.float32)
    parts = list(chunks(len(rows) if comparable else 0, PART))

    def of_part(k: int, _: str) -> None:
        some = rows[parts[k]]
        x, y = single_unit(pairs.image[some]), single_unit(pairs.text[some])
        x *= y
        out[some] = x.sum(1)

    side_by_side(of_part, len(parts), ["cpu"])
    return out
