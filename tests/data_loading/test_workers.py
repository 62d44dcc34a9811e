import gc
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diptych.data import loader as loader_module
from diptych.data import workers as workers_module
from diptych.data.batch import Batch
from diptych.data.config import DataConfig
from diptych.data.decode import Pixels
from diptych.data.index import Selection, ShardDataset
from diptych.data.loader import Loader
from diptych.data.order import Order
from diptych.data.plan import Drawn, PositionPlan
from diptych.data.prefetch import DevicePrefetcher
from diptych.data.reader import Bad, Piece, SampleReader
from diptych.data.text import Tokenizer
from diptych.data.workers import HANDED_OUT, SMALLEST_PIECE, Pool, WorkerDiedError

SHAPE = (2, 3, 3)


def drawn(count: int, start: int = 0) -> Drawn:
    positions = np.arange(start, start + count, dtype=np.int64)
    return Drawn(positions * 0, positions * 7 % 50, positions)


def toy_read(samples: Drawn, out: Pixels | None) -> Piece:
    """Fill pictures with their position; samples of row 21 are bad, position 1000 is a defect."""
    piece = Piece()
    for i, (row, position) in enumerate(zip(samples.rows.tolist(), samples.positions.tolist(), strict=True)):
        if position == 1000:
            raise ZeroDivisionError("a defect")
        if row == 21:
            piece.bad.append(Bad("bad", f"sample {position}"))
            continue
        if out is not None:
            out[len(piece.keys)] = position % 256
        piece.kept.append(i)
        piece.keys.append(str(position))
    return piece


@pytest.fixture
def pool() -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def start(workers: int = 2, **options: Any) -> Pool:
        options = {"slots": 3, "capacity": 40, "shape": SHAPE, **options}
        made.append(Pool(options.pop("read", toy_read), workers, **options))
        return made[-1]

    yield start
    for one in made:
        one.close()


def made_by(pool: Pool, samples: Drawn) -> tuple[Piece, Pixels | None]:
    ticket = pool.submit(samples)
    assert ticket is not None
    pool.wait(ticket)
    return pool.collect(ticket)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [1, SMALLEST_PIECE, 40])
def test_pieces_become_one(pool: Callable[..., Pool], workers: int, count: int) -> None:
    """As if one had read everything: pictures without gaps, samples in order."""
    some = pool(workers)
    for start in (0, 3, 50):
        samples = drawn(count, start)
        wanted = toy_read(samples, None)
        piece, images = made_by(some, samples)
        assert piece == wanted
        assert images is not None
        assert images[:, 1, 2, 0].tolist() == [int(key) for key in wanted.keys]
        assert (images == images[:, :1, :1, :1]).all()


def test_without_pictures(pool: Callable[..., Pool]) -> None:
    piece, images = made_by(pool(shape=None), drawn(20))
    assert piece == toy_read(drawn(20), None)
    assert images is None


def test_as_many_tickets_as_slots(pool: Callable[..., Pool]) -> None:
    some = pool(slots=2)
    tickets = [some.submit(drawn(8, i)) for i in range(3)]
    assert tickets[2] is None
    assert some.submit(drawn(41)) is None
    assert tickets[0] is not None
    some.wait(tickets[0])
    some.collect(tickets[0])
    assert some.submit(drawn(41)) is None
    assert some.submit(drawn(40)) is not None


def test_memory_comes_back_when_nothing_shows_it(pool: Callable[..., Pool]) -> None:
    some = pool(slots=1)
    places = set()
    for i in range(12):
        piece, images = made_by(some, drawn(8, i))
        assert images is not None
        view = torch.from_numpy(images).permute(0, 3, 1, 2)[1:]
        del images
        assert (view[0] == int(piece.keys[1])).all()  # views of views still hold it
        places.add(view.data_ptr())
        del view
    assert len(places) <= 2


