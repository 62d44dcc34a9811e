"""The `bookswiki` card: plain text of the English Wikipedia and of books, for masked words."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diptych.data.cards.base import Card, Layout, LeftOut, Source, Split
from diptych.data.cards.bookswiki_text import Line, Passage, clean_line, passages, sentences
from diptych.data.cards.options import Options
from diptych.data.members import clean_key
from diptych.data.raw.folder import RawFolder
from diptych.data.sample import Sample
from diptych.errors import DataError, UsageError

NAME = "bookswiki"
OPTIONS = {
    "words": "words after which a passage is full (default 128)",
    "borders": "`keep` (default): a passage ends with its document; `ignore`: it goes on, as published",
}
WHOLE = ("bookswiki.doc", "bookswiki_v2.txt")
HALVES = ("wiki.doc", "bc1g.doc")
"""In the order in which they are put together."""
TABLES = ("wikipedia", "bookcorpus")
"""Folders of Parquet files, in the same order."""
SMALL = ("bookswiki-1000.doc", "bookswiki_v2-1000.doc")
TREE = "bert_pretrain_data/bookswiki/"
MOST_WORDS = 100_000


def convert(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
    """Yield the passages of the text, then those of the small file for validation.

    Raises:
        UsageError: a wrong option, or no raw folder.
        DataError: the folder has no text in any of the forms.
    """
    return _convert(raw, options, "")


def convert_uniperceiver(raw: Path | None, options: Mapping[str, str]) -> Iterator[Sample | LeftOut]:
    """Yield the same from the tree of Uni-Perceiver's data page; see `convert`."""
    return _convert(raw, options, TREE)


def _convert(raw: Path | None, options: Mapping[str, str], tree: str) -> Iterator[Sample | LeftOut]:
    if raw is None:
        raise UsageError(f"card '{NAME}' needs its raw files: give their folder with --raw")
    given = Options(NAME, options, OPTIONS)
    words = given.integer("words", 128, 1, MOST_WORDS)
    across = given.choice("borders", "keep", ("keep", "ignore")) == "ignore"
    folder = RawFolder(raw)
    texts = [(source, "train", lines) for source, lines in _texts(folder, tree)]
    small = next((name for name in SMALL if folder.find(tree + name)), None)
    if small:
        # Small example sets have nothing else: there it is what one trains on.
        texts.append((Path(small).stem, "val" if texts else "train", _plain(folder, tree + small)))
    if not texts:
        raise DataError(
            f"{raw / tree}: expected {' or '.join(WHOLE)}, or {' and '.join(HALVES)}, or folders "
            f"{' and '.join(TABLES)} of Parquet files, or {SMALL[0]}"
        )
    for source, split, lines in texts:
        for passage in passages(lines, words, across=across):
            yield _sample(passage, source, split)


def _sample(passage: Passage, source: str, split: str) -> Sample:
    meta = {"source": source, "lines": len(passage.lines), "words": passage.words}
    # Line ends stay: published readers put the end of text behind each line.
    return Sample(passage.key, {}, ("\n".join(passage.lines),), "", split, meta)


def _texts(folder: RawFolder, tree: str) -> Iterator[tuple[str, Iterator[Line]]]:
    """Yield name and lines of each part, from the first form that is there."""
    whole = next((name for name in WHOLE if folder.find(tree + name)), None)
    if whole:
        yield Path(whole).stem, _plain(folder, tree + whole)
        return
    halves = [name for name in HALVES if folder.find(tree + name)]
    for name in halves:
        yield Path(name).stem, _plain(folder, tree + name)
    if not halves:
        for name in TABLES:
            files = sorted((folder.root / tree / name).rglob("*.parquet"))
            if files:
                yield name, _tables(name, files)


def _plain(folder: RawFolder, place: str) -> Iterator[Line]:
    """Yield the lines of a file; blank ones end documents."""
    stem = clean_key(Path(place).stem)
    with folder.text(place) as stream:
        for number, text in enumerate(stream, 1):
            cleaned = clean_line(text)
            # A line of control letters only is damage, not the end of a document.
            if cleaned or not text.strip():
                yield Line(f"{stem}-{number:09d}", cleaned)


