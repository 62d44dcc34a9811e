"""`diptych demo`: the main job on the built-in data."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("demo")
    def demo(
        settings: Annotated[
            list[str] | None,
            typer.Argument(metavar="[KEY=VALUE]...", help="Settings for all stages, e.g. train.threads=1."),
        ] = None,
        out: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("runs/demo"),
        seed: Annotated[int, typer.Option(help="Seed of all stages.")] = 0,
    ) -> None:
        """Prepare built-in pictures, pre-train EVE, fine-tune and evaluate retrieval, and write a report.

        Takes a few minutes on two CPU cores. Interrupted and started again, it goes on where it was.
        """
        from diptych.demo.job import run_demo

        report = run_demo(out, seed=seed, overrides=settings or [], announce=typer.echo)
        typer.echo(f"Open {report} in a browser; the figures are in {out / 'summary.json'}.")