def test_what_is_kept_never_changes(pool: Callable[..., Pool]) -> None:
    some = pool(slots=2)
    kept = [made_by(some, drawn(8, 30 + i))[1] for i in range(10)]
    for i, images in enumerate(kept):
        assert images is not None
        assert images[:, 0, 0, 0].tolist() == [int(k) for k in toy_read(drawn(8, 30 + i), None).keys]
    # Those beyond the first few are copies.
    assert sum(not images.flags.owndata for images in kept if images is not None) >= HANDED_OUT


def test_a_defect_keeps_its_traceback(pool: Callable[..., Pool]) -> None:
    some = pool()
    ticket = some.submit(drawn(5, 998))
    assert ticket is not None
    with pytest.raises(
        RuntimeError, match=r"(?s)a loader process failed.*toy_read.*ZeroDivisionError: a def"
    ):
        some.wait(ticket)


def test_a_worker_that_dies_is_noticed(pool: Callable[..., Pool]) -> None:
    def deadly(samples: Drawn, out: Pixels | None) -> Piece:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    some = pool(1, read=deadly)
    ticket = some.submit(drawn(5))
    assert ticket is not None
    with pytest.raises(WorkerDiedError, match="workers=0 to see the reason"):
        some.wait(ticket)


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@pytest.mark.slow
def test_a_forgotten_pool_ends_its_workers() -> None:
    before = children()
    some = Pool(toy_read, 2, slots=1, capacity=4, shape=SHAPE)
    assert len(children() - before) == 2
    del some
    gc.collect()
    assert children() == before


