"""`diptych predict`: what a trained model says about single pictures."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.common import console

if TYPE_CHECKING:
    from diptych.api import LoadedModel


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("predict")(predict)


def predict(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run directory, an export or a checkpoint.", show_default=False),
    ],
    image: Annotated[
        list[Path],
        typer.Option(
            "--image",
            "-i",
            help="A picture (or a video, where the model reads videos); give it again for more.",
            show_default=False,
        ),
    ],
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="A text that may belong to the picture.")
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(
            "--question",
            "-q",
            help="A question about the picture; models that converse take several in turn.",
        ),
    ] = None,
    statement: Annotated[
        list[str] | None, typer.Option("--statement", "-s", help="A statement about two pictures.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            "-c",
            help="Names to choose from: a text file, one a line; or a list such as imagenet-1k.",
        ),
    ] = None,
    caption: Annotated[
        bool, typer.Option("--caption", help="Describe each picture; what happens where nothing is asked.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Answers or classes shown.")] = 5,
    max_tokens: Annotated[int, typer.Option(min=1, help="Conversations: longest answer in tokens.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0, help="Conversations: 0 takes the best word, more draws words.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0.01, max=1, help="Conversations: draw among words of so much probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Conversations: of what is drawn.")] = 0,
    device: Annotated[Device, typer.Option(help="auto: a GPU if there is one.")] = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Describe pictures, compare them with texts or names, answer questions, judge statements about two."""
    from diptych.api import load
    from diptych.errors import UsageError

    if statement and len(image) != 2:
        raise UsageError(f"predict: a statement is about two pictures, got {len(image)} of --image")
    model = load(None, run, device=device.value)
    if question and model.can("chat"):
        from diptych.api import GenerationConfig
        from diptych.cli.predict_chat import converse

        settings = GenerationConfig(
            max_new_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
        )
        converse(model, image or [], question, settings, as_json=as_json)
        return
    if not (text or question or statement or classes or caption):
        if not model.can("caption"):
            raise UsageError(
                "predict: nothing to say about the pictures, and this model writes no captions; give --text, "
                "--classes, --question or --statement"
            )
        caption = True
    found: dict[str, Any] = {"images": [str(path) for path in image]}
    if text:
        found["texts"] = _texts(model, image, text)
    if classes:
        named = model.classify(image, classes, top=top)
        found["classes"] = [
            {"image": str(path), "class": said.text, "answers": [list(pair) for pair in said.ranked]}
            for path, said in zip(image, named, strict=True)
        ]
    if question:
        found["questions"] = _answers(model, image, question, top)
    if statement:
        scores = model.judge([(image[0], image[1])], statement).tolist()
        found["statements"] = [{"statement": s, "true": p} for s, p in zip(statement, scores, strict=True)]
    if caption:
        said = model.caption(image)
        found["captions"] = [
            {"image": str(path), "caption": each.text, "probability": each.score}
            for path, each in zip(image, said, strict=True)
        ]
    if as_json:
        import json

        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        _show(found)


def _texts(model: "LoadedModel", images: list[Path], texts: list[str]) -> list[dict[str, Any]]:
    """Return a row for each picture and text, the best text of a picture first.

    `similarity` is the cosine of their vectors, `match` the probability that they belong together, `choice`
    that of being the one of these texts that does, each where the model has what it takes.
    """
    rows: list[dict[str, Any]] = [{"image": str(path), "text": text} for path in images for text in texts]
    columns: dict[str, list[float]] = {}
    if model.can("encode"):
        similarity = model.encode_image(images) @ model.encode_text(texts).T
        columns["similarity"] = similarity.flatten().tolist()
    if model.can("choose") and not model.can("match"):
        columns["choice"] = model.choose(images, texts).flatten().tolist()
    elif model.can("match") or not columns:
        pictures = [path for path in images for _ in texts]
        columns["match"] = model.match(pictures, texts * len(images)).tolist()
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    order = next(name for name in ("match", "choice", "similarity") if name in columns)
    place = {str(path): i for i, path in enumerate(images)}
    return sorted(rows, key=lambda row: (place[row["image"]], -row[order]))


def _answers(
    model: "LoadedModel", images: list[Path], questions: list[str], top: int
) -> list[dict[str, Any]]:
    """Return a row for each picture and question."""
    pairs = [(path, question) for path in images for question in questions]
    answers = model.answer([path for path, _ in pairs], [question for _, question in pairs], top=top)
    return [
        {"image": str(path), "question": question, "answers": [list(pair) for pair in answer.ranked]}
        for (path, question), answer in zip(pairs, answers, strict=True)
    ]


def _show(found: dict[str, Any]) -> None:
    """Print tables, one a kind of question."""
    from rich import box
    from rich.table import Table

    out = console()
    several = len(found["images"]) > 1
    for kind, name in (
        ("texts", "text"),
        ("classes", "class"),
        ("questions", "question"),
        ("statements", "statement"),
        ("captions", "caption"),
    ):
        rows = found.get(kind)
        if not rows:
            continue
        with_image = several and "image" in rows[0]
        columns = [c for c in rows[0] if c != "image" and c != name]
        table = Table(box=box.SIMPLE_HEAD)
        for title in (["picture"] if with_image else []) + [name]:
            table.add_column(title)
        for title in columns:
            table.add_column(title, justify="left" if title == "answers" else "right")
        for row in rows:
            cells = ([row["image"]] if with_image else []) + [row[name]]
            table.add_row(*cells, *(_cell(row[column]) for column in columns))
        out.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(f"{answer} {score:.2f}" for answer, score in value)
    return f"{value:.3f}"
