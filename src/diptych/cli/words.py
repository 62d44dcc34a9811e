"""`diptych words`: which words carry the meaning of a corpus."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.common import console, progress

SHOWN = 15
"""Words that are printed."""
PAGE = "words.html"

OutOption = Annotated[Path, typer.Option(help="Folder for the files.", show_default=False)]
TokenizerOption = Annotated[
    Path,
    typer.Option(help="The model's tokenizer: tokenizer.json, or BERT's vocab.txt.", show_default=False),
]
TopOption = Annotated[int, typer.Option(help="Words up to this rank are significant.", min=1)]
ThresholdOption = Annotated[
    float,
    typer.Option(
        help="Kinds with a smaller share of a word's occurrences do not count for it.", min=0, max=1
    ),
]
GroupsOption = Annotated[
    str, typer.Option(help="Falling numbers of occurrences at which words are put into groups.")
]
AbandonOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A further word that never counts (repeatable), beside forms of `to be`.", show_default=False
    ),
]
GROUPS = "50000,30000,10000,3000,0"


def register(app: typer.Typer) -> None:
    """Add the command group to the application."""
    group = typer.Typer(no_args_is_help=True, help="Find the words that carry the meaning of a corpus.")
    group.command("mine")(mine)
    group.command("rank")(rank)
    app.add_typer(group, name="words")


def mine(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Prepared datasets (DIR or DIR:SPLIT), .txt files (a caption a line), .jsonl files.",
            show_default=False,
        ),
    ],
    out: OutOption,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="The model's tokenizer: tokenizer.json, or BERT's vocab.txt; without it words are counted "
            "and not ranked.",
            show_default=False,
        ),
    ] = None,
    tagger: Annotated[
        str,
        typer.Option(
            help="A spaCy pipeline, a list of words and their kinds (.tsv), or `emoji`: the list for the "
            "emoji cards."
        ),
    ] = "en_core_web_sm",
    top: TopOption = 3000,
    threshold: ThresholdOption = 0.25,
    groups: GroupsOption = GROUPS,
    abandon: AbandonOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; default: one for each core.", show_default=False, min=1)
    ] = None,
) -> None:
    """Tag captions, count, rank: writes the files that masking significant words reads, and a page.

    The published three scripts in one. What is counted stays in DIR/parts: a killed run goes on.
    """
    from diptych.data.mined import write_counts
    from diptych.data.mining import count_words
    from diptych.data.text import Tokenizer

    thresholds = _numbers(groups)
    vocabulary = None if tokenizer is None else Tokenizer.from_file(tokenizer).vocabulary()
    with progress("counting words") as bar:
        corpus = count_words(sources, tagger, out, workers=workers, progress=bar.update)
    if corpus.skipped:
        typer.echo(f"{corpus.skipped} lines or samples have no caption that can be read", err=True)
    if vocabulary is None:
        typer.echo(write_counts(corpus.counts, out))
        return
    _finish(corpus.counts, vocabulary, out, top, threshold, thresholds, abandon or [], corpus.texts)


def rank(
    counts: Annotated[
        Path,
        typer.Argument(
            metavar="COUNTS",
            help="counts.json, or the file of the published first script.",
            show_default=False,
        ),
    ],
    out: OutOption,
    tokenizer: TokenizerOption,
    top: TopOption = 3000,
    threshold: ThresholdOption = 0.25,
    groups: GroupsOption = GROUPS,
    abandon: AbandonOption = None,
) -> None:
    """Rank words that were counted before, for another vocabulary or with other settings."""
    from diptych.data.mined import read_counts
    from diptych.data.text import Tokenizer

    thresholds = _numbers(groups)
    vocabulary = Tokenizer.from_file(tokenizer).vocabulary()
    _finish(read_counts(counts), vocabulary, out, top, threshold, thresholds, abandon or [], None)


def _numbers(text: str) -> list[int]:
    try:
        found = [int(number) for number in text.split(",")]
    except ValueError:
        found = []
    if not found or found != sorted(found, reverse=True) or min(found) < 0:
        raise typer.BadParameter(
            f"expected falling numbers with commas, such as {GROUPS}, got '{text}'", param_hint="--groups"
        )
    return found


def _finish(
    counts: Mapping[str, Mapping[str, int]],
    vocabulary: list[str],
    out: Path,
    top: int,
    threshold: float,
    thresholds: list[int],
    abandon: list[str],
    texts: int | None,
) -> None:
    """Rank, write everything, print the most frequent words."""
    from rich.table import Table

    from diptych.data.mined import WORDS, rank_and_write, top_words
    from diptych.data.words import ABANDONED
    from diptych.report.words import write_words_page

    mined = rank_and_write(
        counts,
        vocabulary,
        out,
        abandoned=(*ABANDONED, *abandon),
        top=top,
        threshold=threshold,
        thresholds=thresholds,
    )
    page = write_words_page(mined, top, texts, out / PAGE)
    table = Table("rank", "word", "occurrences", "mostly", box=None)
    for place, word, number, kind in top_words(mined.words, SHOWN):
        table.add_row(str(place), word, str(number), kind)
    console().print(table)
    share = mined.ranked / mined.counted
    typer.echo(f"{share:.1%} of {mined.counted} counted words are whole words of the vocabulary and ranked")
    typer.echo(f"{out / WORDS}: what masking reads; {page}: the page")
