"""`diptych data report`: a prepared dataset at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.index import ShardDataset
from diptych.data.members import is_video
from diptych.errors import DiptychError
from diptych.report.data_quality import (
    Cause,
    DuplicateView,
    FetchView,
    SplitRow,
    TextView,
    causes,
    duplicate_view,
    fetch_view,
    split_rows,
    text_view,
)
from diptych.report.pages import render, write_page
from diptych.report.pictures import sample_uri
from diptych.report.plots import histogram

GRID = 24
TOP_VALUES = 8
FEW = 60
TAIL, FAR = 0.995, 3
"""Part of the values that a histogram shows where the largest one is so many times larger."""
INTERNAL = {"key", "shard", "sha256", "crc32", "match_id"}
"""Columns that identify rather than describe."""


@dataclass(frozen=True)
class Tile:
    """One picture of the grid."""

    key: str
    uri: str
    caption: str


@dataclass(frozen=True)
class Column:
    """A column of the index: a histogram for numbers, the most frequent values for the rest."""

    name: str
    summary: str
    svg: str = ""
    values: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class DataView:
    """What the page shows of a dataset."""

    name: str
    card: str
    samples: int
    shards: int
    size: int
    """Bytes of all shards."""
    splits: list[tuple[str, int, str]]
    """(name, samples, SQL condition)"""
    problems: dict[str, int]
    columns: list[Column]
    tiles: list[Tile]
    moving: bool = False
    """There are videos."""


@dataclass(frozen=True)
class Quality:
    """What the page of a dataset says besides."""

    title: str
    licence: str
    made_by: str
    facts: list[tuple[str, str]]
    """Options and other short facts."""
    splits: list[SplitRow]
    causes: list[Cause]
    fetch: FetchView | None
    texts: TextView | None
    duplicates: DuplicateView | None

    @property
    def counts_texts(self) -> bool:
        """Tell whether texts were counted in any split."""
        return any(split.texts is not None for split in self.splits)

    @property
    def warnings(self) -> list[str]:
        """Return where counts are not as expected."""
        return [line for split in self.splits for line in split.wrong]


def write_data_report(dataset: Path, out: Path) -> Path:
    """Write a page about a prepared dataset and return its path.

    Raises:
        DataError: `dataset` is no dataset.
    """
    opened = ShardDataset.open(dataset)
    view, quality = describe(opened), inspect(opened)
    page = render(
        "data.html.j2", title=f"Dataset {view.name}", data=view, quality=quality, size=_bytes(view.size)
    )
    return write_page(page, out)


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g}\u00a0{unit}"
        count /= 1000
    return f"{count:.3g}\u00a0TB"


def inspect(dataset: ShardDataset) -> Quality:
    """Collect what the page says of counts, failures, texts and duplicates."""
    info = dataset.info
    options = {name: value for name, value in (info.get("options") or {}).items() if value not in ("", None)}
    facts = [
        (f"-o {name}" if info.get("card") != "fetch" else name, str(value)) for name, value in options.items()
    ]
    if info.get("layout"):
        facts.append(("--layout", str(info["layout"])))
    return Quality(
        title=str(info.get("title") or ""),
        licence=str(info.get("licence") or ""),
        made_by=str(info.get("created_by") or ""),
        facts=facts,
        splits=split_rows(dataset),
        causes=causes(info.get("problems") or {}, info.get("examples") or {}),
        fetch=fetch_view(dataset),
        texts=text_view(dataset),
        duplicates=duplicate_view(dataset),
    )


def describe(dataset: ShardDataset, split: str = "") -> DataView:
    """Collect counts, columns and a grid of pictures, evenly spaced over the dataset or one split of it."""
    selection = dataset.select(split or None)
    count = len(selection)
    shown = min(GRID, count)
    picks = [round(i * (count - 1) / max(shown - 1, 1)) for i in range(shown)]
    shards = dataset.info.get("shards", [])
    return DataView(
        name=dataset.name,
        card=str(dataset.info.get("card") or "plain WebDataset"),
        samples=dataset.size,
        shards=len(shards),
        size=sum(int(shard.get("bytes", 0)) for shard in shards),
        splits=[(name, len(dataset.select(name)), value.where) for name, value in dataset.splits.items()],
        problems={str(k): int(v) for k, v in (dataset.info.get("problems") or {}).items()},
        columns=_columns(dataset),
        tiles=[tile for tile in (_tile(selection, i) for i in picks) if tile],
        moving=any(map(is_video, dataset.extensions)),
    )


def _tile(selection: Any, i: int) -> Tile | None:
    try:
        sample = selection.read(i)
        uri = sample_uri(sample)
        return Tile(sample.key, uri, sample.captions[0] if sample.captions else "") if uri else None
    except (DiptychError, OSError, ValueError):
        return None  # `diptych data verify` names damaged samples; the page shows what can be shown


def _columns(dataset: ShardDataset) -> list[Column]:
    described = dataset.query("describe samples").to_pylist()
    out = []
    for row in described:
        name, kind = str(row["column_name"]), str(row["column_type"]).upper()
        if name in INTERNAL or name.endswith(("_offset", "_size")):
            continue
        column = (
            _numbers(dataset, name)
            if kind.startswith(
                (
                    "INT",
                    "BIGINT",
                    "SMALLINT",
                    "UINT",
                    "UBIGINT",
                    "DOUBLE",
                    "FLOAT",
                    "REAL",
                    "HUGEINT",
                    "TINYINT",
                )
            )
            else _texts(dataset, name)
        )
        if column:
            out.append(column)
    return out


def _numbers(dataset: ShardDataset, name: str) -> Column | None:
    quoted = _quote(name)
    row = dataset.query(
        f"select count({quoted}) as n, min({quoted}) as low, max({quoted}) as high, avg({quoted}) as mean "
        "from samples"
    ).to_pylist()[0]
    if not row["n"]:
        return None
    if row["low"] == row["high"]:
        return Column(name, f"{row['low']:g} everywhere")
    table = dataset.query(
        f"select {quoted} as v from samples where {quoted} is not null "
        "using sample 100000 rows (reservoir, 0)"
    )
    values: Sequence[float] = [float(v) for v in table.column("v").to_pylist()]
    summary = f"{row['low']:g} to {row['high']:g}, mean {row['mean']:.4g}"
    # A few far outliers would leave one bar of everything else.
    far = float(np.quantile(values, TAIL))
    if row["high"] > FAR * far > 0:
        values = [value for value in values if value <= far]
        summary += f"; shown up to {far:.4g}, which {1 - TAIL:.1%} exceed"
    return Column(name, summary, histogram(values, x_label=name))


def _texts(dataset: ShardDataset, name: str) -> Column | None:
    quoted = _quote(name)
    distinct = dataset.query(f"select count(distinct {quoted}) as n from samples").to_pylist()[0]["n"]
    if not distinct:
        return None
    rows = dataset.query(
        f"select cast({quoted} as varchar) as v, count(*) as n from samples where {quoted} is not null "
        f"group by 1 order by n desc, v limit {TOP_VALUES}"
    ).to_pylist()
    shown = [(str(row["v"]), int(row["n"])) for row in rows] if distinct <= FEW else []
    return Column(
        name,
        f"{distinct} different values" if distinct > 1 else f"'{rows[0]['v']}' everywhere",
        values=shown if distinct > 1 else [],
    )


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
