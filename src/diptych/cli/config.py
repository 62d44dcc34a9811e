"""`diptych config`: what a recipe amounts to, which settings there are, and how two recipes differ."""

from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.common import RecipeArgument, RecipeCommand, SettingsArgument

if TYPE_CHECKING:
    from diptych.config.keys import Key


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    group = typer.Typer(
        help="Show what a recipe amounts to, which settings there are, and how recipes differ.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
    )
    app.add_typer(group, name="config")
    group.command("show", cls=RecipeCommand)(show)
    group.command("keys")(keys)
    group.command("diff")(diff)


def show(
    recipe: RecipeArgument,
    settings: SettingsArgument = None,
    sources: Annotated[
        bool, typer.Option("--sources/--plain", help="Say behind each value which layer set it.")
    ] = True,
    changed: Annotated[bool, typer.Option("--changed", help="Leave out what has its default.")] = False,
) -> None:
    """Show the configuration that a recipe and settings amount to, as YAML.

    Behind each value stands the layer that set it: the file and line of the recipe, "script" (settings before
    --) or "command line" (settings after --); nothing where it is the default.
    """
    from diptych.config.layers import DEFAULT
    from diptych.config.surface import flatten, outline
    from diptych.train.config import resolve_run

    resolved = resolve_run(recipe, settings or [])
    values = {
        key: value
        for key, value in flatten(resolved.config)
        if not (changed and resolved.sources[key] == DEFAULT)
    }
    notes = {key: source for key, source in resolved.sources.items() if sources and source != DEFAULT}
    _print(outline(values, notes))


def keys(
    prefix: Annotated[
        str, typer.Argument(help="Only keys below this one, e.g. optim, or system[eve] for one system.")
    ] = "",
) -> None:
    """List every setting with its type, default and meaning.

    Write a setting into a recipe, or behind it on the command line: optim.lr=1e-4. Names in brackets, as in
    system[eve].width, say which system.name (or task.name) a setting goes with; write it as system.width.
    """
    from diptych.config.keys import matching
    from diptych.train.config import RunConfig

    lines: list[str] = []
    for key in matching(RunConfig, prefix):
        lines += _described(key)
    _print(lines)


def diff(recipe_a: RecipeArgument, recipe_b: RecipeArgument) -> None:
    """Show the settings in which two recipes differ, all layers and defaults counted."""
    from diptych.config import surface
    from diptych.train.config import resolve_run

    lines = surface.diff(resolve_run(recipe_a).config, resolve_run(recipe_b).config)
    _print(lines or ["no differences"])


def _described(key: "Key") -> list[str]:
    import textwrap

    from diptych.config.keys import description
    from diptych.config.surface import line

    indent = "    "
    text = textwrap.wrap(description(key), 100, initial_indent=indent, subsequent_indent=indent)
    return [line(key), *text]


def _print(lines: list[str]) -> None:
    from rich.text import Text

    from diptych.cli.common import console

    out = console()
    for line in lines:
        body, mark, note = line.partition("  # ")
        out.print(Text.assemble(body, (mark + note, "green")), soft_wrap=True)
