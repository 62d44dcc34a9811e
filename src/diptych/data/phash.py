"""Hashes of what pictures show: the difference hash of `acquire.pictures`, kept beside the dataset.

64 bits, each telling whether one of 8 x 8 places is darker than the one to its right. They see brightness, no
colours. Videos are hashed by the frame in their middle.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from diptych.data.engines import Task, Tell, make_engine
from diptych.data.index import ShardDataset
from diptych.data.members import is_picture, is_video
from diptych.errors import DataError

if TYPE_CHECKING:
    from diptych.data.selection import Selection

COLUMN = "dhash"
"""Column of the index that holds hashes already (`diptych data fetch` makes it)."""
LEAST_BITS = 8
"""Hashes with fewer ones, or fewer zeros, are those of plain areas and smooth gradients: they match anything
of that kind and are compared with nothing."""
_DRAFT = (72, 64)
"""Least width and height at which a JPEG is decoded: eight times the places that are compared."""

Report = Callable[[int, int], None]
"""Told how many samples are done, and of how many."""


@dataclass(frozen=True)
class Hashes:
    """Hashes of the pictures of selected samples. E hashes."""

    owners: NDArray[np.int64]
    """[E] the number of the sample in the selection, ascending; several where it has several pictures."""
    hashes: NDArray[np.uint64]
    """[E]"""
    unreadable: int
    """Pictures and videos that cannot be decoded."""


def hashes_of(selection: "Selection", *, workers: int | None = 1, progress: Report | None = None) -> Hashes:
    """Return the hashes of samples: those of the index, else those kept from an earlier call, else new ones.

    New ones are kept in `.diptych` beside the dataset, shard by shard, so an interrupted call goes on.

    Raises:
        DataError: a damaged index, or no place for the hashes.
        UsageError: `workers` is below 1.
    """
    dataset = selection.dataset
    if has_column(dataset):
        column = dataset.take([COLUMN], selection.rows).column(0)
        there = np.flatnonzero(column.is_valid().to_numpy())
        values = column.drop_null().cast(pa.int64()).to_numpy().astype(np.int64)
        return Hashes(there, values.view(np.uint64), len(column) - len(there))
    selected = selection.rows
    pieces, unreadable = [], 0
    for rows, table in _tables(dataset, selected, workers, progress):
        at = rows[table.column("place").to_numpy()]
        number = np.searchsorted(selected, at)
        number[number == len(selected)] = 0
        wanted = selected[number] == at if len(selected) else np.zeros(len(at), dtype=bool)
        valid = table.column("hash").is_valid().to_numpy()
        hashes = table.column("hash").fill_null(0).to_numpy().astype(np.int64).view(np.uint64)
        pieces.append((number[wanted & valid], hashes[wanted & valid]))
        unreadable += int((wanted & ~valid).sum())
    owners = np.concatenate([np.empty(0, dtype=np.int64), *(one for one, _ in pieces)])
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *(two for _, two in pieces)])
    order = np.argsort(owners, kind="stable")
    return Hashes(owners[order], hashes[order], unreadable)


def has_column(dataset: ShardDataset) -> bool:
    """Tell whether the index holds hashes."""
    return COLUMN in dataset.columns and pa.types.is_integer(pq.read_schema(dataset.index).field(COLUMN).type)


def kept(dataset: ShardDataset) -> bool:
    """Tell whether all hashes are there without decoding anything."""
    homes = dataset.homes()
    names = [_name(shard) for shard in dataset.info["shards"]]
    return has_column(dataset) or all(any((home / name).is_file() for home in homes) for name in names)


def tells_much(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which hashes are those of pictures with some structure."""
    ones = np.bitwise_count(hashes)
    return (ones >= LEAST_BITS) & (ones <= 64 - LEAST_BITS)


