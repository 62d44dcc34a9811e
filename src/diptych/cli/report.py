"""`diptych report`: run directories -> one self-contained page."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("report")
    def report(
        runs: Annotated[
            list[Path], typer.Argument(metavar="RUN...", help="Run directories, in the order they ran.")
        ],
        out: Annotated[
            Path | None, typer.Option(help="Page to write; default: report.html in the last run.")
        ] = None,
        baseline: Annotated[
            list[Path] | None, typer.Option(help="A run to compare with (repeatable).")
        ] = None,
        title: Annotated[str, typer.Option(help="Heading of the page.")] = "",
    ) -> None:
        """Show runs, several side by side: results, examples, experts, curves, speed, settings, data."""
        from diptych.report.run import write_run_report

        page = write_run_report(runs, out or runs[-1] / "report.html", title=title, baselines=baseline or [])
        typer.echo(page)
