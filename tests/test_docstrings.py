"""The examples in the package's docstrings run, and show what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pairclean"
WITH_EXAMPLES = sorted(
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if ">>> " in file.read_text(encoding="utf-8")
)


def test_the_metrics_the_synthetic_data_and_the_calls_from_python_have_examples() -> None:
    rooms = {name.split(".")[1] for name in WITH_EXAMPLES}
    assert {"metrics", "synthetic", "pipeline"} <= rooms


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted
    assert not done.failed, capsys.readouterr().out
