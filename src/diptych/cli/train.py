"""`diptych train`: start a run, or go on with it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.common import RecipeArgument, RecipeCommand, SettingsArgument, console


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train", cls=RecipeCommand)(train)


def train(
    recipe: RecipeArgument,
    settings: SettingsArgument = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run-dir", metavar="DIR", help="The run directory.  [default: runs/<name>]", show_default=False
        ),
    ] = None,
) -> None:
    """Train by a recipe, or go on with a run: the same command continues from the newest checkpoint.

    On several GPUs or machines: `torchrun --nproc-per-node=GPUS -m diptych train ...`.
    """
    # Before torch is imported: its C++ side remarks on every rank that a model uses all of its parameters.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from diptych.train.config import resolve_run
    from diptych.train.engine import train as run
    from diptych.train.failures import watched
    from diptych.train.signals import StoppedError

    try:
        with watched():
            resolved = resolve_run(recipe, settings or [])
            run(resolved, run_dir or Path("runs") / resolved.config.name)
    except StoppedError as stopped:
        console(stderr=True).print(str(stopped))
        raise typer.Exit(stopped.exit_status) from stopped
