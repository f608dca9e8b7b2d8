"""What holds for the package as a whole: its shape, its weight, and that what the README shows is true."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

import pairclean
from pairclean.config import Config, read_recipe
from pairclean.options import EXECUTION
from pairclean.synthetic.scenes import draw_scenes, write_shards

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pairclean"
#: The rooms from the ground up: a file imports only from what stands to the left of its own room, and from its room.
ROOMS = (
    ("pairs", "files", "scratch", "methods", "options", "arrays", "execution"),
    ("config", "metrics", "synthetic"),
    ("sources", "embed", "align", "paper", "judge", "rematch", "export", "report"),
    ("run",),
    ("review",),
    ("stages",),
    ("pipeline", "vectors"),
    ("assess",),
    ("__init__",),
)
ORDER = [room for group in ROOMS for room in group]
CORRIDOR = ROOMS[2]


def imports(file: Path, package: Path = PACKAGE) -> set[str]:
    """What a file of the package imports of the package, as names below `pairclean` ("judge.scores")."""
    inside = ["pairclean", *file.relative_to(package).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("pairclean.") for name in found if name.startswith("pairclean.")}


def rooms_imported_by(room: str, package: Path = PACKAGE) -> set[str]:
    names = {name for file in (package / room).rglob("*.py") for name in imports(file, package)}
    return {name.split(".")[0] for name in names} - {room}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_file_is_in_a_room() -> None:
    assert {room_of(file) for file in PACKAGE.rglob("*.py")} == set(ORDER)


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_imports_only_to_its_left(file: Path) -> None:
    room = room_of(file)
    allowed = set(ORDER[: ORDER.index(room)]) | {room, "__version__"}
    assert {name.split(".")[0] for name in imports(file)} <= allowed


@pytest.mark.parametrize("room", ["align", "judge", "rematch"])
def test_what_learns_and_judges_knows_arrays_and_no_files(room: str) -> None:
    assert not rooms_imported_by(room) & {"sources", "embed"}


@pytest.mark.parametrize("room", sorted(set(ORDER) - {"paper", "assess"}))
def test_no_room_that_users_need_imports_the_publications_own_setting(room: str) -> None:
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else (PACKAGE / room).rglob("*.py")
    assert not {name for file in files for name in imports(file) if name.split(".")[0] == "paper"}


@pytest.mark.parametrize("room", ["metrics", "synthetic"])
def test_metrics_and_synthetic_data_stand_beside_the_corridor(room: str) -> None:
    assert rooms_imported_by(room) <= set(ROOMS[0])


def test_no_two_files_import_each_other_in_a_circle() -> None:
    from graphlib import TopologicalSorter

    names = {}
    for file in PACKAGE.rglob("*.py"):
        parts = list(file.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph = {}
    for name, file in names.items():
        found = imports(file) if name else set()  # the package itself imports lazily, at the top
        graph[name] = {known for one in found if (known := _module(one, names)) not in (None, name)}
        if file.name == "__init__.py":
            continue
        room = name.rpartition(".")[0]
        graph[name].discard(room)  # a room's own front door
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def _module(name: str, names: dict[str, Path]) -> str | None:
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name or None


def test_the_import_rule_sees_every_way_to_import(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    lines = [
        "from .. import run",
        "from ..sources.base import x",
        "import pairclean.embed.store",
        "from .scores import y",
    ]
    (tmp_path / "judge" / "room.py").write_text("\n".join([*lines, "def f():\n    from pairclean import pipeline"]))
    assert imports(tmp_path / "judge" / "room.py", tmp_path) == {
        *("run", "sources.base.x", "embed.store", "judge.scores.y", "pipeline"),
    }
    assert rooms_imported_by("judge", tmp_path) == {"run", "sources", "embed", "pipeline"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import json, sys, pairclean; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "pairclean" in loaded
    assert not loaded & {
        "torch",
        "pandas",
        "pyarrow",
        "faiss",
        "numpy",
        "open_clip",
        "matplotlib",
        "sklearn",
        "datasets",
        "pydantic",
    }


def test_every_public_name_can_be_had() -> None:
    for name in pairclean.__all__:
        assert getattr(pairclean, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pairclean.nothing


def test_there_is_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert pairclean.__version__ == project["version"] == importlib.metadata.version("pairclean")


def test_the_changelog_begins_with_what_is_unreleased_and_goes_back_from_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *released = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert first == "Unreleased"
    versions = [Version(name) for name in released]
    assert versions == sorted(set(versions), reverse=True)
    assert all(version <= Version(pairclean.__version__) for version in versions)


def test_every_test_that_the_guarantees_name_exists() -> None:
    named = re.findall(r"`(tests/[\w/.]+)?(?:::(\w+))?`", (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8"))
    file, found = "", 0
    for path, test in named:
        file = path or file  # "`::test`" is in the file that was named last
        assert (ROOT / file).exists(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"
        found += bool(test)
    assert found > 40


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_the_recipe_holds_the_defaults() -> None:
    options = read_recipe(ROOT / "examples" / "recipe.toml")
    assert Config.make(**options) == Config()
    assert set(options) == {name for name, value in Config().model_dump().items() if value is not None}


def test_the_recipe_shows_every_option() -> None:
    text = (ROOT / "examples" / "recipe.toml").read_text(encoding="utf-8")
    everything = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert set(everything) == {*Config.model_fields, *EXECUTION}
    for name in Config.model_fields:  # each by itself: some exclude each other
        method = {"method": "drcl"} if name.endswith("label_column") else {}
        Config.make(**{name: everything[name], **method})  # raises where an example is no valid value


# --- what the README and the examples show ----------------------------------------------------------------------------


def docstring_example() -> str:
    lines = (pairclean.__doc__ or "").splitlines()
    return textwrap.dedent("\n".join(line for line in lines if not line or line.startswith("    "))).strip()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """300 drawn pairs, three in ten of them with another's caption, in two shards."""
    write_shards(draw_scenes(300, seed=0), tmp_path / "drawn", shard_size=150)
    pairclean.plant(tmp_path / "drawn", tmp_path / "shards", rate=0.3)
    return tmp_path / "shards"