def test_idle_workers_end_although_those_of_a_later_pool_hold_their_pipe(
    pool: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_LOOK_AFTER", 10**6)  # nothing but an order wakes them
    monkeypatch.setattr(workers_module, "_PATIENCE", 20.0)
    killed: list[int] = []
    first = pool(2)
    pool(2)
    pids = list(first._pids)
    kill = os.kill
    monkeypatch.setattr(os, "kill", lambda pid, number: (killed.append(pid), kill(pid, number)))
    first.close()
    assert killed == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            kill(pid, 0)


def test_a_forked_process_leaves_the_workers_alone(pool: Callable[..., Pool]) -> None:
    some = pool()
    pid = os.fork()
    if pid == 0:
        some.close()
        os._exit(0)
    os.waitpid(pid, 0)
    assert made_by(some, drawn(8))[0] == toy_read(drawn(8), None)


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "from diptych.data.reader import Piece\n"
        "from diptych.data.workers import Pool\n"
        "pools = [Pool(lambda a, b: Piece(), 2, slots=1, capacity=4, shape=None) for _ in range(2)]\n"
        "print(*pools[0]._pids, *pools[1]._pids, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 4
    for _ in range(1000):
        if not any(running(pid) for pid in pids):
            break
        time.sleep(0.01)
    assert not any(running(pid) for pid in pids)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# The loader over the pool.


def encoded(colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (12, 10), colour).save(out, "JPEG", quality=95)
    return out.getvalue()


def dataset(folder: Path, name: str, count: int, *, pictures: bool = True) -> Selection:
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for i in range(count):
            members = {"jpg": encoded((i * 9 % 256, 200, 40))} if pictures else {}
            for extension, content in {**members, "txt": f"{name} number {i}".encode()}.items():
                info = tarfile.TarInfo(f"{name}{i:02d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return ShardDataset.open(folder / f"{name}.tar").select()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Selection]:
    folder = tmp_path_factory.mktemp("sources")
    return [dataset(folder, "a", 20), dataset(folder, "b", 12), dataset(folder, "c", 9, pictures=False)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a b c number 0 1 2 3 4 5 6 7 8 9"] * 3, 60)


class RoundRobin:
    """Batches of different sizes with samples of all sources in turn."""

    batches_per_epoch = 4.0

    def __init__(self, selections: list[Selection], sizes: tuple[int, ...], *, packs: bool = False) -> None:
        self.sizes, self.lengths, self.packs = sizes, [len(s) for s in selections], packs
        self.started: dict[str, Any] = {}

    def batch(self, number: int, rank: int = 0, world: int = 1) -> Drawn:
        count = self.sizes[number % len(self.sizes)]
        positions = np.arange(number * 100, number * 100 + count, dtype=np.int64)
        chosen = positions % len(self.lengths)
        rows = positions // len(self.lengths) % np.array(self.lengths)[chosen]
        packs = np.arange(count, dtype=np.int64) // 3 if self.packs else None
        return Drawn(chosen, rows, positions, packs)

    def identity(self) -> dict[str, Any]:
        return {"sizes": list(self.sizes)}

    def anchor(self, number: int) -> dict[str, Any]:
        return {"at": number}

    def start(self, anchor: dict[str, Any]) -> None:
        self.started = anchor


def settings(workers: int = 0, **loader: Any) -> DataConfig:
    return DataConfig.model_validate(
        {
            "image": {"size": 8, "resize": "random_crop", "flip": 0.5},
            "text": {"max_tokens": 12},
            "sources": {name: {"path": name} for name in "abc"},
            "loader": {"batch_size": 16, "on_error": "raise", "workers": workers, **loader},
        }
    )


def equal(a: Batch, b: Batch) -> bool:
    names = ("positions", "match_ids", "images", "text_ids", "text_mask", "sources")
    return (a.keys, a.texts, a.labels) == (b.keys, b.texts, b.labels) and all(
        torch.equal(getattr(a, n), getattr(b, n)) for n in names
    )


def take(loader: Loader, count: int) -> list[Batch]:
    batches = list(islice(loader, count))
    loader.close()
    return batches


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(24,), (10, 24, 3), (4, 60, 5)], ids=str)
def test_several_sources_and_sizes(
    sources: list[Selection], tokenizer: Tokenizer, sizes: tuple[int, ...]
) -> None:
    """Sizes may vary; a batch too large for the workers is read by the loader."""
    plan = RoundRobin(sources, sizes)
    alone = take(Loader(sources, settings(), tokenizer, seed=3, plan=plan), 7)
    together = take(Loader(sources, settings(2), tokenizer, seed=3, plan=plan), 7)
    assert all(map(equal, alone, together))
    for number, batch in enumerate(alone):
        asked = plan.batch(number)
        assert len(batch) == len(asked.rows)
        assert batch.sources is not None
        assert batch.sources.tolist() == asked.sources.tolist()
        assert batch.labels == ["abc"[s] for s in asked.sources]
        assert batch.keys == [f"{'abc'[s]}{r:02d}" for s, r in zip(asked.sources, asked.rows, strict=True)]
        assert batch.images is not None
        # Samples of the source of texts show black.
        assert (batch.images[batch.sources == 2] == 0).all()
        assert (batch.images[batch.sources != 2].amax((1, 2, 3)) > 100).all()


def test_one_source_has_no_numbers(sources: list[Selection], tokenizer: Tokenizer) -> None:
    config = settings().with_(sources={})
    (batch,) = take(Loader(sources[0], config, tokenizer, seed=3), 1)
    assert batch.sources is None
    assert batch.labels is None
    text = take(Loader([sources[2]], config, tokenizer, seed=3), 1)[0]
    assert text.images is None
    assert len(text) == 16


def test_packed_texts(sources: list[Selection], tokenizer: Tokenizer) -> None:
    plan = RoundRobin(sources, (10,), packs=True)
    for workers in (0, 1):
        (batch,) = take(Loader(sources, settings(workers), tokenizer, seed=3, plan=plan), 1)
        assert batch.packed is not None
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        for text, (row, segment) in enumerate(batch.packed.places.tolist()):
            found = batch.packed.ids[row][batch.packed.segments[row] == segment]
            assert torch.equal(found, batch.text_ids[text][batch.text_mask[text]])


def test_pictures_have_their_channels_last(sources: list[Selection]) -> None:
    for workers in (0, 1):
        config = settings(workers).with_(sources={})
        (batch,) = take(Loader(sources[0], config, None, seed=3), 1)
        assert batch.images is not None
        assert batch.images.shape == (16, 3, 8, 8)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_forgotten_batches_are_not_copied(sources: list[Selection]) -> None:
    loader = Loader(sources[0], settings(1).with_(sources={}), None, seed=3)
    places = set()
    for batch in islice(loader, 30):
        assert batch.images is not None
        places.add(batch.images.data_ptr())
    assert len(places) <= 5
    loader.close()


def test_state_at_an_earlier_batch(sources: list[Selection], tokenizer: Tokenizer) -> None:
    plan = RoundRobin(sources, (6,))
    loader = Loader(sources, settings(), tokenizer, seed=3, plan=plan)
    batches = iter(loader)
    taken = [next(batches) for _ in range(5)]
    state = json.loads(json.dumps(loader.state_at(3)))
    assert state["next_batch"] == 3
    assert state["anchor"] == {"at": 3}
    other = Loader(sources, settings(1), tokenizer, seed=3, plan=RoundRobin(sources, (6,)))
    other.load_state_dict(state)
    assert isinstance(other.plan, RoundRobin)
    assert other.plan.started == {"at": 3}
    assert all(map(equal, take(other, 2), taken[3:]))


def test_what_had_been_skipped_at_an_earlier_batch(sources: list[Selection]) -> None:
    def spoilt(self: SampleReader, samples: Drawn, out: Pixels | None) -> Piece:
        keep = np.arange(len(samples.rows)) > 0
        piece = original(self, Drawn(samples.sources[keep], samples.rows[keep], samples.positions[keep]), out)
        piece.bad.append(Bad("first", "the first is always bad"))
        return piece

    original = SampleReader.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleReader, "read", spoilt)
        loader = Loader(sources[0], settings(on_error="count").with_(sources={}), None, seed=3)
        list(islice(loader, 5))
    assert dict(loader.skipped) == {"first": 5}
    assert loader.state_at(2)["skipped"] == {"first": 2}
    assert loader.state_dict()["skipped"] == {"first": 5}


