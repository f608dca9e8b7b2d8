"""Label a sample of a run from Python: the mismatch rate with an interval. Run the cells one by one, or as a script."""

# %% A run to review: drawn scenes, 30% of whose captions are moved. Name your own folder instead.

from pathlib import Path

import pandas as pd

import pairclean
from pairclean.pipeline import redo
from pairclean.run import Execution
from pairclean.synthetic.scenes import draw_scenes, write_shards

home = Path("example_review")
shards = home / "shards"
if not shards.exists():
    write_shards(draw_scenes(2000, seed=0), home / "drawn")
    pairclean.plant(home / "drawn", shards, rate=0.3)
is_cleaned = (home / "run" / "report.json").exists()
run = pairclean.open_run(home / "run") if is_cleaned else pairclean.clean(shards, home / "run", model="hog-tfidf")
frame = run.verdicts().to_pandas()

# %% The design: strata of the clean probability, written to run/review before the first label.

sample = pairclean.review.design(run, labels=200)
print(pd.DataFrame(sample.strata).to_string(index=False))

# %% The reviewer. This one knows what was planted; replace `answer` by a question to a person who sees the picture.

truth = pd.read_parquet(f"{shards}.truth.parquet").set_index("key")["noise_kind"]


def answer(pair_id: str) -> str:
    """One of belongs, partly, does_not and cannot_tell."""
    return "belongs" if truth[pair_id] == "clean" else "does_not"


# %% Pairs are drawn in batches, and the labels so far decide from which strata. Every answer is on disk at once: this
# cell can be interrupted and run again. A drawn row is a row of the verdicts.

labels = pairclean.review.open_labels(run)
while sum(1 for _ in sample.labelled(labels)) < sample.labels:
    waiting = [row for row in sample.drawn if labels.answer(sample.unit(row)) is None]
    for row in waiting or sample.draw(labels):
        pair_id = frame["pair_id"][row]
        labels.add([pairclean.review.Label.now(pair_id, sample.unit(row), answer(pair_id), reviewer="example")])

# %% What the labels say, and what the scores say without them.

found = pairclean.review.estimate(run)
parts = {
    "mismatched": found.mismatched,
    "by the scores, corrected by the labels": found.prediction_powered,
    "of the flagged": found.flagged,
    "of the others (missed)": found.missed,
    "of the mismatched, flagged (recall)": found.found,
}
print(pd.DataFrame({name: vars(part) for name, part in parts.items() if part is not None}).T.round(3))
print("by the scores alone: {estimate:.1%} ({low:.1%} to {high:.1%})".format(**found.scores))
print("more labels needed for an interval of +-:", found.needed)
print(found.disagreement or "The labels and the scores agree.")

# %% What each threshold keeps and costs, by the labels. `pairclean rematch RUN --flag-below 0.2` applies one.

print(pd.json_normalize(found.thresholds).round(2).to_string(index=False))

# %% The clean probabilities refitted with the labels; flags, rematches, cleaned data and the report follow.

redo(run, "judge", Execution(), use_labels=True)
refitted = run.verdicts().to_pandas()["clean_probability"]
print(f"mean clean probability: {frame['clean_probability'].mean():.3f} before, {refitted.mean():.3f} after")
