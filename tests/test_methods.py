"""The registry of methods, and the rule of `auto`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from pairclean_cli.main import app
from typer.testing import CliRunner

from pairclean import methods
from pairclean.config import Config
from pairclean.methods import AUTO, FEW, METHODS, choose, measured


def test_every_method_is_described_and_offered() -> None:
    choices = set(get_args(Config.model_fields["method"].annotation))
    assert set(METHODS) == choices - {"auto"}


@pytest.mark.parametrize(
    ("comparable", "pairs", "chosen"),
    [(True, FEW - 1, "zero-shot"), (True, FEW, "l2rm"), (False, 200, "l2rm"), (False, FEW, "l2rm")],
)
def test_auto_goes_by_its_rule(comparable: bool, pairs: int, chosen: str) -> None:
    def chosen_for(method: str) -> str:
        return choose(method, comparable=comparable, pairs=pairs)

    assert chosen_for("auto") == chosen
    assert chosen_for("rcar") == "rcar"
    assert f"{FEW:,}" in AUTO


def test_the_table_shows_medians_of_the_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "align").mkdir()
    monkeypatch.setattr(methods, "files", lambda package: tmp_path)
    assert measured() == []
    run = {"data": "cats", "noise": "random_0.4", "method": "l2rm", "seconds": 5.0}
    other = {**run, "noise": "random_0.8", "seed": 0, "auroc": 0.5}
    runs = [{**run, "seed": seed, "auroc": auroc} for seed, auroc in enumerate((0.7, 0.9125, 0.95))]
    (tmp_path / "align" / "measured.json").write_text(json.dumps([*runs, other]))
    assert measured() == [
        {**run, "seeds": 3, "auroc": 0.9125},
        {**run, "noise": "random_0.8", "seeds": 1, "auroc": 0.5},
    ]
    shown = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "160"})
    assert shown.exit_code == 0
    row = next(line.split() for line in shown.stdout.splitlines() if line.startswith("cats"))
    assert row == ["cats", "l2rm", "0.912", "0.500", "5"]
    assert "random 0.4" in shown.stdout


def test_the_command_lists_them_and_says_the_rule() -> None:
    found = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert [method["name"] for method in found["methods"]] == list(METHODS)
    assert found["auto"] == AUTO
    assert found["measured"] == measured()