def test_the_prefetcher_passes_through_on_the_cpu(sources: list[Selection]) -> None:
    config = settings(1).with_(sources={})
    wanted = take(Loader(sources[0], config, None, seed=3, start_batch=2), 4)
    loader = Loader(sources[0], config, None, seed=3, start_batch=2)
    prefetcher = DevicePrefetcher(loader, torch.device("cpu"))
    assert prefetcher.next_batch == 2
    found = list(islice(prefetcher, 4))
    assert [batch.keys for batch in found] == [batch.keys for batch in wanted]
    assert prefetcher.next_batch == loader.next_batch == 6
    assert not loader.pin()  # there is no GPU to pin for
    loader.close()


def test_a_plan_of_ones_own(sources: list[Selection]) -> None:
    plan = PositionPlan(Order(20, seed=8, shuffle=False), 7)
    loader = Loader(sources[0], settings().with_(sources={}), None, seed=3, plan=plan)
    assert take(loader, 1)[0].keys == [f"a{i:02d}" for i in range(7)]
    assert loader.batches_per_epoch == 20 / 7


@pytest.mark.slow
def test_importing_the_loader_is_cheap() -> None:
    heavy = ("duckdb", "pyarrow", "matplotlib", "torchvision", "fsspec", "tensorboard", "jinja2", "aiohttp")
    script = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import diptych.data.loader, diptych.data.index, diptych.data.workers\n"
        f"print([name for name in {heavy!r} if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("workers", [0, 1])
def test_remote_stores_hear_of_batches_in_time(
    sources: list[Selection], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    told: list[int] = []
    monkeypatch.setattr(loader_module, "LocalStore", dict)  # so that this store counts as remote
    monkeypatch.setattr(Selection, "will_need", lambda self, rows: told.extend(rows.tolist()))
    loader = Loader(sources[0], settings(workers).with_(sources={}), None, seed=3, start_batch=2)
    rows = [loader.plan.batch(number).rows.tolist() for number in range(2, 40)]
    batches = iter(loader)
    next(batches)
    # Every batch once, in order, well before it is read.
    least = len(told) // 16
    assert least > 16
    assert told == [row for batch in rows[:least] for row in batch]
    next(batches)
    assert told == [row for batch in rows[: least + 1] for row in batch]
    loader.close()
