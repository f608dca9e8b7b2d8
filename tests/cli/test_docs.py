"""The pages of docs/commands/ are those that the application gives today."""

from __future__ import annotations

import runpy
from dataclasses import fields
from pathlib import Path

from pairclean_cli.main import app

from pairclean.run.status import Parts, StageStatus

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_pages_of_the_commands_are_up_to_date() -> None:
    pages: dict[str, str] = runpy.run_path(str(DOCS / "generate.py"))["pages"]()
    there = {file.name: file.read_text(encoding="utf-8") for file in (DOCS / "commands").glob("*.md")}
    stale = sorted(name for name in {*pages, *there} if pages.get(name) != there.get(name))
    assert not stale, "run `python docs/generate.py`"


def test_a_page_shows_flags_choices_and_defaults() -> None:
    page = (DOCS / "commands" / "clean.md").read_text(encoding="utf-8")
    assert "| `--pool` | `noisy` `all` | " in page
    assert "| `--flag-below` | `P` | Flag pairs" in page
    assert "Default: `0.9`. |" in page
    assert "| `--quiet`, `-q` |  | " in page
    assert {file.stem for file in (DOCS / "commands").glob("*.md")} == {
        "index",
        *(command.callback.__name__ for command in app.registered_commands if command.callback),
    }


def test_every_field_of_the_status_is_explained() -> None:
    text = (DOCS / "scale.md").read_text(encoding="utf-8")
    table = text.split("## How far a run is")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    explained = {name.removeprefix("parts").removeprefix(".") for row in rows for name in row.split("`")[1::2]}
    assert explained == {field.name for of in (StageStatus, Parts) for field in fields(of)} - {"parts"} | {""}
