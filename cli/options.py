"""Command-line options: built from the table in `pairclean.options`, and those of the command line alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from inspect import Parameter, signature
from typing import Annotated, Any

import typer

from pairclean.options import ARRAY, EXECUTING, EXECUTION, OPTIONS, Option, current_names, flag

from .console import Console

# --- arguments and options that several commands declare themselves ---------------------------------------------------

Shards = Annotated[
    str, typer.Argument(metavar="SHARDS", help="Folder of shards, one file, or a remote address.", show_default=False)
]
RunAddress = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="The run directory, or a remote address such as s3://bucket/run.", show_default=False
    ),
]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="The run directory.", show_default=False)]
Rate = Annotated[float, typer.Option("--rate", help="Fraction of the captions to move to other images.", metavar="P")]

# --- options that a command takes by name -----------------------------------------------------------------------------

#: How the result is printed.
PRINTING = ("json", "quiet")

_PRINTING = {
    "json": typer.Option("--json", help="Print the result as JSON.", rich_help_panel=EXECUTING),
    "quiet": typer.Option("--quiet", "-q", help="Print only errors.", rich_help_panel=EXECUTING),
}

Command = Callable[..., None]


def takes(*names: str, as_before: bool = False) -> Callable[[Command], Command]:
    """Add options to a command, by their names in `pairclean.options.OPTIONS` or PRINTING.

    as_before: an option that is not given stays as it was in the run, so that the table's default does not apply.

    The command itself is called with `console`, which holds the options of execution and printing, and with `options`,
    a dict of the others that the user gave, unless none are named.
    """

    executing = (*EXECUTION, *ARRAY)

    def decorate(command: Command) -> Command:
        own = [p for p in signature(command, eval_str=True).parameters.values() if p.name not in ("options", "console")]
        execution = [p for name in names if name in executing for p in _parameters(OPTIONS[name])]
        others = [
            p for name in names if name not in (*executing, *PRINTING) for p in _parameters(OPTIONS[name], as_before)
        ]
        printing = [_parameter(name, bool, False, _PRINTING[name]) for name in names if name in PRINTING]
        from_table = [p.name for p in (*others, *execution)]

        @functools.wraps(command)
        def call(ctx: typer.Context, **values: Any) -> None:
            chosen = {name: values.pop(name) for name in from_table}
            given = current_names({name: value for name, value in chosen.items() if _is_given(ctx, name)})
            console = Console(
                **{p.name: values.pop(p.name) for p in printing},
                execution_options={name: given.pop(name) for name in executing if name in given},
            )
            command(**values, **({"options": given} if others else {}), console=console)

        parameters = [
            Parameter("ctx", Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *(p for p in own if p.default is p.empty),
            *others,
            *(p for p in own if p.default is not p.empty),
            *execution,
            *printing,
        ]
        parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in parameters]
        call.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call

    return decorate


def _parameters(option: Option, as_before: bool = False) -> Iterator[Parameter]:
    """The parameter of an option, and a hidden one for each of its former names."""
    default = None if as_before else option.default
    for name in (option.name, *option.formerly):
        # What was switched on in a run has to be switched off there.
        off = f"/--no-{flag(name)[2:]}" if as_before and option.type is bool else ""
        declared = typer.Option(
            flag(name) + off,
            help=option.help,
            metavar=option.metavar,
            rich_help_panel=option.panel,
            hidden=name != option.name,
        )
        yield _parameter(name, option.type | None, default, declared)


def _parameter(name: str, type: Any, default: Any, declared: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[type, declared])


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