def _tables(name: str, files: list[Path]) -> Iterator[Line]:
    """Yield the sentences of articles (each ends a document), or rows that are sentences already."""
    number = 0
    for path in files:
        for row in _rows(path):
            text, article = row["text"], row.get("id")
            if not isinstance(text, str):
                text = ""
            if article is None:
                number += 1
                yield Line(f"{name}-{number:09d}", clean_line(text))
                continue
            found = (s for part in text.splitlines() for s in sentences(clean_line(part)))
            for at, sentence in enumerate(found, 1):
                yield Line(clean_key(f"{name}-{article}-{at}"), sentence)
            yield Line("", "")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise DataError(f"{path}: expected a column 'text', got {', '.join(names)}")
            for batch in file.iter_batches(1000, columns=[n for n in ("id", "text") if n in names]):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); get the file again") from error


CARD = Card(
    name=NAME,
    title="Books and Wikipedia, plain text",
    description=(
        "Running English text for the prediction of masked words: Wikipedia and BookCorpus, one sentence (or "
        "short passage) a line, blank lines between documents. A sample is a passage: consecutive lines of a "
        "document until there are enough words. Read are the file `bookswiki.doc`, or its halves, or the "
        "tables of the datasets `wikipedia` and `bookcorpus` as hubs offer them."
    ),
    licence=(
        "Wikipedia: CC BY-SA (attribution, share alike), as recalled; BookCorpus has no clear licence. "
        "Nothing of either ships with Diptych; check the terms before you use or pass on the text."
    ),
    convert=convert,
    homepage="https://dumps.wikimedia.org",
    citation="Zhu et al., Aligning Books and Movies, 2015 (BookCorpus); Wikimedia contributors (Wikipedia)",
    sources=(
        Source(
            "bookswiki.doc",
            "your own copy: `wiki.doc` and `bc1g.doc`, one behind the other; as tables: the datasets "
            "`wikipedia` (columns id, url, title, text) and `bookcorpus` (text) of a hub, in folders",
            alternatives=(WHOLE[1], *HALVES, *TABLES, *SMALL),
        ),
        Source(
            SMALL[0], "the first lines of the text, for validation", required=False, alternatives=SMALL[1:]
        ),
    ),
    splits={
        "train": Split("split = 'train'", note="at least 104 million lines in published runs"),
        "val": Split("split = 'val'", note="`bookswiki-1000.doc`: 1000 lines; alone it is `train`"),
    },
    options=OPTIONS,
    media="text",
    layouts={
        "uniperceiver": Layout(
            f"Uni-Perceiver's data page; `--raw` is DATA_PATH with `{TREE}bookswiki.doc`",
            convert_uniperceiver,
            (
                Source(
                    f"{TREE}bookswiki.doc",
                    "Uni-Perceiver's data page",
                    alternatives=tuple(TREE + name for name in (WHOLE[1], *HALVES, *TABLES, *SMALL)),
                ),
            ),
        )
    },
    target_set="vocabulary",
    prepared=(
        "Key: file and line number of the first line (`bookswiki-000000017`; with `-0`, `-1`, ... where one "
        "line makes several passages), or `wikipedia-<article>-<sentence>`. No media. One caption: the lines "
        "with line ends between them. Columns: `source`, `lines`, `words`."
    ),
    oddities=(
        "Blank lines end documents, wherever they are. A BOM, CR at line ends, NUL and other control letters "
        "go; bytes that are no UTF-8 become U+FFFD. Lines of punctuation stay. A line of more than four "
        "passages' worth of words is cut into passages. Published readers take every line as the start of a "
        "sample and go on over borders of documents and from the end to the beginning; here passages do not "
        "overlap. Articles of Wikipedia are cut into sentences by a simple rule."
    ),
    miniature="diptych.data.miniatures.text:make_bookswiki",
)
