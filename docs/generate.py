"""Write docs/commands/, one page per command, from the application itself:  python docs/generate.py"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pairclean_cli.main import app
from typer.main import get_command
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

FOLDER = Path(__file__).parent / "commands"
NOTE = "<!-- Written by docs/generate.py: change the command instead. -->"


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    commands = {command.callback.__name__: command for command in app.registered_commands if command.callback}
    return {
        "index.md": _index(commands),
        **{f"{name}.md": _page(name, command.callback) for name, command in commands.items() if command.callback},
    }


def _index(commands: dict[str, CommandInfo]) -> str:
    lines = [NOTE, "# Commands"]
    for panel in dict.fromkeys(command.rich_help_panel for command in commands.values()):
        lines += ["", f"## {panel}", "", "| command | what it does |", "|---|---|"]
        lines += [
            f"| [`pairclean {name}`]({name}.md) | {_cell(_paragraphs(command.callback)[0])} |"
            for name, command in commands.items()
            if command.rich_help_panel == panel
        ]
    return "\n".join(lines) + "\n"


def _page(name: str, command: Callable[..., Any]) -> str:
    group: Any = get_command(app)  # whose type does not say that it has commands
    parameters = group.commands[name].params
    flags = {parameter.name: [*parameter.opts, *parameter.secondary_opts] for parameter in parameters}
    declared = [(p, *get_args(p.annotation)) for p in inspect.signature(command).parameters.values() if p.name != "ctx"]
    arguments = [info for _, _, info in declared if isinstance(info, ArgumentInfo)]
    options = [(p, kind, info) for p, kind, info in declared if isinstance(info, OptionInfo) and not info.hidden]
    usage = " ".join(["pairclean", name, *(str(info.metavar) for info in arguments), "[OPTIONS]"])
    lines = [NOTE, f"# pairclean {name}", "", "\n\n".join(_paragraphs(command)), "", "```bash", usage, "```"]
    if arguments:
        lines += ["", "| argument | meaning |", "|---|---|"]
        lines += [f"| `{info.metavar}` | {_cell(info.help)} |" for info in arguments]
    for panel in dict.fromkeys(info.rich_help_panel for _, _, info in options):
        lines += ["", f"## {panel or 'Options'}", "", "| option | value | meaning |", "|---|---|---|"]
        lines += [_row(p, kind, info, flags[p.name]) for p, kind, info in options if info.rich_help_panel == panel]
    return "\n".join(lines) + "\n"


def _row(parameter: Parameter, kind: Any, info: OptionInfo, flags: list[str]) -> str:
    is_flag = bool in (kind, *get_args(kind))
    value = "" if is_flag else " ".join(f"`{value}`" for value in _choices(kind) or (info.metavar,))
    end = ""
    if parameter.default is Parameter.empty:
        end = " Required."
    elif parameter.default is not None and not is_flag:
        end = f" Default: `{parameter.default}`."
    spelled = ", ".join(f"`{flag}`" for flag in flags)
    return f"| {spelled} | {value} | {_cell(info.help)}{end} |"


def _choices(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return next((get_args(one) for one in get_args(kind) if get_origin(one) is Literal), ())


def _paragraphs(command: Callable[..., Any] | None) -> list[str]:
    return [" ".join(part.split()) for part in (inspect.getdoc(command) or "").split("\n\n")]


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    written = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in written:
            old.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
