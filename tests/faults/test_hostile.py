"""Data and files of others run no code, and cannot steer a terminal."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path

import pairclean_cli
import pytest
from pairclean_cli.text import safe

import pairclean

FOLDERS = [Path(pairclean.__file__).parent, Path(pairclean_cli.__file__).parent]
FILES = sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))
#: What runs what it reads.
RUNS_CODE = {"eval", "exec", "compile", "__import__"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Calls, by their dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def what_runs_code(source: str) -> list[str]:
    """Everything in a file that could run what it reads."""
    tree = ast.parse(source)
    found = []
    for name, call in called(tree):
        last = name.split(".")[-1]
        if name in RUNS_CODE or (name.split(".")[0] in PICKLES) or name in ("os.system", "os.popen"):
            found.append(name)
        if name in ("np.load", "numpy.load", "np.save", "numpy.save") and keyword(call, "allow_pickle") is not False:
            found.append(name)
        if name == "torch.load" and keyword(call, "weights_only") is not True:
            found.append(name)
        if last in ("read_pickle", "to_pickle", "extractall", "extract") or keyword(call, "shell") is True:
            found.append(name)
        if name.startswith("yaml.") and last != "safe_load":
            found.append(name)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module in PICKLES:
            found += [alias.name for alias in node.names]
        found += [name for name in names if name in PICKLES - {"pickle"}]  # which is imported for its error's name
    return found


def test_nothing_runs_what_it_reads() -> None:
    assert len(FILES) > 60
    found = {str(path): what_runs_code(path.read_text(encoding="utf-8")) for path in FILES}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "eval(x)",
        "import pickle\npickle.loads(x)",
        "from pickle import loads",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "np.save(x, y)",
        "torch.load(x)",
        "tar.extractall(x)",
        "subprocess.run(x, shell=True)",
        "yaml.load(x)",
    ],
)
def test_the_scan_sees_what_runs_code(line: str) -> None:
    assert what_runs_code(line)


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert safe("a\x1b[31m\r\nb\x07\u202e\u200b\x9b") == r"a\x1b[31m\r\nb\x07\u202e\u200b\x9b"
    assert safe("Zürich, 東京, قارب 🙂") == "Zürich, 東京, قارب 🙂"


def test_names_in_progress_are_spelled_out() -> None:
    from pairclean_cli.progress import Sentences
    from rich.console import Console

    out = io.StringIO()
    Sentences(Console(file=out)).say("img2dataset, 1 shards: caption \x1b]0;owned\x07")
    assert out.getvalue() == "img2dataset, 1 shards: caption \\x1b]0;owned\\x07\n"
