"""MkDocs hook: the pages of the site that live elsewhere in the repository, so that nothing is written twice.

A file has the same place on the site as in the repository, except that `docs/` and the README are the site's root.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "index.md": "README.md",
    **{name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "benchmarks/RESULTS.md")},
}


def on_config(config: Any) -> Any:
    """List every page of docs/commands in the navigation; the pages are generated from the command line itself."""
    commands = sorted((ROOT / "docs" / "commands").glob("*.md"), key=lambda page: (page.stem != "index", page.stem))
    pages = [f"commands/{page.name}" for page in commands]
    listed = [{"Commands": pages} if "Commands" in entry else entry for entry in config.nav]
    config.nav = [entry for entry in listed if entry != {"Commands": []}]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the README, the other documents of the root, and the examples that they link to."""
    found = [file.relative_to(ROOT).as_posix() for file in (ROOT / "examples").rglob("*.*")]
    examples = {name: name for name in found if "__pycache__" not in name}
    for place, name in {**PAGES, **examples}.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Point links between docs/ and the rest of the repository to where these files are on the site."""
    if page.file.src_uri in PAGES:
        return markdown.replace("](docs/", "](").replace("](README.md", "](index.md")
    return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown
