"""`audit` over a run: what it joins, what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner, Result

from pairclean.judge import Faults
from pairclean.pairs import UserError
from pairclean.review.audit import audit, uneven_columns
from pairclean.review.columns import Columns
from pairclean.run import Run
from pairclean.run.results import open_judgement, open_learned, open_rematches, save_learned
from pairclean.stages.report import _calibration_check, _largest

NAN = float("nan")
#: 100 pairs of kind x that are clean, 100 of kind y that are not; then five of neither.
CLEAN = [[0.99] * 100 + [NAN, None], [0.01] * 100 + [0.99, 0.99, 0.01]]
KIND: list[dict[str, list[Any]]] = [
    {"kind": ["x"] * 100 + ["y", "y"], "url": ["https://www.x.example/1.jpg"] * 102},
    {"kind": ["y"] * 100 + [None] * 3, "url": ["http://y.example/1.jpg"] * 102 + [None]},
]


@pytest.fixture
def run(made_run: Callable[..., Run]) -> Run:
    return made_run(KIND, CLEAN)


def invoke(*arguments: object, columns: int = 100) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)], env={"COLUMNS": str(columns)})


def test_the_whole_is_what_the_run_says(run: Run) -> None:
    found = audit(run)
    assert found.groups is None
    assert {name: found.whole[name] for name in ("pairs", "judged", "unjudged", "unreadable")} == {
        "pairs": 205,
        "judged": 203,
        "unjudged": 1,
        "unreadable": 1,
    }
    assert found.whole["estimate"] == pytest.approx(1 - (102 * 0.99 + 101 * 0.01) / 203)


def test_copies_that_the_judge_found_count_as_one_pair(run: Run) -> None:
    before = audit(run, ["shard"]).groups
    learned = open_learned(run)
    image_id, caption_id = np.array(learned.image_id), np.array(learned.caption_id)
    image_id[:60], caption_id[:60] = image_id[0], caption_id[0]
    caption_id[110:170] = caption_id[110]  # one caption of different images: these are no copies
    save_learned(run, replace(learned, image_id=image_id, caption_id=caption_id))
    after = audit(run, ["shard"]).groups
    assert before is not None
    assert after is not None
    widths = [dict(zip(table["shard"], table["high"] - table["low"], strict=True)) for table in (before, after)]
    assert widths[1]["00000"] > 1.2 * widths[0]["00000"]
    assert widths[1]["00001"] == pytest.approx(widths[0]["00001"], rel=0.05)
    assert dict(zip(after["shard"], after["small"], strict=True)) == {"00000": True, "00001": False}
    assert sorted(after["judged"]) == sorted(before["judged"])


def test_by_a_column_of_the_source(run: Run) -> None:
    groups = audit(run, ["kind"]).groups
    assert groups is not None
    assert groups["kind"].tolist() == ["y", None, "x"]
    table = groups.set_index(groups["kind"].fillna("-"))
    assert table.loc["y", ["pairs", "judged", "unjudged", "unreadable"]].tolist() == [102, 100, 1, 1]
    assert table["judged"].to_dict() == {"y": 100, "-": 3, "x": 100}
    assert table["rate"]["y"] > 0.95
    assert table["rate"]["x"] < 0.05
    assert table["small"].to_dict() == {"y": False, "-": True, "x": False}


def test_by_domain_and_by_shard(run: Run) -> None:
    domains = audit(run, ["domain"]).to_json()["groups"]
    assert {row["domain"]: row["pairs"] for row in domains} == {"x.example": 102, "y.example": 102, None: 1}
    shards = audit(run, ["shard"]).to_json()["groups"]
    assert {row["shard"]: row["judged"] for row in shards} == {"00000": 100, "00001": 103}


def test_two_columns_are_crossed(run: Run) -> None:
    rows = audit(run, ["shard", "kind"]).to_json()["groups"]
    pairs = {(row["shard"], row["kind"]): row["pairs"] for row in rows}
    assert pairs == {("00000", "x"): 100, ("00000", "y"): 2, ("00001", "y"): 100, ("00001", None): 3}
    with pytest.raises(UserError, match="two different ones"):
        audit(run, ["kind", "kind"])
    with pytest.raises(UserError, match="two different ones"):
        audit(run, ["kind", "shard", "domain"])


def test_columns_that_are_no_groups_are_refused_in_a_sentence(made_run: Callable[..., Run]) -> None:
    run = made_run([{"tags": [["a"], ["b"]]}], [[0.9, 0.1]])
    with pytest.raises(UserError, match=r"no column 'brand'; there are key, caption, jpg, tags"):
        audit(run, ["brand"])
    with pytest.raises(UserError, match="no column 'domain', and no 'url'"):
        audit(run, ["domain"])
    with pytest.raises(UserError, match="cannot be grouped by 'tags'"):
        audit(run, ["tags"])
    with pytest.raises(UserError, match="cannot be grouped by 'jpg'"):
        audit(run, ["jpg"])


def test_an_unfinished_run_and_a_changed_source_are_refused(run: Run) -> None:
    path = Path(run.manifest["source"]) / "00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"PAR1", b"PAR1", 1))  # the same bytes, written anew
    with pytest.raises(UserError, match="has changed since"):
        audit(run, ["kind"])
    assert audit(run, ["shard"]).groups is not None  # needs no source
    run.set_stale("judge")
    with pytest.raises(UserError, match="has no export that is up to date"):
        audit(run)


def test_a_column_is_read_as_it_is_typed(made_run: Callable[..., Run]) -> None:
    columns = {
        "year": pa.array([2020, 2021, None, 2020], pa.int16()),
        "kind": pa.array(["a", "b", "a", "a"]).dictionary_encode(),
    }
    run = made_run([columns], [[0.9, 0.9, 0.1, 0.9]])
    rows = audit(run, ["year"]).to_json()["groups"]
    assert {row["year"]: row["pairs"] for row in rows} == {2020: 2, 2021: 1, None: 1}
    assert {row["kind"]: row["pairs"] for row in audit(run, ["kind"]).to_json()["groups"]} == {"a": 3, "b": 1}


def test_against_another_run(made_run: Callable[..., Run], run: Run) -> None:
    other = made_run(KIND, [[0.01] * 100 + [NAN, None], [0.99] * 103], "b")
    found = audit(run, ["kind"], against=other)
    assert found.whole["difference"]["estimate"] == pytest.approx(
        found.whole["estimate"] - found.whole["against"]["estimate"]
    )
    row = next(row for row in found.to_json()["groups"] if row["kind"] == "y")
    assert row["difference"] == pytest.approx(row["rate"] - row["rate_against"])
    assert row["difference_low"] > 0.8
    result = invoke(run.path, "--by", "kind", "--against", other.path)
    assert result.exit_code == 0
    assert "compared with 205 pairs at 49.3%" in result.stdout
    assert "difference" in result.stdout


def test_uneven_columns(made_run: Callable[..., Run]) -> None:
    shards = [
        {"kind": ["x", "y"] * 50, "half": ["a"] * 50 + ["b"] * 50, "number": list(range(100)), "one": ["1"] * 100}
    ]
    run = made_run(shards, [[0.99, 0.01] * 50])
    columns = uneven_columns(Columns(run), most_values=30, fewest_pairs=20)
    assert [column for column, _ in columns] == ["kind", "half"]
    assert dict(columns)["kind"]["kind"].tolist() == ["y", "x"]


def test_columns_may_have_any_name(made_run: Callable[..., Run], tmp_path: Path) -> None:
    names = ["pairs", "bin", "rate", "low", "judged", "mismatched", "small"]
    run = made_run([{name: ["x", "y"] * 50 for name in names}], [[0.99, 0.01] * 50])
    columns = uneven_columns(Columns(run), most_values=30, fewest_pairs=20)
    assert {column for column, _ in columns} == set(names)
    for column, groups in columns:
        shown = _largest(groups)
        assert [(group["name"], group["pairs"], group["judged"]) for group in shown] == [
            ("y", 50, 50),
            ("x", 50, 50),
        ], column
    rows = audit(run, ["rate", "pairs"]).to_json()["groups"]
    assert [(row["rate (source)"], row["pairs (source)"], row["pairs"]) for row in rows] == [
        ("y", "y", 50),
        ("x", "x", 50),
    ]
    shown = invoke(run.path, "--by", "rate", "-o", tmp_path / "g.parquet")
    assert shown.exit_code == 0
    assert "rate (source)" in shown.stdout
    assert pd.read_parquet(tmp_path / "g.parquet")["rate (source)"].tolist() == ["y", "x"]


def test_rates_rest_on_what_was_judged_not_on_what_rematching_made_of_it(run: Run) -> None:
    before = audit(run, ["kind"]).to_json()["groups"]
    path = run.path / "verdicts" / "00000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows[:100]:
        row["clean_probability"] = 0.01  # clean pairs, all of them overturned
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    assert audit(run, ["kind"]).to_json()["groups"] == before


def test_the_calibration_is_checked_as_it_was_judged(run: Run) -> None:
    judged, rematched = open_judgement(run), open_rematches(run)
    clean = judged.clean_probability
    none = Faults([], np.arange(len(clean)), np.full(len(clean), np.nan), repaired=False)
    overturned = replace(rematched, clean_probability=np.where(np.arange(len(clean)) < 7, 0.02, clean))
    found = _calibration_check(judged, overturned, none, np.arange(len(clean)))
    assert found is not None
    assert found["overturned"] == 7
    assert (found["pairs"][0], found["pairs"][9]) == (101, 102)


def test_runs_of_columns_of_two_types_can_be_compared(made_run: Callable[..., Run], tmp_path: Path) -> None:
    number = pa.array([1, 2, None, 1], pa.int16())
    of_numbers = made_run([{"kind": number}], [[0.9, 0.9, 0.1, 0.9]])
    of_text = made_run([{"kind": ["1", "2", None, "x"]}], [[0.9, 0.9, 0.1, 0.9]], "b")
    rows = audit(of_numbers, ["kind"], against=of_text).to_json()["groups"]
    assert {row["kind"]: (row["pairs"], row["pairs_against"]) for row in rows} == {
        "1": (2, 1), "2": (1, 1), None: (1, 1), "x": (0, 1),
    }  # fmt: skip
    result = invoke(of_numbers.path, "--by", "kind", "--against", of_text.path, "-o", tmp_path / "g.parquet")
    assert result.exit_code == 0
    assert (
        "1.0 "
        not in invoke(of_numbers.path, "--by", "kind", "--against", of_numbers.path).stdout.split("difference")[1]
    )


def test_the_table_in_the_terminal(run: Run) -> None:
    result = invoke(run.path, "--by", "kind")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert lines[0][:7] == ["205", "pairs,", "of", "which", "about", "49.8%", "are"]
    assert lines[1] == ["kind", "pairs", "unjudged", "unreadable", "mismatched", "rate", "interval"]
    assert lines[2][:5] == ["y", "102", "1", "1", "100"]
    assert lines[3][0] == "–"
    assert lines[3][-4].endswith("*")
    assert lines[4][:4] == ["x", "100", "0", "0"]
    assert "* fewer than 50 judged pairs" in result.stdout


def test_thirty_groups_are_shown_and_all_are_written(made_run: Callable[..., Run], tmp_path: Path) -> None:
    run = made_run([{"kind": [f"kind {i // 2}" for i in range(72)]}], [[0.99, 0.01] * 36])
    short = invoke(run.path, "--by", "kind")
    assert "and 6 more; --output FILE writes all of them" in short.stdout
    assert short.stdout.count("kind ") == 31  # the title, too
    for ending in ("csv", "parquet", "json"):
        file = tmp_path / f"groups.{ending}"
        result = invoke(run.path, "--by", "kind", "-o", file, columns=300)
        assert f"and 6 more: all are in {file}" in result.stdout
        if ending == "json":
            table = pd.DataFrame(json.loads(file.read_text())["groups"])
        else:
            table = pd.read_csv(file) if ending == "csv" else pd.read_parquet(file)
        assert len(table) == 36
        assert table["pairs"].tolist() == [2] * 36
        assert list(table.columns) == [
            *("kind", "pairs", "judged", "unjudged", "unreadable"),
            *("mismatched", "rate", "low", "high", "small"),
        ]


def test_json_is_everything(run: Run) -> None:
    found = json.loads(invoke(run.path, "--by", "kind", "--json").stdout)
    assert found["by"] == ["kind"]
    assert [row["kind"] for row in found["groups"]] == ["y", None, "x"]
    assert found["whole"]["pairs"] == 205


def test_a_pipeline_can_stop_on_bad_data(run: Run, made_run: Callable[..., Run]) -> None:
    assert invoke(run.path, "--fail-above", 0.5).exit_code == 0
    bad = invoke(run.path, "--fail-above", 0.49, "--json")
    assert bad.exit_code == 3
    assert json.loads(bad.stdout)["whole"]["pairs"] == 205  # the result is there all the same
    assert bad.stderr == "too many mismatches: the estimated mismatch rate is 0.4976, and --fail-above is 0.49\n"
    nothing = invoke(made_run([{}], [[None, None]], "b").path, "--fail-above", 0.5)
    assert nothing.exit_code == 3
    assert (
        nothing.stderr == "no rate: the mismatch rate could not be estimated, so that --fail-above cannot be checked\n"
    )


def test_what_is_wrong_is_said(run: Run, tmp_path: Path) -> None:
    for arguments, sentence in (
        (("--by", "kind", "-o", tmp_path / "x.xlsx"), "has no known format"),
        (("-o", tmp_path / "x.csv"), "name a column to group by"),
        (("--by", "brand"), "no column 'brand'"),
    ):
        result = invoke(run.path, *arguments, columns=300)
        assert result.exit_code == 2
        assert sentence in result.stderr


def test_groups_are_written_in_the_types_of_the_source(made_run: Callable[..., Run], tmp_path: Path) -> None:
    hashes = pa.array([2**64 - 1 - i % 3 if i % 5 else None for i in range(100)], pa.uint64())
    sites = pa.array([2**53 + i % 2 if i % 4 else None for i in range(100)], pa.int64())
    run = made_run([{"phash": hashes, "site": sites, "estimate": hashes}], [[0.9] * 100])
    for column, values in (("phash", hashes), ("site", sites), ("estimate", hashes)):
        assert invoke(run.path, "--by", column, "-o", tmp_path / "x.parquet").exit_code == 0
        written = pq.read_table(tmp_path / "x.parquet")
        shown = (
            column if column != "estimate" or "estimate (source)" not in written.column_names else "estimate (source)"
        )
        assert written.schema.field(shown).type == values.type
        assert set(written[shown].to_pylist()) == set(values.to_pylist())
        assert sum(written["pairs"].to_pylist()) == 100


def test_the_domain_is_found_whatever_the_case_of_its_column(made_run: Callable[..., Run]) -> None:
    run = made_run([{"URL": [f"https://{'a' if i % 2 else 'b'}.example/{i}.jpg" for i in range(20)]}], [[0.9] * 20])
    groups = audit(run, ["domain"]).groups
    assert groups is not None
    assert dict(zip(groups["domain"], groups["pairs"], strict=True)) == {"a.example": 10, "b.example": 10}
