"""`diptych targets`: the names and tokens that models choose from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.common import console

if TYPE_CHECKING:
    from diptych.data.targets.target_set import TargetSet
    from diptych.data.targets.tokens import TargetTokenizer

FIRST = 10
"""Classes that `show` prints."""

OutOption = Annotated[Path, typer.Option(help="Folder for the target set.", show_default=False)]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        help="clip, uniperceiver, or a tokenizers JSON file (tokenizer.json of a run).", show_default=False
    ),
]
EndOption = Annotated[
    str,
    typer.Option(help="Token behind each text; default: <|endoftext|>, [SEP] or </s>.", show_default=False),
]
NameOption = Annotated[str, typer.Option(help="What the set is called.", show_default=False)]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a target set in the folder.")]


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    group = typer.Typer(no_args_is_help=True, help="Names and tokens that models choose from.")
    group.command("list")(list_sets)
    group.command("build")(build)
    group.command("import")(import_)
    group.command("show")(show)
    app.add_typer(group, name="targets")


def list_sets() -> None:
    """List the target sets that ship with Diptych."""
    from rich.table import Table

    from diptych.data.targets.names import LISTS, SHORT, class_synonyms

    table = Table("name", "classes", "first names", box=None)
    for name in (*LISTS, *SHORT):
        classes = class_synonyms(name)
        table.add_row(name, str(len(classes)), ", ".join(names[0] for names in classes[:3]))
    console().print(table)


def build(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE|DATASET",
            help="A name of `diptych targets list`, glue, vocabulary, a list (.txt, .json) or a dataset.",
            show_default=False,
        ),
    ],
    out: OutOption,
    tokenizer: TokenizerOption = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help='A text around the name: "a photo of a {}." (repeatable).')
    ] = None,
    end: EndOption = "",
    name: NameOption = "",
    force: ForceOption = False,
) -> None:
    """Write the names of classes, and their tokens, into a folder (for glue: one folder for each task)."""
    from diptych.data.targets.build import build as make

    made = make(what, _tokenizer(tokenizer, end), prompt or (), name=name)
    for targets in made:
        _write(targets, out if len(made) == 1 else out / targets.name, force=force)


def import_(
    pickle: Annotated[
        Path,
        typer.Argument(
            metavar="PICKLE",
            help="A published *_CLIP_with_endoftext.pkl, or answers of VQA.",
            show_default=False,
        ),
    ],
    out: OutOption,
    tokenizer: TokenizerOption = None,
    end: EndOption = "",
    name: NameOption = "",
    force: ForceOption = False,
) -> None:
    """Read a published pickle without running anything in it, and write it as a target set."""
    from diptych.data.targets.build import import_pickle

    _write(import_pickle(pickle, _tokenizer(tokenizer, end), name=name), out, force=force)


def show(
    what: Annotated[
        str,
        typer.Argument(metavar="DIR|NAME", help="A target set, or a name of the list.", show_default=False),
    ],
    limit: Annotated[int, typer.Option(help="Classes to print.", min=0)] = FIRST,
) -> None:
    """Show what a target set holds."""
    from diptych.data.targets.build import build as make
    from diptych.data.targets.target_set import NAMES_FILE, TargetSet, summary

    folder = Path(what)
    found = [TargetSet.load(folder)] if (folder / NAMES_FILE).is_file() else make(what)
    for targets in found:
        typer.echo(targets.name)
        for name, value in summary(targets).items():
            typer.echo(f"  {name}: {value}")
        rows = [] if targets.tokens is None else targets.tokens.rows()
        for number, names in enumerate(targets.classes[:limit]):
            # The tokens of the first row of the class, if each class has one.
            tokens = f"  {rows[number].tolist()}" if len(rows) == len(targets.classes) else ""
            typer.echo(f"  {number:>5} {', '.join(names) or '-'}{tokens}")


def _tokenizer(name: str | None, end: str) -> "TargetTokenizer | None":
    from diptych.data.targets.tokens import load_tokenizer
    from diptych.errors import UsageError

    if name is None:
        if end:
            raise UsageError("--end names a token of a tokenizer: give --tokenizer too")
        return None
    return load_tokenizer(name, end)


def _write(targets: "TargetSet", out: Path, *, force: bool) -> None:
    from diptych.data.targets.target_set import NAMES_FILE
    from diptych.errors import UsageError

    if (out / NAMES_FILE).exists() and not force:
        raise UsageError(f"{out} holds a target set; choose another folder or give --force")
    targets.save(out)
    tokens = "no tokens" if targets.tokens is None else f"{len(targets.tokens.lengths)} rows of tokens"
    typer.echo(f"{targets.name}: {len(targets.classes)} classes, {tokens}, in {out}")
