"""Three faults at once, through the stages: they are the first findings, with the pairs that show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pairclean_cli.summary import report_summary
from rich.console import Console

import pairclean
from pairclean.review.slices import repeated
from pairclean.run import Run
from pairclean.stages.findings import PICTURED

N, SHARDS, SLOGAN = 1_600, 8, "Click to enlarge"


def faulty_run(home: Path, seed: int) -> tuple[Run, dict[str, np.ndarray]]:
    """A bad domain (nine of ten captions are others'), a shifted shard, and a slogan; which pairs each concerns."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((N, 32))
    image, text = ((shared + 0.7 * rng.standard_normal((N, 32))).astype(np.float16) for _ in range(2))
    captions = np.array([f"caption {i}" for i in range(N)], object)
    domain = np.where(rng.random(N) < 0.2, "bad.example", rng.choice(["a.example", "b.example", "c.example"], N))
    carried = np.arange(N)
    moved = rng.permutation(np.flatnonzero(rng.random(N) < np.where(domain == "bad.example", 0.9, 0.02)))
    carried[moved] = np.roll(moved, 1)
    shard = np.arange(600, 800)
    carried[shard] = np.roll(carried[shard], 1)
    text, captions = text[carried], captions[carried]
    slogan = rng.choice(np.setdiff1d(np.arange(N), shard), 60, replace=False)
    text[slogan], captions[slogan] = rng.standard_normal(32), SLOGAN
    source = home / "source"
    for folder in ("img_emb", "text_emb", "metadata"):
        (source / folder).mkdir(parents=True)
    for k, part in enumerate(np.split(np.arange(N), SHARDS)):
        np.save(source / f"img_emb/img_emb_{k}.npy", image[part])
        np.save(source / f"text_emb/text_emb_{k}.npy", text[part])
        urls = [f"https://{domain[i]}/{i}.jpg" for i in part]
        table = pa.table({"key": [f"k{i}" for i in part], "caption": captions[part], "url": urls})
        pq.write_table(table, source / f"metadata/metadata_{k}.parquet")
    run = pairclean.clean(source, home / "run", method="zero-shot")
    rows = {"domain": np.flatnonzero(domain == "bad.example"), "shard": shard, "slogan": np.sort(slogan)}
    return run, {**rows, "moved": moved}


@pytest.mark.parametrize("seed", [0, 1])
def test_three_planted_faults_are_the_first_three_findings(tmp_path: Path, seed: int) -> None:
    run, planted = faulty_run(tmp_path, seed)
    first, second, third = run.report["findings"][:3]
    assert (first["kind"], first["where"]) == ("uneven", {"domain": "bad.example"})
    rest = np.setdiff1d(planted["domain"], np.concatenate([planted["shard"], planted["slogan"]]))
    assert abs(first["pairs"] - len(rest)) <= 5
    assert first["rate"] == pytest.approx(np.isin(rest, planted["moved"]).mean(), abs=0.02)
    assert (second["kind"], second["first_shard"], second["offset"]) == ("shifted", "3", 1)
    assert (third["kind"], third["caption"]) == ("generic_caption", SLOGAN)
    assert third["pairs"] == len(repeated(run)[0].rows) >= 55  # those that are flagged
    assert np.isin(repeated(run)[0].rows, planted["slogan"]).all()
    page = (run.path / "report.html").read_text(encoding="utf-8")
    console = Console(width=200)
    with console.capture() as printed:
        console.print(report_summary(run.report, run.path))
    for finding in (first, second, third):
        assert finding["share"] == finding["pairs"] / N
        assert finding["command"].split()[2] == str(run.path)
        assert finding["sentence"].split(" “")[0] in page
        assert finding["command"] in page
        assert finding["sentence"] in printed.get()
    assert page.index("bad.example") < page.index('id="groups"')
    assert page.count("Pairs that show this") == min(len(run.report["findings"]), PICTURED)
