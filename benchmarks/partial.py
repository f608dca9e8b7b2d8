"""Are captions that are partly wrong found, and the words that do not fit?  python -m benchmarks.partial [SET ...]

Some pairs carry another's caption, some their own with half of its clauses (or words) from another. A row per set,
mixture and seed: the mismatch rate with its interval and the part of captions that are partly wrong; AUROC of
mismatched against matched pairs and the calibration error, each with captions read as wholes only behind it; the shares
that are flagged; and of all planted partial mismatches, how many have the right words in `mismatched_text`: at least
half of it was planted, and it is at most 60% of the caption. Then how many matched pairs have such words, rightly or
not.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.common import MODELS, Data, detection, load, moved, planted_run
from pairclean.embed import load_encoder
from pairclean.execution import Execution
from pairclean.judge import Judgement
from pairclean.pairs import caption_id
from pairclean.pipeline import advance
from pairclean.run.results import open_judgement
from pairclean.synthetic.mismatches import mix

MIXTURES = ((0.0, 0.0), (0.4, 0.0), (0.2, 0.2), (0.0, 0.4))


def planted(data: Data, complete: float, partial: float, seed: int) -> tuple[Data, np.ndarray, list[str | None]]:
    """The pairs, the kind of each mismatch (N,), and the words of each partial one that are another's."""
    carried = moved(data, complete + partial, seed)
    rng, caption = np.random.default_rng(seed), data.caption.copy()
    kind, words = np.full(len(carried), "", object), [None] * len(carried)
    at = rng.permutation(np.flatnonzero(carried != np.arange(len(carried))))
    for number, i in enumerate(at):
        if number < round(len(at) * complete / (complete + partial)):
            caption[i] = data.caption[carried[i]]
            kind[i] = "complete" if caption[i] != data.caption[i] else ""
        elif made := mix(data.caption[i], data.caption[carried[i]], rng):
            (caption[i], words[i]), kind[i] = made, "partial"
    changed = np.flatnonzero(caption != data.caption)
    encoder, text, ids = load_encoder(MODELS[data.name], device="cpu"), data.text.copy(), data.caption_id.copy()
    for part in np.array_split(changed, len(changed) // 256 + 1):
        if len(part):
            text[part] = encoder.encode_captions(caption[part].tolist())
    ids[changed] = [caption_id(c) for c in caption[changed]]
    return replace(data, text=text, caption_id=ids, caption=caption), kind, words


def right_words(found: Judgement, data: Data, words: list[str | None]) -> float:
    """The share of partial mismatches of which the right words are named."""
    hits = []
    for caption, planted, (start, stop) in zip(data.caption, words, found.wrong_phrase.tolist(), strict=True):
        if planted is not None:
            place = caption.index(planted)
            common = min(stop, place + len(planted)) - max(start, place)
            hits.append(start >= 0 and common >= 0.5 * (stop - start) and stop - start <= 0.6 * len(caption))
    return float(np.mean(hits))


def judged(data: Data, *, read: bool) -> Judgement:
    with tempfile.TemporaryDirectory() as home:
        run = planted_run(Path(home) / "run", data, phrases=read)
        advance(run, ("align", "judge"), Execution(device="cpu"))
        return open_judgement(run)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("sets", nargs="*", default=["fashion_unseen", "fashion"])
    options.add_argument("--seeds", type=int, default=3)
    asked = options.parse_args()
    titles = ("data", "complete", "partial", "seed", "rate", "partly", "AUROC", "before", "ECE", "before")
    titles += ("flagged partial", "flagged matched", "right words", "named matched")
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for name in asked.sets:
        whole = load(name)
        for complete, partial in MIXTURES:
            for seed in range(asked.seeds):
                data, kind, words = planted(whole, complete, partial, seed)
                noisy, partly = kind != "", kind == "partial"
                found, before = judged(data, read=True), judged(data, read=False)
                rate, flagged = found.rate, found.clean_probability < 0.5
                assert rate is not None
                cells = [name, complete, partial, seed, f"{rate.estimate:.3f} ({rate.low:.3f} to {rate.high:.3f})"]
                cells.append(f"{rate.parts['partly']['estimate']:.3f}" if "partly" in rate.parts else "")
                if noisy.any():
                    of = [detection(np.nan_to_num(each.clean_probability, nan=0.5), noisy) for each in (found, before)]
                    cells += [f"{each['auroc']:.4f}" for each in of] + [f"{each['ece']:.3f}" for each in of]
                else:
                    cells += [""] * 4
                cells += [f"{flagged[partly].mean():.3f}" if partly.any() else "", f"{flagged[~noisy].mean():.4f}"]
                cells.append(f"{right_words(found, data, words):.3f}" if partly.any() else "")
                cells.append(f"{(found.wrong_phrase[~noisy, 0] >= 0).mean():.3f}")
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
