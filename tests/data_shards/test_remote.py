"""Datasets behind a URL: copies, limits, read-ahead, parts, retries, refusals."""

import gc
import json
import multiprocessing
import os
import pickle
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.implementations.http import HTTPFileSystem
from remote_server import Server, serving
from toy_card import toy_card

from diptych.data import remote as remote_module
from diptych.data.addresses import as_url, refuse_private
from diptych.data.config import DataConfig, ImageConfig, LoaderConfig, RemoteConfig
from diptych.data.fetch import Source
from diptych.data.files import PARTIAL
from diptych.data.index import ShardDataset
from diptych.data.loader import Loader, evaluation_batches
from diptych.data.prepare import prepare
from diptych.data.remote import RemoteStore, make_room
from diptych.data.verify import verify
from diptych.errors import ConfigError, DataError, RemoteError

SHARDS = [f"toy-{i:06d}.tar" for i in range(5)]
SHARD_BYTES = 30720


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    out = tmp_path_factory.mktemp("toy")
    prepare(toy_card(), None, out, shard_size=7)
    return ShardDataset.open(out)


@pytest.fixture(scope="module")
def running(local: ShardDataset) -> Iterator[Server]:
    with serving(local.root) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.gets.clear()
    running.misbehave = lambda name, number: ""
    return running


@pytest.fixture
def config(tmp_path: Path) -> RemoteConfig:
    return RemoteConfig(
        cache=str(tmp_path / "cache"), allow_private=True, retries=2, backoff=0.001, timeout=10, ahead=0
    )


def tars(config: RemoteConfig) -> list[str]:
    return sorted(path.name for path in Path(config.cache).glob("*/*.tar"))


def read_all(dataset: ShardDataset) -> list[object]:
    selection = dataset.select()
    return [selection.read(i) for i in range(len(selection))]


def test_equal_to_the_local_dataset(server: Server, local: ShardDataset, config: RemoteConfig) -> None:
    dataset = ShardDataset.open(server.url, config)
    selection = dataset.select()
    assert selection.read(0) == local.select().read(0)
    # What is not needed is not fetched.
    assert server.gets == {"dataset.json": 1, "places.bin": 1, SHARDS[0]: 1}
    assert read_all(dataset) == read_all(local)
    assert selection.fingerprint == local.select().fingerprint
    assert dataset.select("odd_test").column("number").tolist() == [9, 19, 29]
    assert selection.address(8) == f"{server.url}/{SHARDS[1]}"
    again = ShardDataset.open(server.url + "/", config)
    assert read_all(again) == read_all(local)
    assert server.gets == {"dataset.json": 2, "places.bin": 1, "index.parquet": 1, **dict.fromkeys(SHARDS, 1)}
    left = [p.name for p in Path(config.cache).rglob("*") if p.name.endswith(PARTIAL)]
    assert left == []


def test_other_file_systems(local: ShardDataset, config: RemoteConfig, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(local.root), "/bucket/toy", recursive=True)
    try:
        assert read_all(ShardDataset.open("memory://bucket/toy", config)) == read_all(local)
        parts = config.with_(read="range", cache=str(tmp_path / "other"))
        assert read_all(ShardDataset.open("memory://bucket/toy", parts)) == read_all(local)
    finally:
        memory.rm("/bucket", recursive=True)
    assert tars(parts) == []
    url = local.root.as_uri()
    assert read_all(ShardDataset.open(url, config)) == read_all(local)
    # The command line makes paths of its arguments.
    assert read_all(ShardDataset.open(Path(url), config)) == read_all(local)
    with pytest.raises(DataError, match="only files on this machine can be verified; copy"):
        verify(Path(url))


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        (Path("https://host:80/a"), "https://host:80/a"),
        ("file:///tmp/x", "file:///tmp/x"),
        (Path("file:///tmp/x"), "file:///tmp/x"),
        ("/tmp/x", None),
        ("data/emoji", None),
        ("c:/data", None),
        ("odd:/name", None),
    ],
)
def test_what_is_a_url(given: str | Path, url: str | None) -> None:
    assert as_url(given) == url


