"""What workers are given. Importing it is cheap: what workers need is imported where they work."""

from dataclasses import dataclass, field
from pathlib import Path

from diptych.data.acquire.chunks import FetchChunk
from diptych.data.acquire.options import NetOptions, PictureOptions
from diptych.data.acquire.video_options import PageOptions, VideoOptions
from diptych.data.engines import Tell


@dataclass(frozen=True)
class FetchJob:
    """What is the same for all chunks of a job."""

    out: Path
    """Folder of the dataset, shared by all workers."""
    name: str
    """Start of the shards' names."""
    run: str
    """Names the run; what an earlier one left alive stops when it finds another."""
    net: NetOptions
    pictures: PictureOptions
    workers: int
    """How many share the limits for hosts."""
    videos: VideoOptions | None = None
    """None: the job is about pictures."""
    pages: PageOptions = field(default_factory=PageOptions)


@dataclass(frozen=True)
class Group:
    """Chunks for one worker; the next one begins while the last rows of one are waited for."""

    job: FetchJob
    chunks: tuple[FetchChunk, ...]


def fetch_group(group: Group, tell: Tell) -> None:
    """Fetch the rows of some chunks and write their shards, see `working.work`."""
    from diptych.data.acquire.working import work

    work(group, tell)
