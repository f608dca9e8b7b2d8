"""An option that was renamed still works under its former name, with a warning, wherever options are given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from pairclean_cli.console import Commands, Console
from pairclean_cli.options import PRINTING, takes
from typer.testing import CliRunner, Result

from pairclean.config import Config, read_recipe
from pairclean.options import OPTIONS, RenamedOption
from pairclean.pairs import UserError

SENTENCE = "--threshold was renamed to --flag-below: use the new name, as the old one will be removed"
BOTH = "--threshold is the former name of --flag-below: give only --flag-below"


@pytest.fixture(autouse=True)
def _renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if --flag-below had been called --threshold before."""
    monkeypatch.setitem(OPTIONS, "flag_below", replace(OPTIONS["flag_below"], formerly=("threshold",)))


def invoke(*arguments: str) -> Result:
    app = typer.Typer(cls=Commands)

    @app.callback()
    def common() -> None:
        pass

    @app.command()
    @takes("flag_below", "pool", *PRINTING)
    def command(options: dict[str, Any], console: Console) -> None:
        console.print(options, lambda: "")

    return CliRunner().invoke(app, ["command", *arguments], env={"COLUMNS": "200"})


def test_on_the_command_line() -> None:
    old = invoke("--threshold", "0.3", "--json")
    assert (old.exit_code, json.loads(old.stdout)) == (0, {"flag_below": 0.3})
    assert old.stderr == f"warning: {SENTENCE}\n"
    new = invoke("--flag-below", "0.3", "--json")
    assert (new.stdout, new.stderr) == (old.stdout, "")
    shown = invoke("--help").stdout
    assert "--flag-below" in shown
    assert "--threshold" not in shown


def test_both_names_at_once_are_an_error() -> None:
    for arguments in (("--threshold", "0.3", "--flag-below", "0.4"), ("--flag-below", "0.4", "--threshold", "0.3")):
        result = invoke(*arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"error: {BOTH}\n")
    with pytest.raises(UserError, match=BOTH):
        Config.make(flag_below=0.4, threshold=0.3)


def test_from_python() -> None:
    with pytest.warns(RenamedOption) as caught:
        assert Config.make(threshold=0.3, pool="all") == Config(flag_below=0.3, pool="all")
    assert [str(warning.message) for warning in caught] == [SENTENCE]
    assert issubclass(RenamedOption, FutureWarning)  # which Python shows to users by default
    assert Config.make(threshold=None, flag_below=0.4).flag_below == 0.4  # None is not given


def test_in_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("threshold = 0.3\n")
    with pytest.warns(RenamedOption, match=SENTENCE):
        assert read_recipe(recipe) == {"flag_below": 0.3}
    recipe.write_text("threshold = 0.3\nflag-below = 0.4\n")
    with pytest.raises(UserError, match=BOTH):
        read_recipe(recipe)


def test_in_the_manifest_of_an_older_run(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"config": {"threshold": 0.3}}))
    with pytest.warns(RenamedOption, match=SENTENCE):
        assert read_recipe(manifest) == {"flag_below": 0.3}