@pytest.mark.slow
def test_parts_without_copies(server: Server, local: ShardDataset, config: RemoteConfig) -> None:
    parts = config.with_(read="range")
    dataset = ShardDataset.open(server.url, parts)
    assert read_all(dataset) == read_all(local)
    assert tars(parts) == []
    assert sum(server.gets[name] for name in SHARDS) == 31
    dataset.store.will_need(SHARDS)
    server.misbehave = lambda name, number: "whole"
    with pytest.raises(
        RemoteError, match=r"asked for 3072 bytes, 30720 came: .* set data\.remote\.read=cache"
    ):
        dataset.select().read(1)


@pytest.mark.parametrize("how", ["500", "cut", "wrong"])
def test_passing_failures_are_tried_again(
    server: Server, local: ShardDataset, config: RemoteConfig, how: str
) -> None:
    server.misbehave = lambda name, number: how if number <= 2 and name != "dataset.json" else ""
    dataset = ShardDataset.open(server.url, config)
    assert dataset.select().read(3) == local.select().read(3)
    assert server.gets[SHARDS[0]] == 3


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("500", rf"{SHARDS[1]} cannot be fetched: .*500.* \(3 tries\); check the connection"),
        ("cut", rf"{SHARDS[1]} cannot be fetched: .* \(3 tries\)"),
        ("wrong", r"it differs from what dataset\.json says \(SHA-256\) \(3 tries\)"),
        ("403", rf"{SHARDS[1]} is not given out: .*403.*; check address and credentials"),
    ],
)
def test_lasting_failures_end_with_one_line(
    server: Server, config: RemoteConfig, how: str, message: str
) -> None:
    server.misbehave = lambda name, number: how if name == SHARDS[1] else ""
    selection = ShardDataset.open(server.url, config).select()
    with pytest.raises(RemoteError, match=message) as caught:
        selection.read(7)
    assert "\n" not in str(caught.value)
    assert server.gets[SHARDS[1]] == (1 if how == "403" else 3)
    assert tars(config) == []
    assert [p for p in Path(config.cache).rglob("*") if p.name.endswith(PARTIAL)] == []
    server.misbehave = lambda name, number: ""
    assert selection.read(7).key == "toy_007"


def test_an_unreachable_store_ends_a_run_whatever_on_error_says(server: Server, config: RemoteConfig) -> None:
    data = DataConfig(
        path=server.url,
        remote=config,
        image=ImageConfig(size=8),
        loader=LoaderConfig(batch_size=4, on_error="skip", shuffle=False),
    )
    server.misbehave = lambda name, number: "403" if name == SHARDS[1] else ""
    selection = ShardDataset.open(data.path, data.remote).select()
    loader = Loader(selection, data, None, seed=0)
    batches = iter(loader)
    assert next(batches).keys == ["toy_000", "toy_001", "toy_002", "toy_003"]
    with pytest.raises(RemoteError, match="is not given out"):
        next(batches)
    with pytest.raises(RemoteError, match="is not given out"):
        list(evaluation_batches(selection, data, 4))
    loader.close()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_equal_those_of_the_local_dataset(
    server: Server, local: ShardDataset, config: RemoteConfig, workers: int
) -> None:
    loading = LoaderConfig(batch_size=5, workers=workers, block_size=7, block_window=2)
    data = DataConfig(image=ImageConfig(size=8), loader=loading)
    loaders = [
        Loader(ShardDataset.open(path, config.with_(ahead=3)).select(), data, None, seed=3)
        for path in (server.url, str(local.root))
    ]
    for _, theirs, ours in zip(range(14), *loaders, strict=False):
        assert theirs.keys == ours.keys
        assert torch.equal(theirs.positions, ours.positions)
        assert theirs.images is not None
        assert ours.images is not None
        assert torch.equal(theirs.images, ours.images)
    for loader in loaders:
        loader.close()
    assert [server.gets[name] for name in SHARDS] == [1] * 5


def test_what_is_missing(server: Server, config: RemoteConfig, tmp_path: Path) -> None:
    with serving(tmp_path) as empty, pytest.raises(RemoteError, match=r"dataset\.json does not exist; copy"):
        ShardDataset.open(empty.url, config)
    assert empty.gets == {"dataset.json": 1}
    with pytest.raises(ConfigError, match=r"data\.path: nosuch://x/y: Protocol not known"):
        ShardDataset.open("nosuch://x/y", config)
    with pytest.raises(ConfigError, match="expected the URL of a folder without '::'"):
        ShardDataset.open("simplecache://a::http://127.0.0.1/x", config)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens there
        port = held.getsockname()[1]
        with pytest.raises(RemoteError, match=r"u/dataset\.json cannot be fetched: .*\(3 tries\)") as caught:
            ShardDataset.open(f"http://me:secret@127.0.0.1:{port}/u", config)
    assert "secret" not in str(caught.value).partition("cannot be fetched")[0]


