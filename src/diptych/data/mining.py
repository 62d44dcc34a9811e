"""Counting the words of a corpus by their kind: the first stage of `diptych words mine`.

A corpus is a prepared dataset (or a split of it), or a file with a caption a line (`.txt`) or a JSON object
with `caption` a line (`.jsonl`). It is cut into pieces, a shard or some megabytes of lines each; what is
counted of a piece lies on the disk as soon as it is done, and a run that is killed goes on behind it.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.data.engines import Task, Tell, make_engine
from diptych.data.files import written_whole
from diptych.data.index import ShardDataset
from diptych.data.members import SIDECARS, unpack
from diptych.data.taggers import COUNTED, identity, load_tagger
from diptych.errors import DataError, UsageError

PARTS = "parts"
PIECE = 2 * 2**20
"""Bytes of a piece of a text file, as far as lines allow: some 30,000 captions, what a kill costs at most."""
_ROWS = 1000
VERSION = 2
"""Of the parts; another number makes them anew."""

Counted = dict[str, Counter[str]]
"""Kind in capitals -> word as it stands -> number."""


@dataclass(frozen=True)
class Piece:
    """A part of a corpus, and where its counts go."""

    source: str
    shard: str
    """Of a dataset; empty for a text file."""
    split: str
    """Of the samples of a shard; empty: all."""
    start: int
    end: int
    """Bytes of a text file."""
    tagger: str
    out: str


@dataclass(frozen=True)
class Corpus:
    """What was counted."""

    counts: Counted
    texts: int
    skipped: int
    """Lines and samples whose JSON has no caption or cannot be parsed."""


def count_words(
    sources: Sequence[str],
    tagger: str,
    out: Path,
    *,
    workers: int | None = None,
    piece: int = PIECE,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Count words by kind, and keep what is done of it in `out`/parts.

    Args:
        sources: prepared datasets (`DIR` or `DIR:SPLIT`), `.txt` and `.jsonl` files.
        tagger: see `load_tagger`.
        out: folder, made if needed.
        workers: pieces at a time; None: one for each core.
        piece: bytes of a piece of a text file.
        progress: called with the pieces that are done and their number.

    Raises:
        UsageError: no source, one of an unknown kind, or a tagger that is not installed.
        DataError: a source cannot be read.
    """
    load_tagger(tagger)  # what is wrong with it is told once, before anything is begun
    if not sources:
        raise UsageError("no source: give prepared datasets, .txt or .jsonl files")
    pieces = [found for source in sources for found in _pieces(source, tagger, out, piece)]
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    missing = [found for found in pieces if not Path(found.out).is_file()]
    done = len(pieces) - len(missing)
    if progress:
        progress(done, len(pieces))
    tasks = (Task(f"{p.source} {p.shard or p.start}", p, 1) for p in missing)
    for _ in make_engine("local", workers).run(count_piece, tasks):
        done += 1
        if progress:
            progress(done, len(pieces))
    return _together(pieces)


def _pieces(text: str, tagger: str, out: Path, size: int) -> Iterator[Piece]:
    named = identity(tagger)

    def place(*what: object) -> str:
        name = hashlib.sha256(json.dumps([VERSION, named, *map(str, what)]).encode()).hexdigest()[:24]
        return str(out / PARTS / f"{name}.json")

    path, colon, split = text.rpartition(":")
    if not colon or Path(text).exists():
        path, split = text, ""
    source = Path(path)
    if source.suffix in (".txt", ".jsonl"):
        try:
            facts = source.stat()
        except OSError as error:
            raise DataError(f"{source}: cannot be read ({error.strerror})") from error
        for start in range(0, facts.st_size, size):
            end = min(start + size, facts.st_size)
            where = place(source.resolve(), facts.st_size, facts.st_mtime_ns, start, end)
            yield Piece(str(source), "", "", start, end, tagger, where)
        return
    if not source.exists():
        raise DataError(f"{source}: does not exist")
    if source.is_file() and source.suffix != ".tar":
        raise UsageError(
            f"{source}: expected a prepared dataset, a .txt file (a caption a line) or a .jsonl file"
        )
    dataset = ShardDataset.open(source)
    dataset.select(split or None)  # whether there is such a split
    for shard in dataset.info["shards"]:
        file = str(shard["file"])
        where = place(shard.get("sha256") or file, shard["bytes"], split)
        yield Piece(str(source), file, split, 0, 0, tagger, where)


def count_piece(piece: Piece, tell: Tell) -> None:
    """Count a piece; a function for an engine."""
    counts: Counted = {kind: Counter() for kind in COUNTED}
    seen = Counter[str]()
    texts = _shard_texts(piece, seen) if piece.shard else _lines(piece, seen)

    def told() -> Iterator[str]:
        for number, text in enumerate(texts):
            if number % 10_000 == 0:
                tell(0, f"text {number}")
            seen["texts"] += 1
            yield text

    for (word, kind), number in Counter(load_tagger(piece.tagger)(told())).items():
        counts[kind][word] += number
    content = {"texts": seen["texts"], "skipped": seen["skipped"], "counts": counts}
    path = Path(piece.out)
    with written_whole(path, str(os.getpid())) as partial:
        partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _lines(piece: Piece, seen: Counter[str]) -> Iterator[str]:
    """Yield the captions of lines that begin in the piece."""
    is_json = piece.source.endswith(".jsonl")
    with Path(piece.source).open("rb") as file:
        if piece.start:
            file.seek(piece.start - 1)
            file.readline()  # the rest of a line that began before
        while file.tell() < piece.end and (line := file.readline()):
            text = _caption(line) if is_json else line.decode("utf-8", "replace").strip()
            if text:
                yield text
            elif line.strip():
                seen["skipped"] += 1


def _caption(line: bytes) -> str:
    try:
        content = json.loads(line)
    except ValueError:
        return ""
    text = content.get("caption") if isinstance(content, dict) else None
    return text.strip() if isinstance(text, str) else ""


def _shard_texts(piece: Piece, seen: Counter[str]) -> Iterator[str]:
    dataset = ShardDataset.open(Path(piece.source))
    where = "shard = '" + piece.shard.replace("'", "''") + "'"
    rows = dataset.select(piece.split or None, where).rows
    names = [name for name in dataset.extensions if name in SIDECARS]
    columns = ["key", *(f"{name}_{what}" for name in names for what in ("offset", "size"))]
    for batch in dataset.take(columns, rows).to_batches(max_chunksize=_ROWS):
        for row in batch.to_pylist():
            members = {
                name: dataset.read_bytes(piece.shard, row[f"{name}_offset"], row[f"{name}_size"])
                for name in names
                if row[f"{name}_offset"] is not None
            }
            try:
                captions = unpack(row["key"], members).captions
            except ValueError:  # JSON of somebody else's that cannot be parsed
                seen["skipped"] += 1
                continue
            yield from (caption for caption in captions if caption)


def _together(pieces: Sequence[Piece]) -> Corpus:
    counts: Counted = {kind: Counter() for kind in COUNTED}
    texts = skipped = 0
    for piece in pieces:
        content = json.loads(Path(piece.out).read_text(encoding="utf-8"))
        texts, skipped = texts + content["texts"], skipped + content["skipped"]
        for kind in COUNTED:
            counts[kind].update(content["counts"][kind])
    # Sorted by word: whichever piece came first, the file is the same.
    return Corpus({kind: Counter(dict(sorted(c.items()))) for kind, c in counts.items()}, texts, skipped)
