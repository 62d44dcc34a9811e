"""What a card expects: raw files that must be there, and how many samples and texts come out."""

import glob
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.data.cards.base import Card, Source, Split
from diptych.data.cards.options import names_of
from diptych.data.index import ShardDataset
from diptych.data.members import COUNTED
from diptych.data.raw.folder import INSIDE
from diptych.errors import DataError

_LOOKED_AT = 100
"""Folders below the raw folder that are looked at for files that are not in it."""
ROUGHLY = 0.05
"""How far counts may be from those that are known roughly only, as a part of them."""


def stats_of_sources(
    card: Card, sources: Sequence[Source], raw: Path, options: Mapping[str, str]
) -> dict[str, list[int]]:
    """Return number, bytes and newest modification time (ns) of the raw files that card and options name.

    A single file gives its size and time only. Of folders nothing is looked at but that they are there.

    Raises:
        DataError: a file that the card needs or an option names is missing.
    """
    missing, stats = [], {}
    for source in sources:
        places = (source.path, *source.alternatives)
        found = {place: list(_matches(raw, place)) for place in places}
        if source.required and not any(found.values()):
            missing.append(" or ".join(places))
        stats.update({place: _stat(paths) for place, paths in found.items() if paths})
    if missing:
        raise DataError(
            f"{raw} lacks {', '.join(missing)} of card '{card.name}' "
            f"(`diptych data show {card.name}` says where to get them){_hint(card, sources, raw)}"
        )
    for option in card.annotations:
        for name in names_of(options.get(option, "")):
            if not (raw / name).is_file():
                raise DataError(f"-o {option}={options[option]}: {raw / name} is not there, or is no file")
            stats[name] = _stat([raw / name])
    return {place: stat for place, stat in stats.items() if stat}


def _hint(card: Card, sources: Sequence[Source], raw: Path) -> str:
    """Say what would do, where the files are next to the folder or there in another form."""
    folders = [raw.resolve().parent, *sorted(path for path in raw.iterdir() if path.is_dir())[:_LOOKED_AT]]
    for folder in folders:
        if _whole(sources, folder):
            return f"; they are in {folder}: give that with --raw"
    forms = {"": card.sources} | {name: layout.sources for name, layout in card.layouts.items()}
    for name, other in forms.items():
        if other != sources and _whole(other, raw):
            form = f"with --layout {name}" if name else "without --layout"
            return f"; the files of another layout are there: try again {form}"
    return ""


def _whole(sources: Sequence[Source], raw: Path) -> bool:
    """Tell whether all required files are there, if any are required."""
    required = [(source.path, *source.alternatives) for source in sources if source.required]
    return bool(required) and all(any(any(_matches(raw, p)) for p in places) for places in required)


def _matches(raw: Path, place: str) -> Iterator[Path]:
    """Yield the files and folders of a place; of one inside an archive, the archive."""
    place = place.partition(INSIDE)[0]
    if "*" in place:
        pattern = "*".join(glob.escape(piece) for piece in place.split("*"))
        yield from sorted(raw.glob(pattern))
    elif (raw / place).exists():
        yield raw / place


def _stat(paths: Sequence[Path]) -> list[int]:
    stats = [path.stat() for path in paths if path.is_file()]
    if not stats:
        return []
    size, newest = sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)
    return [size, newest] if len(stats) == 1 else [len(stats), size, newest]


def describe_split(split: Split) -> dict[str, Any]:
    """Return what `dataset.json` says of a split before it is counted."""
    said: dict[str, Any] = {"where": split.where, "expected": split.expected, "note": split.note}
    if split.texts is not None:
        said["texts"] = split.texts
    if split.about:
        said["about"] = True
    return said


def count_splits(dataset: ShardDataset, with_texts: Collection[str]) -> dict[str, dict[str, int]]:
    """Return for each split the number of samples (`count`), and of captions, questions and statements.

    Args:
        dataset: the dataset.
        with_texts: splits whose texts are to be counted (`count_texts`).
    """
    columns = ["captions", *(column for column in COUNTED if column in dataset.columns)]
    total = " + ".join(f'coalesce("{column}", 0)' for column in columns)
    asked, wanted = list[tuple[str, str]](), list[str]()
    for name, split in dataset.splits.items():
        asked.append((name, "count"))
        wanted.append(f"count(*) filter (where ({split.where}))")
        if name in with_texts:
            asked.append((name, "count_texts"))
            wanted.append(f"coalesce(sum({total}) filter (where ({split.where})), 0)::bigint")
    if not wanted:
        return {}
    # One question for all: each costs a connection.
    found = dataset.query(
        f"select {', '.join(f'{sql} as n{i}' for i, sql in enumerate(wanted))} from samples"
    )
    counts: dict[str, dict[str, int]] = {name: {} for name in dataset.splits}
    for number, (name, what) in enumerate(asked):
        counts[name][what] = int(found.column(f"n{number}")[0].as_py())
    return counts


def warnings_of(name: str, split: Mapping[str, Any]) -> list[str]:
    """Say where the counts of a split of `dataset.json` differ from what was expected."""
    about = bool(split.get("about"))
    pairs = [("samples", split.get("expected"), split["count"])]
    if "count_texts" in split:
        pairs.append(("texts", split.get("texts"), split["count_texts"]))
    return [
        f"split '{name}' has {count} {what}, {'about ' if about else ''}{expected} were expected"
        for what, expected, count in pairs
        if expected is not None and abs(count - expected) > (ROUGHLY * expected if about else 0)
    ]