def test_a_folder_that_cannot_be_written(server: Server, config: RemoteConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RemoteError, match=r"cannot write .*; set data\.remote\.cache to another folder"):
        ShardDataset.open(server.url, config.with_(cache=str(tmp_path / "file")))


@pytest.mark.parametrize("name", ["../evil.tar", "/etc/evil.tar", ".lock", "a\\b.tar"])
def test_names_that_leave_the_folder_are_refused(
    local: ShardDataset, config: RemoteConfig, tmp_path: Path, name: str
) -> None:
    info = json.loads((local.root / "dataset.json").read_text())
    info["shards"][0]["file"] = name
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"names the file .*; expected names without folders"):
        ShardDataset.open((tmp_path / "data").as_uri(), config)


def test_private_addresses_are_refused(server: Server, config: RemoteConfig) -> None:
    careful = config.with_(allow_private=False)
    with pytest.raises(
        RemoteError, match=r"127\.0\.0\.1 is a private or local address; set data\.remote\.allow_private=true"
    ):
        ShardDataset.open(server.url, careful)
    assert not server.gets
    with pytest.raises(RemoteError, match=r"is refused: .* private or local address"):
        ShardDataset.open(server.url.replace("127.0.0.1", "localhost"), careful)
    assert not server.gets


def test_redirects_to_private_addresses_are_refused(
    server: Server, config: RemoteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address passes, as a public one would; where it sends us is looked at again."""
    from diptych.data import addresses

    seen: list[str] = []

    def first_passes(host: str) -> None:
        seen.append(host)
        if len(seen) > 1:
            refuse_private(host)

    monkeypatch.setattr(addresses, "refuse_private", first_passes)
    with serving(server.folder) as other:
        port = other.url.split(":")[2].partition("/")[0]
        server.misbehave = lambda name, number: f"to {port}"
        with pytest.raises(RemoteError, match="is refused"):
            ShardDataset.open(server.url, config.with_(allow_private=False))
        assert not other.gets
    assert len(seen) == 2


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "0.0.0.0",
    ],
)
def test_which_addresses_are_private(address: str) -> None:
    with pytest.raises(OSError, match="is a private or local address"):
        refuse_private(address)


def test_public_addresses_pass() -> None:
    refuse_private("8.8.8.8")
    refuse_private("2001:4860:4860::8888")


def test_limit_evicts_what_was_not_used(server: Server, local: ShardDataset, config: RemoteConfig) -> None:
    limited = config.with_(cache_gb=2.5 * SHARD_BYTES / 2**30)
    dataset = ShardDataset.open(server.url, limited)
    selection = dataset.select()
    first = selection.read(0)
    os.utime(Path(limited.cache) / dataset.root.name / SHARDS[0], (1, 1))
    assert selection.read(7).key == "toy_007"
    assert tars(limited) == SHARDS[:2]
    assert selection.read(14).key == local.select().read(14).key
    assert tars(limited) == SHARDS[1:3]
    # Evicted, but open: the reader does not notice.
    assert selection.read(0) == first
    assert server.gets[SHARDS[0]] == 1
    # Closed: it is fetched again.
    assert pickle.loads(pickle.dumps(selection)).read(0) == first
    assert server.gets[SHARDS[0]] == 2
    assert len(tars(limited)) == 2
    assert read_all(dataset) == read_all(local)
    with pytest.raises(DataError, match=r"data\.remote\.cache_gb = .* in all: raise it"):
        make_room(Path(limited.cache), SHARD_BYTES * 3, limited)


def test_dead_partial_files_go(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    dead, live = folder / f"a.tar.1{PARTIAL}", folder / f"b.tar.2{PARTIAL}"
    for path in (dead, live):
        path.write_bytes(bytes(100))
    os.utime(dead, (1, 1))
    make_room(tmp_path, 100, RemoteConfig(cache_gb=250 / 2**30))
    assert [p.name for p in folder.iterdir()] == [live.name]
    make_room(tmp_path, 10**12, RemoteConfig(cache_gb=0))


def _read_some(selection: object) -> list[str]:
    return [selection.read(i).key for i in range(0, 31, 3)]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_processes_and_threads_fetch_a_shard_once(
    server: Server, local: ShardDataset, config: RemoteConfig
) -> None:
    selection = ShardDataset.open(server.url, config.with_(ahead=3)).select()
    selection.read(0)  # the parent is connected: its connection must not be used by the children
    selection.will_need([10])
    expected = [local.select().place(i).key for i in range(0, 31, 3)]
    gc.collect()  # file systems of other tests: a child that collects them waits a second for each
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(_read_some, [selection] * 6, chunksize=1) == [expected] * 6
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(_read_some, [selection] * 4)) == [expected] * 4
    assert [server.gets[name] for name in SHARDS] == [1] * 5


@pytest.mark.slow
def test_a_fork_does_not_close_what_its_parent_opened(
    server: Server, config: RemoteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing waits for a thread that a fork does not have."""
    parent, close = os.getpid(), HTTPFileSystem.close_session

    def closed(*given: object) -> None:
        if os.getpid() != parent:
            os._exit(3)
        close(*given)

    monkeypatch.setattr(HTTPFileSystem, "close_session", staticmethod(closed))
    gc.collect()
    selection = ShardDataset.open(server.url, config).select()
    selection.read(0)
    pid = os.fork()
    if pid == 0:
        selection.read(30)
        gc.collect()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert server.gets[SHARDS[4]] == 1


@pytest.mark.slow
def test_readers_survive_a_cache_that_holds_one_shard(
    server: Server, local: ShardDataset, config: RemoteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that evict each other's shards all the time still read the right bytes."""
    monkeypatch.setattr(remote_module, "OPEN_SHARDS", 1)
    selection = ShardDataset.open(server.url, config.with_(cache_gb=1.2 * SHARD_BYTES / 2**30)).select()
    order = [i * 11 % 31 for i in range(31)] * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: selection.read(i).key, order))
    here = [local.select().place(i).key for i in range(31)]
    assert found == [here[i] for i in order]
    assert len(tars(config)) == 1


