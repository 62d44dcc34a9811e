"""`diptych predict` for models that converse: questions in turn, answers word by word."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from diptych.cli.common import console

if TYPE_CHECKING:
    from diptych.api import GenerationConfig, LoadedModel


def converse(
    model: "LoadedModel",
    pictures: list[Path],
    questions: list[str],
    settings: "GenerationConfig",
    *,
    as_json: bool,
) -> None:
    """Ask questions about pictures and videos in one conversation; answers appear as they come.

    Raises:
        UsageError: an empty question.
        DataError: a picture that cannot be read, or a question with special tokens.
    """
    chat = model.chat([str(path) for path in pictures], settings=settings)
    out = console()
    for question in questions:
        if as_json:
            chat.ask(question)
            continue
        out.print(question, style="bold", markup=False, highlight=False)
        for piece in chat.stream(question):
            out.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        out.print()
    if as_json:
        turns = [{"question": question, "answer": answer} for question, answer in chat.turns]
        found = {"images": [str(path) for path in pictures], "conversation": turns}
        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
