"""The command line: what it prints, where, and with which status."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, get_args

import pairclean_cli
import pytest
from pairclean_cli.main import app
from pairclean_cli.text import duration, percent, right_of_kept, safe, size
from typer.testing import CliRunner, Result

from pairclean import __version__
from pairclean.config import Config
from pairclean.options import ARRAY, EXECUTION, OPTIONS, SHARD_WISE, STAGES
from pairclean.synthetic.scenes import draw_scenes, write_shards

HOG = ("--model", "hog-tfidf", "--method", "canonical")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards(draw_scenes(300, 0), folder, shard_size=150)
    return folder


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert invoke("clean", shards, run, *HOG, "--quiet").output == ""
    return run


def invoke(*arguments: object, columns: int = 80) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    return result


def test_version() -> None:
    assert invoke("--version").stdout == f"pairclean {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pairclean_cli.main import app\n"
        "assert 'pydantic' not in sys.modules\n"  # Typer itself may load it to parse a command line
        "try: app(['clean', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pyarrow', 'pandas', 'numpy', 'open_clip', 'faiss', 'pairclean.config'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--min-precision" in done.stdout
    assert done.stderr == "[]\n"


def test_every_option_of_a_run_is_an_option_of_clean_and_of_its_stage() -> None:
    assert list(OPTIONS) == [*Config.model_fields, *EXECUTION, *ARRAY]
    assert {name for names in STAGES.values() for name in names} == set(Config.model_fields)
    of_clean = tuple(name for name in Config.model_fields if name != "use_labels")  # a new run has none
    for stage, names in {"clean": of_clean, **STAGES}.items():
        offered = set(re.findall(r"--[a-z-]+", invoke(stage, "--help", columns=200).stdout))
        expected = {"--" + name.replace("_", "-") for name in names} | {"--json", "--quiet"}
        if stage == "rematch":  # which repeats the earlier stage with it
            expected |= {"--repair", "--no-repair"}
        if stage not in ("judge", "export", "report"):  # which use no device
            expected.add("--device")
        if stage in SHARD_WISE:
            expected |= {"--" + name.replace("_", "-") for name in ARRAY}
        offered -= {"--no-" + name.replace("_", "-") for name in names if OPTIONS[name].type is bool}
        executing = {"--workers", "--strict", "--force", "--engine", "--ray-address", "--config", "--dry-run"}
        assert offered - {"--help", *executing} == expected, stage


def test_choices_and_defaults_are_those_of_the_configuration() -> None:
    shown = " ".join(invoke("clean", "--help", columns=300).stdout.split())
    for name in ("embeddings", "dtype", "method", "score", "calibration", "pool", "to"):
        choices = get_args(Config.model_fields[name].annotation)
        choices = get_args(choices[0]) if type(None) in choices else choices
        assert len(choices) >= 2
        assert "|".join(choices) in shown, name
    for name, value in Config():
        if value is not None and value is not False:
            about = shown[shown.index(OPTIONS[name].help) :]
            assert about.removeprefix(OPTIONS[name].help).startswith(f" [default: {value}]"), name
    assert "[default" not in invoke("rematch", "--help", columns=300).stdout.replace("[default: auto]", "")


def test_no_two_files_of_the_command_line_import_each_other_in_a_circle() -> None:
    graph = {}
    for file in Path(pairclean_cli.__file__).parent.glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        graph[file.stem] = {node.module for node in nodes if node.level == 1}
    assert "console" in graph["clean"]
    assert not [name for name, imported in graph.items() if "main" in imported]
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_every_command_refuses_an_option_of_another(finished: Path) -> None:
    result = CliRunner().invoke(app, ["judge", str(finished), "--flag-below", "0.3"])
    assert result.exit_code == 2
    assert "--flag-below" in result.stderr


def test_clean_prints_a_summary_of_the_report(finished: Path, shards: Path) -> None:
    result = invoke("clean", shards, finished, *HOG)
    report = json.loads((finished / "report.json").read_text())
    assert "300 pairs" in result.stdout
    for verdict, count in report["verdicts"].items():
        if count:
            assert re.search(rf"{verdict} +{count} +{100 * count / 300:.1f}%", result.stdout), verdict
    assert str(finished / "cleaned") in result.stdout.replace("\n", "")
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "img2dataset, 2 shards" in result.stderr
    assert "hog-tfidf on cpu" in result.stderr


def test_json_is_the_report_and_nothing_else(finished: Path, shards: Path) -> None:
    result = invoke("clean", shards, finished, *HOG, "--json")
    assert json.loads(result.stdout) == json.loads((finished / "report.json").read_text())
    assert json.loads(invoke("report", finished, "--json").stdout) == json.loads(result.stdout)


def test_quiet_is_quiet(finished: Path, shards: Path) -> None:
    assert invoke("clean", shards, finished, *HOG, "--quiet").output == ""
    assert json.loads(invoke("judge", finished, "--json", "--quiet").output) == {"run": str(finished), "done": []}


def test_a_stage_that_is_up_to_date_says_so(finished: Path) -> None:
    for stage in ("align", "judge", "rematch", "export"):
        result = invoke(stage, finished, columns=300)
        assert result.stdout == f"{stage} is up to date: {finished}\n"


def test_one_rule_chooses_the_threshold(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    both = CliRunner().invoke(app, ["rematch", str(run), "--keep-precision", "0.9", "--flag-below", "0.5"])
    assert both.exit_code == 2
    assert "--flag-below and --keep-precision both choose the threshold" in " ".join(both.stderr.split())
    assert Config.make(**json.loads((run / "manifest.json").read_text())["config"]).keep_precision is None
    rules = (("--keep-precision", 0.9), ("--cost-ratio", 3), ("--keep-fraction", 0.6))
    for rule, value in rules:  # each replaces the one before
        invoke("rematch", run, rule, value)
        report = json.loads((run / "report.json").read_text())
        row = next(row for row in report["thresholds"] if row["threshold"] == report["flag_below"])
        if rule == "--keep-precision":
            assert row["wrong_left"]["estimate"] <= 0.1 * row["kept"] + 1e-6
        elif rule == "--cost-ratio":
            assert report["flag_below"] == 0.75
        else:
            assert row["kept"] == pytest.approx(0.6 * 300, abs=3)  # a few are not judged
    invoke("rematch", run, "--flag-below", 0.5)
    assert json.loads((run / "report.json").read_text())["flag_below"] == 0.5
    refused = CliRunner().invoke(app, ["rematch", str(run), "--keep-precision", "1"], env={"COLUMNS": "300"})
    assert refused.exit_code == 2
    assert "give a lower --keep-precision" in refused.stderr


def test_a_rule_on_the_command_line_replaces_that_of_the_recipe(shards: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("keep_fraction = 0.7\nmodel = 'hog-tfidf'\nmethod = 'canonical'\n")
    invoke("clean", shards, tmp_path / "run", "--config", recipe, "--cost-ratio", 1, "--limit", 40)
    config = json.loads((tmp_path / "run" / "manifest.json").read_text())["config"]
    assert (config["keep_fraction"], config["cost_ratio"]) == (None, 1)


def test_stages_one_by_one_are_clean(finished: Path, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert f"embed is done: {run}" in invoke("embed", shards, run, "--model", "hog-tfidf", columns=300).stdout
    assert json.loads(invoke("align", run, "--method", "canonical", "--json").stdout)["done"] == ["align"]
    for stage in ("judge", "rematch", "export", "report"):
        invoke(stage, run)
    for name in ("00000.parquet", "00001.parquet"):
        assert (run / "verdicts" / name).read_bytes() == (finished / "verdicts" / name).read_bytes()
    changed = invoke("rematch", run, "--flag-below", 0.9, columns=300)
    assert changed.stdout == f"rematch is done, and after it export, report: {run}\n"
    repaired = invoke("rematch", run, "--repair", columns=300)
    assert repaired.stdout == f"align is done, and after it judge, rematch, export, report: {run}\n"
    assert json.loads((run / "report.json").read_text())["flag_below"] == 0.9


def test_a_dry_run_writes_nothing(shards: Path, tmp_path: Path) -> None:
    arguments = ("clean", shards, tmp_path / "run", "--model", "hog-tfidf", "--limit", 200, "--dry-run")
    found: dict[str, Any] = json.loads(invoke(*arguments, "--json").stdout)
    assert list(tmp_path.iterdir()) == []
    expected = {"layout": "img2dataset", "shards": 2, "rows": 200, "pairs": 200, "devices": ["cpu"]}
    assert {name: found[name] for name in expected} == expected
    assert found["roles"] == {"image": "jpg", "caption": "caption", "id": "key", "image_root": None}
    assert found["embedding_bytes"] == 200 * 2 * (1152 + 2048)
    assert found["rematch_bytes"] == 100 * (2 * (1152 + 2048) + 8 * (64 + 2 * 47))  # of half of the pairs
    assert list(found["seconds"]) == ["embed", "align", "judge", "rematch", "export", "report"]
    assert found["seconds"]["embed"] == pytest.approx(200 / found["pairs_per_second"])
    shown = invoke(*arguments).stdout
    assert "2 shards, 200 rows, 200 pairs" in shown
    assert "pairs/s as measured here" in shown
    assert "about 766 kB while it works" in shown
    assert found["first_caption"][:30] in shown


def test_a_dry_run_says_what_is_broken(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for file in shards.glob("*.parquet"):
        (tmp_path / "in" / file.name).write_bytes(file.read_bytes()[: 1000 if file.stem == "00001" else None])
    arguments = ("clean", tmp_path / "in", tmp_path / "run", "--model", "hog-tfidf", "--dry-run")
    found = json.loads(invoke(*arguments, "--json").stdout)
    assert list(found["broken"]) == [str(tmp_path / "in" / "00001.parquet")]
    assert "broken" in invoke(*arguments).stdout


def test_flags_override_the_recipe(finished: Path, shards: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('model = "hog-tfidf"\nlimit = 50\nworkers = 1\n')
    dry = ("clean", shards, tmp_path / "run", "--dry-run", "--json", "--config")
    assert json.loads(invoke(*dry, recipe).stdout)["rows"] == 50
    assert json.loads(invoke(*dry, recipe, "--limit", 20).stdout)["rows"] == 20
    assert json.loads(invoke(*dry, finished / "manifest.json").stdout)["model"] == "hog-tfidf"


def test_apply_names_the_columns_of_its_own_source(finished: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke("apply", finished, shards, out, "--id-column", "none", "--limit", 100, "--json")
    assert json.loads(result.stdout)["pairs"] == 100
    assert json.loads((out / "manifest.json").read_text())["roles"]["id"] is None


def test_doctor() -> None:
    found = json.loads(invoke("doctor", "--json").stdout)
    assert found["versions"]["pairclean"] == __version__
    assert {"torch", "pyarrow", "open_clip_torch"} <= set(found["versions"])
    assert {"faiss GPUs", "auto chooses", "mps"} <= set(found["devices"])
    assert int(found["machine"]["cores"]) >= 1
    assert "free disk here" in invoke("doctor").stdout


def test_an_interrupt_says_how_to_resume(shards: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from pairclean_cli.main import main; main()"]
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*command, "clean", str(shards), str(run), "--model", "hog-tfidf"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while not (run / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted: run the same command again to resume"
    assert "Traceback" not in said
    assert json.loads((run / "manifest.json").read_text())["config"]["model"] == "hog-tfidf"


def test_an_interrupt_that_comes_out_as_another_error(tmp_path: Path) -> None:
    """As within the import of a compiled module, which swallows it and is then damaged."""
    code = """if True:
        import os, signal, sys, time
        from pairclean import pipeline
        from pairclean_cli.main import main
        def clean(*_, **__):
            if sys.argv[-1] == "--quiet":
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(60)
                except KeyboardInterrupt:
                    pass
            raise ImportError("cannot load module more than once per process")
        pipeline.clean = clean
        main()
    """
    command = [sys.executable, "-c", code, "clean", str(tmp_path), str(tmp_path / "run")]
    done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert done.stderr == "interrupted: run the same command again to resume\n"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ImportError: cannot load module more than once per process"


def test_a_reader_that_has_had_enough_is_no_error(finished: Path) -> None:
    command = f'{sys.executable} -c "from pairclean_cli.main import main; main()" report {finished} --json'
    done = subprocess.run(["sh", "-c", f"{command} | head -c 1"], capture_output=True, text=True, check=True)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["status", "report"])
def test_lines_for_a_file_are_not_wrapped(finished: Path, tmp_path: Path, command: str) -> None:
    run = tmp_path / "-".join(["a folder with a long name"] * 5)
    run.symlink_to(finished)
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    code = "from pairclean_cli.main import main; main()"
    called = [sys.executable, "-c", code, command, str(run)]
    done = subprocess.run(called, capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert all(line == line.rstrip() for line in lines)
    if command == "status":
        assert [line.split()[0] for line in lines] == list(STAGES)
        assert lines[0].endswith("2 of 2 parts")
    else:
        assert f"cleaned data   {run}/cleaned" in lines


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert safe("a\x1b[2J\n\u202eb[red]") == "a\\x1b[2J\\n\\u202eb[red]"
    assert safe("日本語 é") == "日本語 é"


def test_numbers_as_people_say_them() -> None:
    assert [size(n) for n in (0, 999, 1500, 26_000_000, 75.6e9, None)] == [
        *("0 B", "999 B", "1.5 kB", "26 MB", "76 GB", "unknown")
    ]
    assert [duration(s) for s in (0.34, 59.9, 59.97, 3599, 7260)] == [
        *("0.3 s", "59.9 s", "1 min 00 s", "59 min 59 s", "2 h 01 min")
    ]
    assert [percent(0.3456), percent(None), percent(0.95, 0)] == ["34.6%", "–", "95%"]


def test_nothing_that_is_kept_has_no_share_of_right_captions() -> None:
    assert right_of_kept({"correct_after": 0.967, "pairs_after": 30}) == "96.7% of the pairs kept"
    assert right_of_kept({"correct_after": 0.0, "pairs_after": 30}) == "0.0% of the pairs kept"
    assert right_of_kept({"correct_after": 0.0, "pairs_after": 0}) == "no pair is kept"
