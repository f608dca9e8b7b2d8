"""Sheets, exports and labels from elsewhere, from Python and by `pairclean review`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner

from pairclean.pairs import UserError
from pairclean.review.audit import audit
from pairclean.review.exchange import Imported, export_labels, import_labels, write_sheet
from pairclean.review.labels import BELONGS, DOES_NOT, PARTLY
from pairclean.review.reviewed import estimate, open_labels
from pairclean.review.sample import design
from pairclean.run import Run

CLEAN = [[*np.linspace(0.01, 0.2, 30), *np.linspace(0.8, 0.99, 70)]]


@pytest.fixture
def run(made_run: Callable[..., Run]) -> Run:
    return made_run([{}], CLEAN)


def filled(sheet: Path, answer: Callable[[int], str]) -> Path:
    """A sheet in which somebody wrote answers."""
    with sheet.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "answer": answer(int(row["row"]))} for row in rows)
    return sheet


def test_a_sheet_that_was_filled_in_gives_the_estimate(run: Run, tmp_path: Path) -> None:
    sample, labels = design(run, 50), open_labels(run)
    assert write_sheet(run, sample, labels, tmp_path / "sheet.csv") == 50
    filled(tmp_path / "sheet.csv", lambda row: "does not" if row < 30 else "Yes" if row % 2 else "")
    taken = import_labels(run, sample, labels, tmp_path / "sheet.csv", "ann")
    assert taken.drawn + taken.empty == 50
    assert taken.not_drawn == 0
    found = estimate(run)
    assert found.labels[DOES_NOT] == sum(1 for row in sample.drawn if row < 30)
    assert found.reviewers == {"ann": taken.drawn}
    assert write_sheet(run, sample, labels, tmp_path / "again.csv") == taken.empty


def test_more_labels_can_be_planned_than_at_first(run: Run, tmp_path: Path) -> None:
    sample, labels = design(run, 30), open_labels(run)
    write_sheet(run, sample, labels, tmp_path / "sheet.csv")
    import_labels(run, sample, labels, filled(tmp_path / "sheet.csv", lambda _: "1"), "ann")
    assert write_sheet(run, design(run), labels, tmp_path / "nothing.csv") == 0
    more = design(run, 50)
    assert write_sheet(run, more, labels, tmp_path / "more.csv") == 20
    assert design(run).labels == 50
    assert (more.strata, more.drawn[:30]) == (sample.strata, sample.drawn)


def test_the_html_sheet_holds_the_pictures_and_names_no_host(run: Run, tmp_path: Path) -> None:
    write_sheet(run, design(run, 20), open_labels(run), tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/jpeg;base64,") == page.count("<select") == 20
    assert "http" not in page


def test_labels_of_pairs_that_were_not_drawn_are_kept_and_do_not_count(run: Run, tmp_path: Path) -> None:
    sample, labels = design(run, 20), open_labels(run)
    sample.draw(labels)
    other = next(row for row in range(100) if row not in sample.drawn)
    file = tmp_path / "made.csv"
    file.write_text(f"pair_id,answer\n{other:09d},no\n{sample.drawn[0]:09d},1\n")
    assert import_labels(run, sample, labels, file, "ann") == Imported(1, 1, 1, 0)
    assert estimate(run).labels == {BELONGS: 1, PARTLY: 0, DOES_NOT: 0, "cannot_tell": 0}


def studio(pair_id: str) -> Any:
    result = [{"type": "choices", "value": {"choices": ["Partly"]}}]
    return [
        {"id": 1, "data": {"pair_id": pair_id}, "annotations": [{"completed_by": {"email": "eve"}, "result": result}]}
    ]


def argilla(pair_id: str) -> Any:
    return [{"metadata": {"pair_id": pair_id}, "responses": {"answer": [{"value": "partly", "user_id": "eve"}]}}]


@pytest.mark.parametrize("export", [studio, argilla])
def test_exports_of_other_tools_are_read(run: Run, tmp_path: Path, export: Callable[[str], Any]) -> None:
    sample, labels = design(run, 20), open_labels(run)
    row = sample.draw(labels)[0]
    (tmp_path / "export.json").write_text(json.dumps(export(f"{row:09d}")))
    import_labels(run, sample, labels, tmp_path / "export.json", "ann")
    assert labels.by("eve", sample.unit(row)) == [PARTLY]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "pair_id,answer\n000000001,perhaps\n", "answers are belongs"),
        ("a.csv", "pair_id,answer\nnothing,yes\n", "does not hold, such as 'nothing'"),
        ("a.csv", "key,label\n1,yes\n", "no columns `pair_id` and `answer`"),
        ("a.json", "{", "cannot read"),
        (
            "a.json",
            '[{"data": {}, "annotations": [{"result": [{"value": {"choices": ["yes"]}}]}]}]',
            "without a pair_id",
        ),
        ("a.xlsx", "", "no known format"),
    ],
)
def test_what_cannot_be_taken_is_said_and_nothing_is_taken(
    run: Run, tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    labels = open_labels(run)
    with pytest.raises(UserError, match=said):
        import_labels(run, design(run, 20), labels, tmp_path / name, "ann")
    assert labels.reviewers == {}


def test_the_command_writes_takes_exports_and_tells(run: Run, tmp_path: Path) -> None:
    cli, sheet = CliRunner(), tmp_path / "sheet.csv"
    assert cli.invoke(app, ["review", str(run.path), "--labels", "40", "--sheet", str(sheet)]).exit_code == 0
    filled(sheet, lambda row: DOES_NOT if row < 30 else BELONGS)
    command = ["review", str(run.path), "--import", str(sheet), "--reviewer", "ann", "--json"]
    done = cli.invoke(app, command)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["reviewers"] == {"ann": 40}
    assert found["mismatched"]["low"] <= 0.3 <= found["mismatched"]["high"]
    for name in ("labels.csv", "labels.parquet"):
        assert cli.invoke(app, ["review", str(run.path), "--export", str(tmp_path / name)]).exit_code == 0
    with (tmp_path / "labels.csv").open(newline="") as file:
        given = list(csv.DictReader(file))
    assert len(given) == len(pq.read_table(tmp_path / "labels.parquet")) == 40
    assert {row["reviewer"] for row in given} == {"ann"}
    assert audit(run).whole["human"]["labels"] == 40
    said = cli.invoke(app, ["audit", str(run.path)]).stdout
    assert "by the 40 labels of its review" in " ".join(said.split())


def test_labels_travel_in_exports(run: Run, made_run: Callable[..., Run], tmp_path: Path) -> None:
    sample, labels = design(run, 20), open_labels(run)
    write_sheet(run, sample, labels, tmp_path / "sheet.csv")
    import_labels(run, sample, labels, filled(tmp_path / "sheet.csv", lambda _: "1"), "ann")
    assert export_labels(labels, tmp_path / "out.csv") == 20
    other = made_run([{}], CLEAN, "b")
    taken = import_labels(other, (twin := design(other, 20)), open_labels(other), tmp_path / "out.csv", "bob")
    assert taken.drawn + taken.not_drawn == 20
    assert len(twin.drawn) == 0
    assert open_labels(other).reviewers == {"ann": 20}
