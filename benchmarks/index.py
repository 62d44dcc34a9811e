"""Opening 100 million samples: disk and resident memory a sample, time to open and to the first batch.

Run with `python benchmarks/index.py [--samples N] [--json FILE]`. Writes an index of N rows over one small
real shard into a temporary folder and removes it afterwards: about 80 bytes a sample on the disk, 8 GB and
ten minutes at the default N. Every figure comes from a process of its own that starts with a cold table: the
system is told to drop its pages first. Resident memory is the growth of RSS since the imports.

The peer `parquet-in-memory` loads the same columns from the same index into Arrow and numpy arrays and
looks samples up there, as Diptych itself did before the table was mapped; it runs at `--peer-samples`, beside
ours at the same size. webdataset has no index and cannot be compared: it resumes by reading what came before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reporting import Row, add_json, report, versus

PEER = "parquet-in-memory"
REAL = 250
"""Samples of the real shard; row i of the index is its sample i % REAL."""
SHARD = 5000
CHUNK = 1_000_000
"""Rows written at a time: a multiple of SHARD and of REAL."""
BATCH = 64
LIMITS = "goals at 100 million samples: open and first batch under 2 s, under 16 bytes resident a sample"


def write_dataset(folder: Path, samples: int) -> None:
    """Write a dataset of `samples` rows whose shards are all links to one real shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from diptych.data.columns import file_hash, make_part
    from diptych.data.files import written_whole
    from diptych.data.places import PLACES, write_places
    from diptych.data.shards import ShardWriter

    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    with ShardWriter(folder, "real") as writer:
        rows += [writer.write(sample) for sample in photographs(REAL)]
    shards = [f"bench-{number:06d}.tar" for number in range(-(-samples // SHARD))]
    for name in shards:
        (folder / name).symlink_to("real-000000.tar")
    base = make_part("", rows).drop_columns(["key", "shard", "split", "match_id"])
    index = folder / "index.parquet"
    repeated = base.take(pa.array([i % REAL for i in range(CHUNK)]))
    schema = chunk(repeated, 0, 1, shards, samples).schema
    with pq.ParquetWriter(index, schema, compression="zstd") as parquet:
        for start in range(0, samples, CHUNK):
            stop = min(start + CHUNK, samples)
            parquet.write_table(chunk(repeated, start, stop, shards, samples), row_group_size=SHARD)
            progress(f"index.parquet: {stop:,} of {samples:,} rows")
    members = ["jpg", "json", "txt"]
    digest = file_hash(index)
    progress("places.bin")
    with written_whole(folder / PLACES) as partial:
        write_places(index, digest, shards, members, partial)
    size = (folder / "real-000000.tar").stat().st_size
    hashes = file_hash(folder / "real-000000.tar")
    info = {
        "name": "bench",
        "format": 1,
        "samples": samples,
        "shards": [
            {"file": name, "samples": min(SHARD, samples - n * SHARD), "bytes": size, "sha256": hashes}
            for n, name in enumerate(shards)
        ],
        "members": members,
        "index": {"sha256": digest},
        "places": {"sha256": file_hash(folder / PLACES)},
        "splits": {"train": {"where": "split = 'train'"}, "val": {"where": "split = 'val'"}},
    }
    (folder / "dataset.json").write_text(json.dumps(info))


def chunk(repeated: Any, start: int, stop: int, shards: list[str], samples: int) -> Any:
    """Return rows start to stop of the index: keys of their own, a hundredth of them in the split `val`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = np.arange(start, stop)
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0")
    keys = pc.binary_join_element_wise(pa.scalar("img"), digits, "")
    names = pa.array(shards[start // SHARD : -(-stop // SHARD)])
    shard = pa.DictionaryArray.from_arrays(
        pa.array((numbers // SHARD - start // SHARD).astype(np.int32)), names
    )
    split = pa.DictionaryArray.from_arrays(
        pa.array((numbers >= samples - samples // 100).astype(np.int32)), pa.array(["train", "val"])
    )
    table = repeated.slice(0, stop - start)
    fixed = {
        "key": keys,
        "shard": shard.cast(pa.string()),
        "split": split.cast(pa.string()),
        "match_id": keys,
    }
    for name, values in fixed.items():
        table = table.append_column(pa.field(name, pa.string(), nullable=False), values)
    return table


def photographs(count: int) -> Iterator[Any]:
    """Yield samples with smooth random pictures of 640 x 480 and captions."""
    import io

    import numpy as np
    from PIL import Image

    from diptych.data.sample import Sample

    random = np.random.default_rng(1)
    for i in range(count):
        small = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        caption = f"photograph {i} of {' and '.join(random.choice(['dogs', 'cats', 'hills', 'a street'], 2))}"
        yield Sample(f"real{i}", {"jpg": file.getvalue()}, (caption,))


def measure(folder: Path, what: str) -> dict[str, float]:
    """Open the dataset and make a batch; return seconds and bytes. Runs in a process of its own."""
    import torch

    from diptych.data.config import DataConfig, ImageConfig, LoaderConfig
    from diptych.data.index import ShardDataset
    from diptych.data.loader import Loader
    from diptych.data.text import Tokenizer

    torch.set_num_threads(1)
    tokenizer = Tokenizer.train(["photograph of dogs and cats and hills and a street"], 100)
    config = DataConfig(
        path=str(folder),
        image=ImageConfig(size=224, resize="random_crop"),
        loader=LoaderConfig(batch_size=BATCH, workers=0, on_error="raise"),
    )
    # The code of decoding and resizing, and its buffers, are no matter of the index.
    warm = Loader(ShardDataset.open(folder.parent / "warm").select(), config, tokenizer, seed=1)
    next(iter(warm))
    before, start = resident(), time.perf_counter()
    selection = ShardDataset.open(folder).select("train" if what == "split" else None)
    opened = time.perf_counter()
    loader = Loader(selection, config, tokenizer, seed=7)
    if what == "resume":
        state = loader.state_dict()
        epoch = len(selection) // BATCH
        loader.load_state_dict({**state, "next_batch": epoch * 3 + epoch // 7})
    batches = iter(loader)
    first = next(batches)
    done = time.perf_counter()
    assert len(first.keys) == BATCH
    grown = resident() - before
    for _ in range(20):
        next(batches)
    figures = {"open": opened - start, "first": done - start, "resident": grown}
    return {**figures, "later": resident() - before, "samples": len(selection)}


def measure_peer(folder: Path) -> dict[str, float]:
    """Do what needs an index in memory: load it, look up one batch of samples, read their bytes."""
    import numpy as np
    import pyarrow.parquet as pq

    before, start = resident(), time.perf_counter()
    names = ["key", "shard", "split", "sample_offset", "sample_size", "crc32"]
    members = ["jpg", "json", "txt"]
    names += [f"{name}_{what}" for name in members for what in ("offset", "size")]
    table = pq.read_table(folder / "index.parquet", columns=names, read_dictionary=["shard", "split"])
    numbers = [np.asarray(table.column(name).to_numpy()) for name in names[3:]]
    table = table.select(names[:3])
    opened = time.perf_counter()
    for row in np.random.default_rng(7).integers(0, len(table), BATCH):
        path = folder / table.column("shard")[row].as_py()
        with path.open("rb") as file:
            file.seek(int(numbers[0][row]))
            assert len(file.read(int(numbers[1][row]))) == numbers[1][row]
    done = time.perf_counter()
    return {"open": opened - start, "first": done - start, "resident": resident() - before}


def resident() -> int:
    """Return the bytes of this process that are in memory, mapped files included."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def in_a_process(folder: Path, what: str) -> dict[str, float]:
    """Measure in a fresh interpreter, with the dataset's tables out of the system's cache."""
    # Writing the index is no part of reading it.
    os.sync()
    for name in ("places.bin", "index.parquet"):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, __file__, "--measure", what, str(folder)]
    start = time.perf_counter()
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    whole = time.perf_counter() - start
    return {**json.loads(found.stdout.splitlines()[-1]), "process": whole}


def run(folder: Path, samples: int, peer_samples: int) -> list[Row]:
    """Write the indexes, measure, return the rows."""
    write_dataset(folder / "warm", REAL)
    write_dataset(folder / "small", peer_samples)
    peer, small = (in_a_process(folder / "small", what) for what in ("peer", "start"))
    write_dataset(folder / "large", samples)
    large = folder / "large"
    places, parquet = ((large / name).stat().st_size for name in ("places.bin", "index.parquet"))
    rows = [
        Row("samples of the index", samples, "samples"),
        Row("places.bin on disk", round(places / samples, 2), "B/sample"),
        Row("index.parquet on disk", round(parquet / samples, 2), "B/sample"),
    ]
    n = f"{peer_samples / 1e6:g} M samples"
    rows += [
        versus(f"open, {n}", small["open"], peer["open"], "s", PEER, less=True),
        versus(f"open and first batch, {n}", small["first"], peer["first"], "s", PEER, less=True),
    ]
    theirs = peer["resident"] / peer_samples
    titles = {
        "start": "start",
        "resume": "resume anywhere",
        "split": "split, first time",
        "again": "split, kept",
    }
    for what, title in titles.items():
        progress(title)
        found = in_a_process(large, "split" if what == "again" else what)
        rows.append(Row(f"open, {title}", round(found["open"], 3), "s"))
        rows.append(Row(f"open and first batch, {title}", round(found["first"], 3), "s"))
        for name, title2 in (("resident", "first batch"), ("later", "21 batches")):
            ours = max(found[name], 1) / samples
            rows.append(versus(f"resident, {title}, {title2}", ours, theirs, "B/sample", PEER, less=True))
    return rows


def progress(text: str) -> None:
    """Say on a terminal what is being done."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def main() -> None:
    """Measure, print the table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000_000)
    parser.add_argument("--peer-samples", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    add_json(parser)
    options = parser.parse_args()
    if options.measure:
        what, folder = options.measure
        print(json.dumps(measure_peer(Path(folder)) if what == "peer" else measure(Path(folder), what)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="diptych-index-") as folder:
        report(run(Path(folder), options.samples, options.peer_samples), options.json)
    print(LIMITS)


if __name__ == "__main__":
    main()
