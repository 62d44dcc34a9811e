"""Raw files -> shards, index and `dataset.json`; killed at any moment, the next run goes on where it was."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diptych
from diptych.data.cards import CARDS
from diptych.data.cards.base import Card, Layout
from diptych.data.chunks import Chunk, Tally, cut
from diptych.data.columns import file_hash, member_names, merge_parts
from diptych.data.engines import Engine, Task, make_engine
from diptych.data.expected import count_splits, describe_split, stats_of_sources, warnings_of
from diptych.data.files import WriteError, written_whole
from diptych.data.index import FORMAT, INDEX, INFO, WORK, ShardDataset
from diptych.data.places import PLACES, write_places
from diptych.data.shards import shard_name
from diptych.data.workspace import Workspace, what_differs
from diptych.data.writing import ChunkJob, write_chunk
from diptych.errors import DataError, UsageError
from diptych.resolve import look_up, nearest

Report = Callable[[int, int | None], None]
"""Called with how many samples are done (or left out), and their number, if the card tells it."""


@dataclass(frozen=True)
class Summary:
    """What a preparation did."""

    out: Path
    samples: int
    shards: int
    splits: dict[str, int]
    problems: dict[str, int]
    """Cause -> samples."""
    examples: dict[str, list[str]]
    """Cause -> the first few, "key: detail"."""
    warnings: list[str]
    """Splits that do not have the expected number of samples or texts."""
    already: bool = False
    """The dataset was there; nothing was done."""
    resumed: int = 0
    """Shards that an earlier, interrupted run had finished."""


def load_card(name: str) -> Card:
    """Return the dataset card `name`.

    Raises:
        UsageError: there is none; the message lists the cards and the nearest name.
    """
    card: Card = look_up(CARDS, name, "dataset card")
    return card


def prepare(
    card: Card,
    raw: Path | None,
    out: Path,
    *,
    options: Mapping[str, str] | None = None,
    shard_size: int | None = None,
    force: bool = False,
    progress: Report | None = None,
    layout: str = "",
    workers: int | None = 1,
    engine: str = "local",
) -> Summary:
    """Write the dataset of `card` into the folder `out`.

    An interrupted preparation with the same arguments goes on with the shards that are not finished; the
    result is byte for byte that of an undisturbed one, with any engine and number of workers. A finished one
    is left alone.

    Args:
        card: the dataset.
        raw: folder with the raw files, or None where the card needs none.
        out: folder to fill, made if missing.
        options: the card's own.
        shard_size: samples in a shard; default: the card's.
        force: delete another dataset (or preparation) in `out` and begin anew.
        progress: told how many samples are done.
        layout: another form of the raw files (`Card.layouts`).
        workers: shards that are written at a time; None: one for each core.
        engine: `local` or `ray`, see `make_engine`.

    Raises:
        UsageError: unknown options, layout or engine, no raw folder.
        DataError: missing raw files, `out` holds something else, defects of the card, a full disk, worker
            processes that die again and again.
    """
    if engine != "local":
        # Processes elsewhere have other working folders.
        raw, out = raw and raw.absolute(), out.absolute()
    shard_size = card.shard_size if shard_size is None else shard_size
    form = _form(card, layout)
    wanted = _identity(card, layout, raw, dict(options or {}), shard_size)
    runner = make_engine(engine, workers)
    done = None if force else _finished(out, wanted)
    if done is not None:
        return done
    facts = {} if form.facts is None else form.facts(raw, wanted["options"])
    with Workspace(out, wanted, force=force) as work:
        drawn = form.convert(raw, wanted["options"])
        chunks = cut(drawn, shard_size, home="" if raw is None else str(raw))
        try:
            resumed = _write_shards(card, chunks, work, runner, progress)
            info = _conclude(card, wanted, work, facts)
        except WriteError as error:
            finished = sum(part.shard is not None for part in work.load().values())
            raise DataError(
                f"{error}; the {finished} finished shards stay: make room, then run the same command again"
            ) from error
    return replace(_summary(out, info), resumed=resumed)


def make_miniature(card: Card, out: Path, layout: str = "") -> None:
    """Fill the folder `out` with tiny raw files in the form that `card` reads.

    Raises:
        UsageError: the card has none, or no such layout.
        DataError: there is something in `out`.
    """
    _form(card, layout)
    if not card.miniature:
        raise UsageError(f"card '{card.name}' has no tiny raw files")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not empty; choose a new folder for the tiny raw files")
    out.mkdir(parents=True, exist_ok=True)
    make: Callable[[Path, str], None] = look_up({card.name: card.miniature}, card.name, "miniature")
    make(out, layout)


def _form(card: Card, layout: str) -> Layout:
    """Return how the raw files are read."""
    if not layout:
        return Layout("", card.convert, card.sources, card.facts)
    if layout not in card.layouts:
        known = ", ".join(card.layouts) or "none but its own"
        raise UsageError(
            f"card '{card.name}' has no layout '{layout}'{nearest(layout, card.layouts)} (layouts: {known})"
        )
    return card.layouts[layout]


def _identity(
    card: Card, layout: str, raw: Path | None, options: dict[str, str], shard_size: int
) -> dict[str, Any]:
    """Check the arguments and return what makes a preparation the same one."""
    for name in options:
        if name not in card.options:
            known = ", ".join(card.options) or "none"
            raise UsageError(
                f"card '{card.name}' has no option '{name}'{nearest(name, card.options)} (options: {known})"
            )
    if shard_size < 1:
        raise UsageError(f"shard size: expected at least 1 sample a shard, got {shard_size}")
    if raw is None:
        if card.needs_raw or layout:
            raise UsageError(
                f"card '{card.name}' needs its raw files: give their folder with --raw "
                f"(`diptych data show {card.name}` says where to get them)"
            )
    elif not raw.is_dir():
        what = "is a file: give the folder that it lies in" if raw.exists() else "does not exist"
        raise UsageError(f"--raw {raw} {what}")
    return {
        "card": card.name,
        "card_version": card.version,
        "options": dict(sorted(options.items())),
        "layout": layout,
        "shard_size": shard_size,
        "raw": raw is not None,
        "sources": {} if raw is None else stats_of_sources(card, _form(card, layout).sources, raw, options),
    }


def _finished(out: Path, wanted: Mapping[str, Any]) -> Summary | None:
    if not (out / INFO).is_file():
        return None
    info = ShardDataset.open(out).info
    difference = what_differs(info, wanted)
    if difference:
        raise DataError(
            f"{out} holds another dataset: {difference}; choose another folder, or replace it with --force"
        )
    # A kill between dataset.json and the end of the preparation leaves this.
    shutil.rmtree(out / WORK, ignore_errors=True)
    return replace(_summary(out, info), already=True)


def _write_shards(
    card: Card,
    chunks: Iterator[Chunk],
    work: Workspace,
    engine: Engine,
    progress: Report | None,
) -> int:
    """Write the chunks that are not finished; return how many shards were."""
    steps = _Steps(card, work, progress)
    for _ in engine.run(write_chunk, steps.tasks(chunks), steps.told):
        pass  # what a chunk has become is said in its part
    work.drop_from(steps.chunks)
    return steps.resumed


class _Steps:
    """What is to be done, and how much of it is."""

    def __init__(self, card: Card, work: Workspace, progress: Report | None) -> None:
        self._name, self._work, self._progress = card.name, work, progress
        self._total = next(
            (s.expected for s in card.splits.values() if s.where.strip().lower() == "true"), None
        )
        self._settled, self._under_way = 0, dict[str, int]()
        self._sizes: dict[str, int] = {}
        self.chunks = self.resumed = 0

    def tasks(self, chunks: Iterator[Chunk]) -> Iterator[Task]:
        """Yield what is to be written."""
        finished = self._work.load()
        for chunk in chunks:
            self.chunks += 1
            known = finished.pop(chunk.number, None)
            if known is None or known.fingerprint != chunk.fingerprint:
                name = shard_name(self._name, chunk.number)
                self._sizes[name] = chunk.drawn
                yield Task(name, ChunkJob(chunk, self._work.out, self._name, self._work.run), chunk.drawn)
                continue
            self.resumed += known.shard is not None
            self._settled += chunk.drawn
            self._show()

    def told(self, name: str, done: int) -> None:
        """Note how far a task is."""
        if done < self._sizes[name]:
            self._under_way[name] = done
        else:
            self._under_way.pop(name, None)
            self._settled += self._sizes.pop(name)
        self._show()

    def _show(self) -> None:
        if self._progress:
            self._progress(self._settled + sum(self._under_way.values()), self._total)


def _conclude(
    card: Card, wanted: Mapping[str, Any], work: Workspace, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the index, then `dataset.json`; return its content."""
    tally, shards, parts = Tally(), list[dict[str, Any]](), list[Path]()
    for part in work.load().values():
        tally.add(part.problems, part.examples)
        if part.shard is not None:
            shards.append(part.shard)
            parts.append(part.path)
    if not parts:
        found = ", ".join(f"{cause} {n}" for cause, n in tally.problems.items()) or "none came"
        example = next((f", for example {named[0]}" for named in tally.examples.values()), "")
        raise DataError(
            f"card '{card.name}' gave no usable sample ({found}){example}; "
            f"`diptych data show {card.name}` says what the raw files look like"
        )
    index = work.out / INDEX
    digest = merge_parts(parts, index)
    members = member_names(index)
    with written_whole(work.out / PLACES) as partial:
        write_places(index, digest, [shard["file"] for shard in shards], members, partial)
    info: dict[str, Any] = {
        "name": card.name,
        "format": FORMAT,
        "card": card.name,
        "card_version": card.version,
        "title": card.title,
        "licence": card.licence,
        "created_by": f"diptych {diptych.__version__}",
        "samples": sum(shard["samples"] for shard in shards),
        "shards": shards,
        "shard_size": wanted["shard_size"],
        "index": {"sha256": digest},
        "places": {"sha256": file_hash(work.out / PLACES)},
        "members": members,
        "splits": {name: describe_split(split) for name, split in card.splits.items()},
        "options": wanted["options"],
        "layout": wanted["layout"],
        "raw": wanted["raw"],
        "facts": dict(facts),
        "problems": dict(sorted(tally.problems.items())),
        "examples": dict(sorted(tally.examples.items())),
    }
    dataset = ShardDataset(work.out, index, info)
    counts = count_splits(dataset, [name for name, split in info["splits"].items() if "texts" in split])
    for name, split in info["splits"].items():
        split.update(counts[name])
    with written_whole(work.out / INFO) as partial:
        partial.write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return info


def _summary(out: Path, info: Mapping[str, Any]) -> Summary:
    splits = info["splits"]
    return Summary(
        out=out,
        samples=info["samples"],
        shards=len(info["shards"]),
        splits={name: split["count"] for name, split in splits.items()},
        problems=dict(info["problems"]),
        examples={cause: list(named) for cause, named in info["examples"].items()},
        warnings=[line for name, split in splits.items() for line in warnings_of(name, split)],
    )
