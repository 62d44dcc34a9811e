"""Raw files -> shards, index and `dataset.json`; killed at any moment, the next run goes on where it was."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diptych
from diptych.data.cards import CARDS
from diptych.data.cards.base import Card, LeftOut, Unread
from diptych.data.cards.options import names_of
from diptych.data.columns import file_hash, member_names, merge_parts
from diptych.data.files import WriteError, written_whole
from diptych.data.index import FORMAT, INDEX, INFO, WORK, ShardDataset
from diptych.data.members import BadSampleError, clean_key, is_key
from diptych.data.places import PLACES, write_places
from diptych.data.raw.refs import MediumError
from diptych.data.sample import Sample
from diptych.data.shards import FinishedShard, ShardWriter
from diptych.data.workspace import Finished, Workspace, what_differs
from diptych.errors import DataError, UsageError
from diptych.resolve import look_up, nearest

EXAMPLES = 5
"""Samples named for each kind of problem."""

Report = Callable[[int, int | None], None]
"""Called with the samples drawn from the card so far and their number, if the card tells it."""


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
    """Splits that do not have the expected number of samples."""
    already: bool = False
    """The dataset was there; nothing was done."""
    resumed: int = 0
    """Shards that an earlier, interrupted run had finished."""


@dataclass
class _Tally:
    """What happened to the samples drawn so far; kept with every shard for a resumed run to count alike."""

    drawn: int = 0
    last_key: str = ""
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def count(self, cause: str, key: str, detail: str) -> None:
        self.problems[cause] += 1
        named = self.examples.setdefault(cause, [])
        if len(named) < EXAMPLES:
            named.append(f"{key}: {detail}")


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
    shard_size: int = 5000,
    force: bool = False,
    progress: Report | None = None,
) -> Summary:
    """Write the dataset of `card` into the folder `out`.

    An interrupted preparation with the same arguments goes on after its last finished shard; the result is
    byte for byte that of an undisturbed one. A finished one is left alone.

    Args:
        card: the dataset.
        raw: folder with the raw files, or None where the card needs none.
        out: folder to fill, made if missing.
        options: the card's own.
        shard_size: samples in a shard.
        force: delete another dataset (or preparation) in `out` and begin anew.
        progress: told how many samples were drawn.

    Raises:
        UsageError: unknown options, no raw folder.
        DataError: missing raw files, `out` holds something else, defects of the card, a full disk.
    """
    wanted = _identity(card, raw, dict(options or {}), shard_size)
    done = None if force else _finished(out, wanted)
    if done is not None:
        return done
    facts = {} if card.facts is None else card.facts(raw, wanted["options"])
    with Workspace(out, wanted, force=force) as work:
        finished = work.load()
        try:
            tally = _convert(card, raw, wanted, work, finished, progress)
            info = _conclude(card, wanted, work, tally, facts)
        except WriteError as error:
            raise DataError(
                f"{error}; the {len(work.load())} finished shards stay: "
                "make room, then run the same command again"
            ) from error
    return replace(_summary(out, info), resumed=len(finished))


def _identity(card: Card, raw: Path | None, options: dict[str, str], shard_size: int) -> dict[str, Any]:
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
        if card.needs_raw:
            raise UsageError(
                f"card '{card.name}' needs its raw files: give their folder with --raw "
                f"(`diptych data show {card.name}` says where to get them)"
            )
    elif not raw.is_dir():
        raise UsageError(f"raw folder {raw} does not exist or is no folder")
    return {
        "card": card.name,
        "card_version": card.version,
        "options": dict(sorted(options.items())),
        "shard_size": shard_size,
        "raw": raw is not None,
        "sources": _sources(card, raw, options) if raw is not None else {},
    }


def _sources(card: Card, raw: Path, options: Mapping[str, str]) -> dict[str, list[int]]:
    """Return size and modification time (ns) of the raw files that the card and its options name."""
    present = {source.path: raw / source.path for source in card.sources if (raw / source.path).exists()}
    missing = [s.path for s in card.sources if s.required and s.path not in present]
    if missing:
        raise DataError(
            f"{raw} lacks {', '.join(missing)} of card '{card.name}' "
            f"(`diptych data show {card.name}` says where to get them)"
        )
    for option in card.annotations:
        for name in names_of(options.get(option, "")):
            present[name] = raw / name
            if not present[name].is_file():
                raise DataError(f"-o {option}={options[option]}: {present[name]} is not there, or is no file")
    stats = {name: path.stat() for name, path in present.items() if path.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


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


def _restore(finished: list[Finished]) -> _Tally:
    if not finished:
        return _Tally()
    last = finished[-1].tally
    return _Tally(last["drawn"], last["last_key"], Counter(last["problems"]), dict(last["examples"]))


def _convert(
    card: Card,
    raw: Path | None,
    wanted: Mapping[str, Any],
    work: Workspace,
    finished: list[Finished],
    progress: Report | None,
) -> _Tally:
    """Draw the samples from the card and write those that the finished shards do not hold."""
    tally = _restore(finished)
    total = next((s.expected for s in card.splits.values() if s.where.strip().lower() == "true"), None)
    skip, expected_key = tally.drawn, tally.last_key

    def store(shard: FinishedShard) -> None:
        work.store(shard, vars(tally))

    writer = ShardWriter(
        work.out,
        card.name,
        wanted["shard_size"],
        first=len(finished),
        keys=work.keys(finished),
        on_shard=store,
    )
    with writer:
        for number, sample in enumerate(card.convert(raw, wanted["options"])):
            key = sample.sample.key if isinstance(sample, Unread) else sample.key
            if number >= skip:
                _write(writer, sample, tally)
                # Only now: a shard that was finished on the way does not hold this sample.
                tally.drawn, tally.last_key = number + 1, key
            elif number == skip - 1 and key != expected_key:
                raise DataError(
                    f"cannot go on in {work.out}: sample {number + 1} was '{expected_key}', "
                    f"now '{key}'; the raw files changed or the card does not repeat its order; "
                    "begin anew with --force"
                )
            if progress:
                progress(number + 1, total)
    return tally


def _write(writer: ShardWriter, sample: Sample | Unread | LeftOut, tally: _Tally) -> None:
    if isinstance(sample, LeftOut):
        tally.count(sample.cause, sample.key, sample.detail)
        return
    if isinstance(sample, Unread):
        try:
            media = {name: ref.read() for name, ref in sample.refs.items()}
        except MediumError as error:
            tally.count(error.cause, sample.sample.key, error.detail)
            return
        sample = replace(sample.sample, media=media)
    key, captions = sample.key, tuple(c for c in sample.captions if c.strip())
    cleaned = replace(sample, captions=captions, key=key if is_key(key) else clean_key(key))
    try:
        writer.write(cleaned)
    except BadSampleError as error:
        tally.count(error.cause, key, error.detail)
        return
    # Counted after the write: a shard finished on the way stores the tally without this sample.
    if cleaned.key != key:
        tally.count("rewritten key", key, f"stored as {cleaned.key}")
    if len(captions) < len(sample.captions):
        tally.count(
            "empty caption", key, f"{len(sample.captions) - len(captions)} of {len(sample.captions)} left out"
        )


def _conclude(
    card: Card, wanted: Mapping[str, Any], work: Workspace, tally: _Tally, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the index, then `dataset.json`; return its content."""
    parts = work.load()
    if not parts:
        found = ", ".join(f"{cause} {n}" for cause, n in tally.problems.items()) or "none came"
        raise DataError(f"card '{card.name}' gave no usable sample ({found})")
    index = work.out / INDEX
    digest = merge_parts([part.path for part in parts], index)
    shards = [part.shard for part in parts]
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
        "splits": {
            name: {"where": s.where, "expected": s.expected, "note": s.note}
            for name, s in card.splits.items()
        },
        "options": wanted["options"],
        "raw": wanted["raw"],
        "facts": dict(facts),
        "problems": dict(sorted(tally.problems.items())),
        "examples": dict(sorted(tally.examples.items())),
    }
    dataset = ShardDataset(work.out, index, info)
    for name, split in info["splits"].items():
        split["count"] = len(dataset.select(name))
    with written_whole(work.out / INFO) as partial:
        partial.write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return info


def _summary(out: Path, info: Mapping[str, Any]) -> Summary:
    splits = info["splits"]
    warnings = [
        f"split '{name}' has {split['count']} samples, {split['expected']} were expected"
        for name, split in splits.items()
        if split.get("expected") is not None and split["expected"] != split["count"]
    ]
    return Summary(
        out=out,
        samples=info["samples"],
        shards=len(info["shards"]),
        splits={name: split["count"] for name, split in splits.items()},
        problems=dict(info["problems"]),
        examples={cause: list(named) for cause, named in info["examples"].items()},
        warnings=warnings,
    )