def picture_hash(data: bytes) -> int:
    """Return the difference hash of an encoded picture, as a signed number.

    Raises:
        Exception: of almost any kind, where the picture is damaged.
    """
    from diptych.data.acquire.pictures import as_srgb, difference_hash

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image: Image.Image = Image.open(io.BytesIO(data))
        if image.format == "JPEG":
            image.draft("L", _DRAFT)
        return difference_hash(as_srgb(image).convert("L"))


def video_hash(data: bytes) -> int:
    """Return the difference hash of the frame in the middle of a video, as a signed number.

    Raises:
        MediumError: it cannot be decoded.
    """
    from diptych.data.acquire.pictures import difference_hash
    from diptych.data.stills import middle_frame

    return difference_hash(middle_frame(data).convert("L"))


@dataclass(frozen=True)
class _Job:
    dataset: ShardDataset
    rows: NDArray[np.int64]
    """Rows of the index that lie in the shard."""


def _tables(
    dataset: ShardDataset, selected: NDArray[np.int64], workers: int | None, progress: Report | None
) -> "list[tuple[NDArray[np.int64], pa.Table]]":
    """Return rows and hashes of each shard in which something is selected."""
    numbers = dataset.places.shard_numbers(np.arange(dataset.size, dtype=np.int64))
    wanted = np.unique(numbers[selected]).tolist()
    rows = {dataset.shards[n]: np.flatnonzero(numbers == n) for n in wanted}
    names = {str(shard["file"]): _name(shard) for shard in dataset.info["shards"]}
    found: dict[str, pa.Table] = {}
    for shard in rows:
        known = next(
            (home / names[shard] for home in dataset.homes() if (home / names[shard]).is_file()), None
        )
        if known is not None:
            found[shard] = pq.read_table(known)
    todo = [Task(shard, _Job(dataset, mine), len(mine)) for shard, mine in rows.items() if shard not in found]
    counted = _Counted(progress, sum(len(mine) for mine in rows.values()))
    counted.add(sum(len(rows[shard]) for shard in found))
    for shard, table in make_engine("local", workers).run(hash_shard, todo, counted.told):

        def make(out: Path, table: pa.Table = table) -> None:
            pq.write_table(table, out, compression="zstd")

        dataset.derived(names[shard], make)
        found[shard] = table
    return [(rows[shard], found[shard]) for shard in rows]


class _Counted:
    def __init__(self, progress: Report | None, total: int) -> None:
        self._progress, self._total, self._before = progress, total, 0
        self._done: dict[str, int] = {}

    def add(self, count: int) -> None:
        """Count samples whose hashes are there."""
        self._before += count

    def told(self, name: str, done: int) -> None:
        """Note how far a shard is."""
        self._done[name] = done
        if self._progress:
            self._progress(self._before + sum(self._done.values()), self._total)


def _name(shard: Any) -> str:
    # By the content of the shard: it holds for any index that names it.
    return f"{COLUMN}-{shard['sha256'][:24]}.parquet"


def hash_shard(job: _Job, tell: Tell) -> pa.Table:
    """Return `place` (number of the sample in the shard) and `hash` of each picture; for an engine."""
    from diptych.data.selection import Selection

    samples = Selection(job.dataset, job.rows)
    places: list[int] = []
    hashes: list[int | None] = []
    for i in range(len(samples)):
        tell(i, samples.place(i).key)
        try:
            media = samples.read(i).media
        except DataError:
            # `diptych data verify` says what is wrong with it.
            places.append(i)
            hashes.append(None)
            continue
        for name in sorted(media):
            if is_picture(name) or is_video(name):
                places.append(i)
                hashes.append(_hash(name, media[name]))
    return pa.table({"place": pa.array(places, pa.int32()), "hash": pa.array(hashes, pa.int64())})


def _hash(name: str, data: bytes) -> int | None:
    try:
        return picture_hash(data) if is_picture(name) else video_hash(data)
    except Exception:  # damaged bytes raise almost anything: OSError, SyntaxError, struct.error, ...
        return None
