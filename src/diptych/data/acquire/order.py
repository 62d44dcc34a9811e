"""What a fetch is asked for and what it tells in the end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.acquire.options import ListOptions, NetOptions, PictureOptions
from diptych.data.acquire.video_options import PageOptions, VideoOptions

Report = Callable[[int, int | None], None]
"""Called with the rows done so far, and their number if it is known."""


@dataclass(frozen=True)
class Order:
    """What is to be fetched; see `fetch`, which has checked it."""

    source: str
    out: Path
    form: str
    name: str
    lists: ListOptions
    net: NetOptions
    pictures: PictureOptions
    videos: VideoOptions | None
    pages: PageOptions
    shard_size: int
    workers: int | None
    retry_failed: bool
    only: tuple[str, ...]
    force: bool
    progress: Report | None


@dataclass(frozen=True)
class FetchSummary:
    """What a fetch did."""

    out: Path
    rows: int
    fetched: int
    shards: int
    causes: dict[str, int]
    """Of rows that failed -> how many."""
    examples: dict[str, list[str]]
    """Cause -> the first few, "key: detail"."""
    hosts: list[dict[str, Any]] = field(repr=False)
    seconds: float
    resumed: int = 0
    """Chunks that an earlier run had finished."""
    already: bool = False
    """Nothing was left to do."""
