"""The examples of CONTRIBUTING.md work: applied to a copy of the package, what they add is there everywhere."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def example(title: str) -> str:
    """The code block of a section of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return block


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pairclean", tmp_path / "pairclean", ignore=ignored)
    shutil.copytree(ROOT / "cli", tmp_path / "pairclean_cli", ignore=ignored)
    return tmp_path


def insert(file: Path, after: str, text: str) -> None:
    before = file.read_text(encoding="utf-8")
    assert before.count(after) == 1
    file.write_text(before.replace(after, after + text), encoding="utf-8")


def python(copy: Path, code: str) -> str:
    """What `code` prints where the copy is what is imported."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "COLUMNS": "300", "PYTHONDONTWRITEBYTECODE": "1"}
    code = f"import pairclean; assert pairclean.__file__.startswith({str(copy)!r})\n" + code
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=copy)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(copy: Path, *arguments: str) -> str:
    return python(copy, f"from pairclean_cli.main import app; app({list(arguments)!r})")


def test_an_option_is_added_in_one_place(copy: Path) -> None:
    head, line = example("Add an option").split("    ...\n")
    insert(copy / "pairclean" / "options.py", head, line)
    for name in ("clean", "judge", "selfcheck"):
        assert re.search(r"--max-pairs +N +Judge at most N pairs\.", command(copy, name, "--help")), name
    assert "--max-pairs" not in command(copy, "rematch", "--help")
    (copy / "recipe.toml").write_text("max_pairs = 7\n")
    found = python(
        copy,
        "import json; from pathlib import Path\n"
        "from pairclean.config import Config, read_recipe\n"
        "try: Config.make(max_pairs=0)\n"
        "except pairclean.UserError as error: refused = str(error)\n"
        "print(json.dumps([Config.make(**read_recipe(Path('recipe.toml'))).of('judge')['max_pairs'], refused]))",
    )
    assert json.loads(found) == [7, "--max-pairs 0: input should be greater than or equal to 1"]


def test_a_method_is_registered_in_one_place(copy: Path) -> None:
    head, entry = example("Add a method").removesuffix(")\n").split("    ...,\n")
    insert(copy / "pairclean" / "methods.py", head, entry)
    source = "from .zero_shot import ZeroShot\n\n\nclass Mine(ZeroShot): ...\n"
    (copy / "pairclean" / "align" / "mine.py").write_text(source)
    assert "|mine|" in "".join(command(copy, "clean", "--help").split())
    listed = json.loads(command(copy, "methods", "--json"))["methods"]
    assert listed[0]["name"] == "mine"
    code = (
        "from pairclean import methods; from pairclean.config import Config\n"
        "print(Config.make(method='mine').method, methods.load('mine').__name__)"
    )
    assert python(copy, code) == "mine Mine\n"


def test_a_layout_is_registered_in_one_place(copy: Path) -> None:
    function, entry = example("Add a layout").removesuffix("}\n").split("\n\n#: What makes a table")
    head, line = f"#: What makes a table{entry}".split("    ...,\n")
    insert(copy / "pairclean" / "sources" / "documents.py", head, line)
    documents = copy / "pairclean" / "sources" / "documents.py"
    documents.write_text(documents.read_text(encoding="utf-8").replace(head, f"{function}\n\n{head}"), encoding="utf-8")
    lines = [f"{i % 3}.jpg#{i // 3}\tcaption {i} of a picture" for i in range(6)]
    with gzip.open(copy / "results.token.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join([*lines, "no caption"]))
    (copy / "pictures").mkdir()
    for i in range(3):
        (copy / "pictures" / f"{i}.jpg").write_bytes(b"picture %d" % i)
    found = python(
        copy,
        "import json; from pairclean.pairs import Columns\n"
        "from pairclean.sources import open_source\n"
        "source = open_source('results.token.gz', Columns(image_root='pictures'))\n"
        "rows = [(row.image.decode(), row.captions) for shard in source.shards for row in source.rows(shard)]\n"
        "print(json.dumps([source.layout, rows, list(source.notes.values())]))",
    )
    captions = [[f"picture {i}", [f"caption {i} of a picture", f"caption {i + 3} of a picture"]] for i in range(3)]
    assert json.loads(found) == ["folder", captions, ["has 1 line without a tab"]]