def test_the_readme_shows_the_example_of_the_package() -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert docstring_example() in [block.strip() for block in blocks]
    assert len([line for line in docstring_example().splitlines() if line]) <= 5


@pytest.mark.slow
def test_the_example_of_the_readme_runs(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shards.parent)
    found: dict[str, Any] = {}
    exec(docstring_example(), found)
    frame = found["frame"]
    assert frame["pair_id"].tolist() == [f"{shard:05d}{row:04d}" for shard in range(2) for row in range(150)]
    assert frame["verdict"].value_counts().to_dict() == {k: v for k, v in found["run"].report["verdicts"].items() if v}
    rate = found["run"].report["mismatch_rate"]
    assert rate["low"] <= rate["estimate"] <= rate["high"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"), [("clean_from_python.py", r"^mismatched: .*$"), ("review_from_python.py", r"^mismatched .*$")]
)
def test_the_example_scripts_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str, told: str
) -> None:
    script = (ROOT / "examples" / name).read_text(encoding="utf-8")
    assert "draw_scenes(2000, seed=0)" in script
    (tmp_path / "script.py").write_text(script.replace("draw_scenes(2000, seed=0)", "draw_scenes(300, seed=0)"))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second call resumes what is there
        runpy.run_path("script.py")
    first, second = re.findall(told, capsys.readouterr().out, re.MULTILINE)
    assert first == second


# --- the wheel --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_wheel_holds_what_is_not_python_too(tmp_path: Path) -> None:
    if importlib.util.find_spec("build") is None:
        pytest.skip("needs the `build` package")
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or newer, as pyproject.toml does")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), "."]
    copy = _copy_of_the_sources(tmp_path / "copy")  # setuptools leaves build/ and *.egg-info beside what it builds
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(file.relative_to(ROOT)) for file in PACKAGE.rglob("*.py")}
    modules |= {f"pairclean_cli/{file.name}" for file in (ROOT / "cli").glob("*.py")}
    data = {"py.typed", "report/report.html.jinja", "report/report.css", "report/report.js"}
    assert modules | {f"pairclean/{name}" for name in data} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"pairclean", "pairclean_cli"}


def _copy_of_the_sources(to: Path) -> Path:
    to.mkdir()
    for folder in ("pairclean", "cli"):
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, to / file)
    return to
