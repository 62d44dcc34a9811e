"""The `diptych` command: collects the command modules and turns errors into one line and an exit status."""

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import diptych
from diptych.errors import DiptychError

MODULES = ("demo", "data", "train", "eval", "report", "convert", "config")
"""Modules of this package, in the order of `diptych --help`; each has `register(app)`."""

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells count."""


def build_app() -> typer.Typer:
    """Return the application with all commands. The modules import nothing heavy before a command runs."""
    app = typer.Typer(
        name="diptych",
        help="Vision-language pre-training: prepare datasets, train published systems, evaluate, report.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def common(
        version: Annotated[
            bool,
            typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True),
        ] = False,
    ) -> None:
        pass

    for name in MODULES:
        importlib.import_module(f"diptych.cli.{name}").register(app)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"diptych {diptych.__version__}")
        raise typer.Exit


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit status."""
    try:
        build_app()(args=list(arguments), prog_name="diptych")
    except DiptychError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:  # typer ends every command line this way, usage errors with status 2
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))