def test_read_ahead(server: Server, config: RemoteConfig) -> None:
    dataset = ShardDataset.open(server.url, config.with_(ahead=2))
    store = dataset.store
    assert isinstance(store, RemoteStore)
    selection = dataset.select()
    selection.will_need(np.array([2, 9, 10, 3, 16, 23]))  # shards 0, 1, 0, 2, 3
    store._ahead.wait()
    assert tars(config) == SHARDS[:2]
    selection.will_need([2, 9, 16])
    store._ahead.wait()
    assert tars(config) == SHARDS[:3]
    assert selection.read(2).key == "toy_002"
    # A failure is the reader's to report.
    server.misbehave = lambda name, number: "403"
    selection.will_need([30])
    store._ahead.wait()
    with pytest.raises(RemoteError, match="is not given out"):
        selection.read(30)
    assert store._ahead._thread is None


def test_read_ahead_returns_at_once(server: Server, config: RemoteConfig) -> None:
    dataset = ShardDataset.open(server.url, config.with_(ahead=1))
    go = threading.Event()

    def slow(name: str, number: int) -> str:
        assert go.wait(30)
        return ""

    dataset.select().prefetch()
    server.misbehave = slow
    dataset.store.will_need(SHARDS)
    assert tars(config) == []
    go.set()
    assert dataset.select().read(0).key == "toy_000"
    assert server.gets[SHARDS[0]] == 1


def test_a_changed_dataset_gets_a_folder_of_its_own(tmp_path: Path, config: RemoteConfig) -> None:
    for count in (10, 20):
        prepare(toy_card(count), None, tmp_path / "d", shard_size=7, force=True)
        dataset = ShardDataset.open((tmp_path / "d").as_uri(), config)
        assert read_all(dataset) == read_all(ShardDataset.open(tmp_path / "d"))
    assert len(list(Path(config.cache).glob("*/dataset.json"))) == 2


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        RemoteError, match=r"s3:// needs a package .*; pip install 'diptych\[remote\]', and s3fs"
    ):
        Source("s3://bucket/x", RemoteConfig()).read_whole("dataset.json")


def test_waits_double_up_to_a_limit(
    server: Server, config: RemoteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.misbehave = lambda name, number: "500"
    with pytest.raises(RemoteError, match=r"\(9 tries\)"):
        Source(server.url, config.with_(retries=8, backoff=1)).read_whole("dataset.json")
    bounds = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, bounds, strict=True))
