"""Clean a data set from Python and look at the findings. Run the cells one by one, or the file as a script."""

# %% A small data set to try it on: drawn scenes, 30% of whose captions are moved. Name your own folder instead.

from pathlib import Path

import pandas as pd

import pairclean
from pairclean.synthetic.scenes import draw_scenes, write_shards

home = Path("example")
shards = home / "shards"
if not shards.exists():
    write_shards(draw_scenes(2000, seed=0), home / "drawn")
    pairclean.plant(home / "drawn", shards, rate=0.3)

# %% One call. Called again, it resumes the run.

run = pairclean.clean(shards, home / "run", model="hog-tfidf")
rate = run.report["mismatch_rate"]
print(f"mismatched: {rate['estimate']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})")
print("verdicts:", run.report["verdicts"])
print("report:", run.path / "report.html")

# %% Every input pair has one row, in input order.

frame = run.verdicts().to_pandas()
print(frame["verdict"].value_counts())
print(frame.loc[frame["verdict"].isin(["noisy", "unreadable"])].groupby(["verdict", "reason"]).size())

# %% The pairs with the lowest clean probability, with their captions (`run.embeddings` has clip-retrieval's layout).

captions = pd.read_parquet(run.embeddings / "metadata", columns=["pair_id", "caption"])
worst = frame.nsmallest(10, "clean_probability").merge(captions, on="pair_id")
print(worst[["pair_id", "clean_probability", "caption"]].to_string(index=False))

# %% The captions that were replaced.

rematched = frame[frame["verdict"] == "rematched"].merge(captions, on="pair_id")
print(rematched[["pair_id", "caption", "rematch_caption", "rematch_probability"]].head(10).to_string(index=False))

# %% The expected share of mismatched pairs by caption length. `pairclean.audit` does this for columns of the source.

judged = frame.dropna(subset="clean_probability").merge(captions, on="pair_id")
words = judged["caption"].str.split().str.len().clip(upper=12).rename("words")
print(judged.groupby(words)["clean_probability"].agg(pairs="size", mismatched=lambda p: 1 - p.mean()))

# %% How many pairs other thresholds would flag; `pairclean rematch RUN --flag-below 0.2` applies one.

for threshold in (0.1, 0.2, 0.5, 0.8):
    print(f"below {threshold}: {(judged['clean_probability'] < threshold).sum()} pairs")

# %% The cleaned data: the clean and the rematched pairs, in the layout of the source.

cleaned = pd.concat(pd.read_parquet(file) for file in sorted((run.path / "cleaned").glob("*.parquet")))
print(cleaned[["key", "caption", "pairclean_verdict", "pairclean_clean_probability"]].head())
