"""The `diptych` command: collects the command modules and turns errors into one line and an exit status."""

import importlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import diptych
from diptych.cli.start import INTERRUPTED
from diptych.errors import DiptychError, UsageError

MODULES = ("demo", "data", "targets", "words", "train", "eval", "predict", "report", "convert", "config")
"""Modules of this package, in the order of `diptych --help`; each has `register(app)`."""

COMMAND_LINE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
"""What typer raises at wrong command lines; the class itself has no public name."""


def build_app() -> typer.Typer:
    """Return the application with all commands. The modules import nothing heavy before a command runs."""
    app = typer.Typer(
        name="diptych",
        help="Vision-language pre-training: prepare datasets, train published systems, evaluate, report.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
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


def run(arguments: Sequence[str], ahead: Any = None) -> int:
    """Run one command line and return its exit status.

    Args:
        arguments: without the program's name.
        ahead: see `diptych.cli.start.workers_ahead`.
    """
    try:
        app = build_app()
        status = app(args=list(arguments), prog_name="diptych", standalone_mode=False, obj=ahead)
    except DiptychError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        return error.exit_status
    except COMMAND_LINE_ERROR as error:
        message = _usage_message(error)
        if message:
            typer.echo(message, err=True)
        return UsageError.exit_status
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return status if isinstance(status, int) else 0


def _usage_message(error: Any) -> str:
    """Return typer's message on one line, with the command that explains more."""
    message: str = error.format_message().strip()
    if not message or "\n" in message:  # a group without a command: its help, which rich has printed already
        return message
    where = error.ctx.command_path if error.ctx else "diptych"
    return f"error: {message.rstrip('.')} (see {where} --help)"
