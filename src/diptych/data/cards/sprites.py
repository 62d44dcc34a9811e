"""The emoji pictures as the cards use them: concepts with one picture in each art style."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

from diptych.errors import DataError

STYLES = ("noto", "twemoji", "fluent-3d", "fluent-flat")
"""Art styles, in the order in which a concept's pictures are listed."""

LANGUAGES = ("de", "es", "fr", "ja", "zh")
"""Languages of the translated names."""

SHIPPED_SIZE = 64
"""Side of the shipped pictures in pixels."""

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Concept:
    """One emoji: what it shows, in words, and its picture in every style."""

    hexcode: str
    """Code points as emojibase writes them, `1F600` or `0023-FE0F-20E3`."""
    name: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    translations: Mapping[str, str]
    """Language code -> name."""
    sprites: Mapping[str, bytes]
    """Style -> WebP with transparency."""
    held_out: bool = False
    """Belongs to the tenth of every group that the `unseen_concepts` split tests."""


def held_out(groups: Mapping[str, str]) -> set[str]:
    """Choose the concepts that are held out.

    Args:
        groups: hexcode -> group.

    Returns:
        A tenth (rounded) of each group: the members whose SHA-256 of the hexcode is smallest.
    """
    members: dict[str, list[str]] = {}
    for hexcode, group in groups.items():
        members.setdefault(group, []).append(hexcode)
    chosen: set[str] = set()
    for hexcodes in members.values():
        ordered = sorted(hexcodes, key=lambda code: hashlib.sha256(code.encode()).digest())
        chosen.update(ordered[: round(HELD_OUT_SHARE * len(ordered))])
    return chosen


@cache
def shipped() -> tuple[Concept, ...]:
    """Return the concepts that ship with the package, pictures of 64 x 64 pixels, in their fixed order."""
    with as_file(files("diptych.data.builtin") / "emoji.parquet") as path:
        return read_parquet(path)


def write_parquet(concepts: Iterable[Concept], path: Path) -> None:
    """Write concepts to one Parquet file, one row a concept and one binary column a style."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = list(concepts)
    columns: dict[str, pa.Array] = {
        "hexcode": pa.array([c.hexcode for c in rows], pa.string()),
        "name": pa.array([c.name for c in rows], pa.string()),
        "tags": pa.array([list(c.tags) for c in rows], pa.list_(pa.string())),
        "group": pa.array([c.group for c in rows], pa.string()),
        "subgroup": pa.array([c.subgroup for c in rows], pa.string()),
        "held_out": pa.array([c.held_out for c in rows], pa.bool_()),
    }
    for language in LANGUAGES:
        columns[f"name_{language}"] = pa.array([c.translations[language] for c in rows], pa.string())
    for style in STYLES:
        columns[style] = pa.array([c.sprites[style] for c in rows], pa.binary())
    pq.write_table(pa.table(columns), path, compression="zstd", write_statistics=False)


def read_parquet(path: Path) -> tuple[Concept, ...]:
    """Read what `write_parquet` wrote.

    Raises:
        DataError: the file is missing, unreadable or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: Sequence[dict[str, object]] = pq.read_table(path).to_pylist()
        return tuple(_concept(row) for row in rows)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{path}: not the emoji table expected ({error}); install Diptych again") from error


def _concept(row: Mapping[str, object]) -> Concept:
    tags = row["tags"]
    return Concept(
        hexcode=str(row["hexcode"]),
        name=str(row["name"]),
        tags=tuple(str(tag) for tag in tags) if isinstance(tags, list) else (),
        group=str(row["group"]),
        subgroup=str(row["subgroup"]),
        translations={language: str(row[f"name_{language}"]) for language in LANGUAGES},
        sprites={style: _bytes(row[style]) for style in STYLES},
        held_out=bool(row["held_out"]),
    )


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise KeyError("a picture is missing")
    return value
