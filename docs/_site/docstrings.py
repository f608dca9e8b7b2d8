"""Griffe extension: show the docstrings of this project, which name parameters at the start of a line, as lists.

    level: confidence level, in (0, 1).  seed: of the bootstrap.

becomes one list item per parameter; everything else stays as it is.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Function

_NAMES = re.compile(r"(?:^|(?<=\.  ))(\w+(?:, \w+)*)(?=: )", re.MULTILINE)


class ParameterLists(Extension):
    def on_function(self, *, func: Function, **_: Any) -> None:
        if func.docstring:
            func.docstring.value = with_lists(func.docstring.value, {parameter.name for parameter in func.parameters})


def with_lists(docstring: str, parameters: set[str]) -> str:
    """`docstring` with a list item for every "name: ..." whose names are all parameters; Markdown."""

    def item(match: re.Match[str]) -> str:
        names = match[1].split(", ")
        return "\n- " + ", ".join(f"`{name}`" for name in names) if set(names) <= parameters else match[0]

    lines = re.sub(r"^(Returns|Raises|Source) ?", r"\n\1 ", _NAMES.sub(item, docstring), flags=re.MULTILINE)
    return lines.replace("Source :", "Source:")
