"""What the command modules share: consoles, progress, and arguments of commands that take a recipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    import rich.progress as bars
    from rich.console import Console

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A YAML file, or the name of a packaged recipe.", show_default=False
    ),
]
SettingsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings by dotted key, e.g. optim.lr=1e-4. Those after a -- win over those before it.",
        show_default=False,
    ),
]


class RecipeCommand(TyperCommand):
    """A command whose last argument is `SettingsArgument`: hands `--` through, which typer would swallow.

    Use it as `@app.command(cls=RecipeCommand)`, then pass the settings to `diptych.config.layers.resolve`.
    """

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]  # typer's context type is private
        """Double the first `--`: the parser removes one, the other stays among the settings."""
        if "--" in args:
            cut = args.index("--")
            args = [*args[:cut], "--", *args[cut:]]
        return super().parse_args(ctx, args)


def console(*, stderr: bool = False) -> "Console":
    """Return a console that colours on a terminal and writes plain, unwrapped text anywhere else."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, markup=False)
    if not made.is_terminal:
        # A pipe has no width: wrapping would cut lines that other programs read.
        made.width = 10_000
    return made


class Progress(Protocol):
    """What `progress` yields."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more as done."""
        ...

    def update(self, done: int, total: int | None = None) -> None:
        """Set how much is done, and the total once it is known."""
        ...


@contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Progress]:
    """Show a bar with rate and time left on stderr while the block runs; silent off a terminal."""
    if not sys.stderr.isatty():
        yield _Quiet()
        return
    import rich.progress as bars

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        _rate_column(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console(stderr=True), transient=True) as display:
        yield _Bar(display, display.add_task(description, total=total))


class _Quiet:
    def advance(self, n: int = 1) -> None:
        pass

    def update(self, done: int, total: int | None = None) -> None:
        pass


class _Bar:
    def __init__(self, display: "bars.Progress", task: "bars.TaskID") -> None:
        self._display, self._task = display, task

    def advance(self, n: int = 1) -> None:
        self._display.advance(self._task, n)

    def update(self, done: int, total: int | None = None) -> None:
        if total is None:
            self._display.update(self._task, completed=done)
        else:
            self._display.update(self._task, completed=done, total=total)


def _rate_column() -> "bars.ProgressColumn":
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.1f}/s")

    return Rate()
