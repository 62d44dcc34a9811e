"""Lists into shards, end to end: every row accounted for, whatever servers do and whenever processes die."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fault_server import FaultServer, fault_server
from PIL import Image

from diptych.cli.main import run
from diptych.data.acquire import working
from diptych.data.acquire.job import FetchSummary, fetch
from diptych.data.acquire.options import ListOptions, NetOptions, PictureOptions
from diptych.data.index import ShardDataset
from diptych.data.verify import verify
from diptych.errors import DataError, UsageError

NET = NetOptions(
    allow_private=True, backoff=0.01, read_timeout=0.3, timeout=1.0, row_timeout=3.0, max_bytes=300_000
)
PICTURES = 30


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40 + number, 30), (number * 8, 100, 50)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture
def server(running: FaultServer) -> FaultServer:
    running.files = {f"/{n}.png": png(n) for n in range(PICTURES)}
    running.files["/broken.png"] = png(0)[:60]
    running.heads, running.mended, running.delay = {}, False, 0.0
    running.at_once = 0
    running.gets.clear()
    return running


def write_list(path: Path, server: FaultServer, *paths: str) -> Path:
    rows = "".join(f"{server.url}/{path},caption {n}\n" for n, path in enumerate(paths))
    path.write_text("url,caption\n" + rows, encoding="utf-8")
    return path


def good(count: int = PICTURES) -> list[str]:
    return [f"{n % PICTURES}.png" for n in range(count)]


def fetched(list_: Path, out: Path, **options: Any) -> FetchSummary:
    defaults: dict[str, Any] = {
        "net": NET,
        "workers": 1,
        "shard_size": 8,
        "pictures": PictureOptions(size=24),
    }
    return fetch(str(list_), out, **{**defaults, **options})


def rows(out: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(out / "rows.parquet").to_pylist()
    return table


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def test_a_list_becomes_a_dataset(server: FaultServer, tmp_path: Path) -> None:
    list_ = write_list(tmp_path / "birds.csv", server, *good(20))
    summary = fetched(list_, tmp_path / "out")
    assert (summary.rows, summary.fetched, summary.shards, summary.causes) == (20, 20, 3, {})
    assert verify(tmp_path / "out").sound
    dataset = ShardDataset.open(tmp_path / "out")
    assert dataset.shards == [f"birds-00000{n}.tar" for n in range(3)]
    assert (dataset.size, list(dataset.splits)) == (20, ["all"])
    sample = dataset.select().read(5)
    assert sample.captions == ("caption 5",)
    assert set(sample.media) == {"jpg"}
    # 45 x 30 with a shorter side of 24
    assert Image.open(io.BytesIO(sample.media["jpg"])).size == (36, 24)
    chosen = dataset.select(where="original_width = 45 and width = 36 and dhash is not null")
    assert [chosen.read(n).key for n in range(len(chosen))] == [sample.key]


def test_signs_of_life_while_a_row_is_waited_for(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them, a worker that has to wait for long would count as hung."""
    monkeypatch.setattr(working, "BEAT", 0.01)
    server.delay = 0.2
    told: list[int] = []
    fetched(
        write_list(tmp_path / "a.csv", server, "1.png"),
        tmp_path / "out",
        progress=lambda done, total: told.append(done),
    )
    assert (told[0], told[-1]) == (0, 1)


def test_media_that_do_not_fit_into_memory_wait_in_a_file(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_ = write_list(tmp_path / "a.csv", server, *good(16), "status/404")
    fetched(list_, tmp_path / "memory")
    made: list[Path] = []
    make = tempfile.TemporaryFile

    def noted(dir: str, prefix: str) -> Any:
        made.append(Path(dir))
        return make(dir=dir, prefix=prefix)

    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    monkeypatch.setattr(working, "HELD", 1500)  # room for one or two of the eight of a shard
    fetched(list_, tmp_path / "file")
    assert made == [(tmp_path / "file")] * 2  # the third chunk has one row, which failed
    assert tars(tmp_path / "memory") == tars(tmp_path / "file")


def test_samples_are_as_the_usual_tools_write_them(server: FaultServer, tmp_path: Path) -> None:
    list_ = tmp_path / "a.jsonl"
    line = {"url": f"{server.url}/3.png", "text": "three", "score": 0.5, "width": 1, "tags": ["x"]}
    list_.write_text(json.dumps(line), encoding="utf-8")
    fetched(list_, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "a-000000.tar") as tar:
        names = tar.getnames()
        side = json.load(tar.extractfile(names[2]))  # type: ignore[arg-type]
        text = tar.extractfile(names[1]).read()  # type: ignore[union-attr]
    key = names[0].removesuffix(".jpg")
    assert names == [f"{key}.jpg", f"{key}.txt", f"{key}.json"]
    assert text == b"three"
    assert {name: side[name] for name in side if name not in ("sha256", "dhash")} == {
        "score": 0.5,
        "source_width": 1,
        "caption": "three",
        "url": f"{server.url}/3.png",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 34,
        "height": 24,
        "original_width": 43,
        "original_height": 30,
        "exif": None,
    }
    import hashlib

    assert side["sha256"] == hashlib.sha256(png(3)).hexdigest()
    (row,) = rows(tmp_path / "out")
    assert (row["sha256"], row["bytes"], row["http"], row["tries"]) == (side["sha256"], len(png(3)), 200, 1)


FAULTS = {
    "status/404": ("http 404", 1),
    "status/403": ("http 403", 1),
    "status/500": ("http 500", 3),
    "loop/a": ("redirect loop", 1),
    "endless/x": ("too large", 1),
    "slow/x": ("timeout", 1),
    "silent/x": ("no answer", 3),
    "cut/x": ("cut off", 3),
    "page/x": ("wrong type", 1),
    "broken.png": ("broken picture", 1),
    "to/http:==127.0.0.1:1=x": ("connect", 3),
}


@pytest.mark.slow
def test_every_fault_is_counted_and_named(server: FaultServer, tmp_path: Path) -> None:
    paths = [path for pair in zip(good(len(FAULTS)), FAULTS, strict=True) for path in pair]
    summary = fetched(write_list(tmp_path / "a.csv", server, *paths), tmp_path / "out", shard_size=100)
    assert (summary.rows, summary.fetched) == (22, 11)
    assert summary.causes == {cause: 1 for cause, _ in FAULTS.values()}
    found = rows(tmp_path / "out")
    assert [row["number"] for row in found] == list(range(22))
    assert {row["url"].partition("/")[2].partition("/")[2].partition("/")[2]: row for row in found}
    for row, path in zip(found, paths, strict=True):
        cause, tries = FAULTS.get(path, ("", 1))
        assert (row["cause"], row["tries"]) == (cause, tries), row
        expected = {"": "success", "broken picture": "failed_to_resize"}.get(cause, "failed_to_download")
        assert row["status"] == expected
        assert row["seconds"] < 5
    assert json.loads((tmp_path / "out" / "fetch.json").read_text())["hosts"][0]["rows"] == 22
    assert verify(tmp_path / "out").sound


@pytest.mark.slow
def test_busy_servers_are_asked_again_when_they_say(server: FaultServer, tmp_path: Path) -> None:
    list_ = write_list(tmp_path / "a.csv", server, "busy/1/a", "flaky/c", "1.png")
    started = time.monotonic()
    assert fetched(list_, tmp_path / "out").fetched == 3
    assert time.monotonic() - started > 1
    assert [row["tries"] for row in rows(tmp_path / "out")] == [2, 1, 1]
    # More than a row may take: nobody waits, and nobody asks again.
    list_ = write_list(tmp_path / "b.csv", server, "busy/99/b", "1.png")
    fetched(list_, tmp_path / "other")
    first = rows(tmp_path / "other")[0]
    assert (first["cause"], first["tries"], server.gets["/busy/99/b"]) == ("http 429", 1, 1)


def test_failed_rows_alone_are_tried_again(server: FaultServer, tmp_path: Path) -> None:
    paths = [*good(10), "status/500", "status/404", *good(3), "missing/x"]
    list_, out = write_list(tmp_path / "a.csv", server, *paths), tmp_path / "out"
    assert fetched(list_, out).fetched == 13
    before, asked = tars(out), dict(server.gets)
    assert fetched(list_, out).already
    server.mended = True
    summary = fetched(list_, out, retry_failed=True)
    assert (summary.rows, summary.fetched, summary.causes) == (16, 15, {"http 404": 1})
    assert {name: count for name, count in server.gets.items() if asked.get(name) == count} == {
        f"/{n}.png": asked[f"/{n}.png"] for n in range(10)
    }
    after = tars(out)
    assert {name: after[name] for name in before} == before
    assert verify(out).sound
    found = rows(out)
    assert [row["number"] for row in found] == list(range(16))
    assert [row["number"] for row in found if row["status"] != "success"] == [15]
    assert found[10]["shard"] == "a-000002.tar"
    dataset = ShardDataset.open(out)
    assert (dataset.size, len(dataset.shards)) == (15, 3)
    assert dataset.select().read(13).captions == ("caption 10",)
    # A third time: only one row is left.
    server.gets.clear()
    assert fetched(list_, out, retry_failed=True).fetched == 15
    assert dict(server.gets) == {"/missing/x": 1}


def test_rows_of_some_causes_are_tried_again(server: FaultServer, tmp_path: Path) -> None:
    list_ = write_list(tmp_path / "a.csv", server, "1.png", "status/500", "status/403", "missing/x")
    out = tmp_path / "out"
    fetched(list_, out)
    server.gets.clear()
    server.mended = True
    summary = fetched(list_, out, retry_failed=True, only=["http 403", "http 404"])
    assert dict(server.gets) == {"/status/403": 1, "/missing/x": 1}
    assert summary.causes == {"http 404": 1, "http 500": 1}
    with pytest.raises(UsageError, match="needs --retry-failed"):
        fetched(list_, out, only=["dns"])


def test_nothing_came(server: FaultServer, tmp_path: Path) -> None:
    list_, out = write_list(tmp_path / "a.csv", server, "missing/a", "missing/b"), tmp_path / "out"
    with pytest.raises(DataError, match=r"none of the 2 rows could be fetched \(http 404 2\)"):
        fetched(list_, out)
    assert [row["cause"] for row in rows(out)] == ["http 404"] * 2
    server.files["/missing/a"] = png(1)
    assert fetched(list_, out, retry_failed=True).fetched == 1


def test_other_arguments_and_lists_are_refused(server: FaultServer, tmp_path: Path) -> None:
    list_, out = write_list(tmp_path / "a.csv", server, *good(4)), tmp_path / "out"
    fetched(list_, out)
    with pytest.raises(DataError, match=r"other arguments: options is .*; choose another folder.*--force"):
        fetched(list_, out, pictures=PictureOptions(size=20))
    write_list(list_, server, *good(5))
    with pytest.raises(DataError, match="other arguments: list is"):
        fetched(list_, out)
    assert fetched(list_, out, force=True).fetched == 5
    list_.write_text(list_.read_text().replace("caption 4", "caption 5"))
    assert fetched(list_, out).already
    (out / "dataset.json").unlink()
    (out / ".fetch" / "manifest.json").write_text(
        (out / ".fetch" / "manifest.json").read_text().replace('"chunks": 1', '"chunks": null')
    )
    with pytest.raises(DataError, match=r"the list has changed: begin anew with --force"):
        fetched(list_, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(DataError, match="holds other files"):
        fetched(list_, tmp_path / "full")


def test_mistakes_leave_no_trace(server: FaultServer, tmp_path: Path) -> None:
    list_ = write_list(tmp_path / "a.csv", server, *good(2))
    for options in (
        {"lists": ListOptions(url="link")},
        {"shard_size": 0},
        {"name": "a b"},
        {"engine": "spark"},
        {"workers": 0},
    ):
        with pytest.raises(UsageError):
            fetched(list_, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


def test_hosts_are_asked_a_few_at_a_time(server: FaultServer, tmp_path: Path) -> None:
    server.delay = 0.02
    list_ = write_list(tmp_path / "a.csv", server, *good(24))
    fetched(list_, tmp_path / "out", net=NetOptions(allow_private=True, per_host=3))
    assert server.at_once == 3


def test_robots_txt_is_honoured_where_wanted(server: FaultServer, tmp_path: Path) -> None:
    server.files["/robots.txt"] = b"User-agent: *\nDisallow: /1\nUser-agent: diptych\nDisallow: /2\n"
    list_ = write_list(tmp_path / "a.csv", server, "1.png", "2.png", "3.png")
    fetched(list_, tmp_path / "out", net=NetOptions(allow_private=True, robots=True))
    assert [row["cause"] for row in rows(tmp_path / "out")] == ["", "robots.txt", ""]
    assert server.gets["/robots.txt"] == 1
    fetched(list_, tmp_path / "all")
    assert server.gets["/robots.txt"] == 1
    del server.files["/robots.txt"]
    assert fetched(list_, tmp_path / "none", net=NetOptions(allow_private=True, robots=True)).fetched == 3


@pytest.mark.slow
def test_processes_give_what_one_gives(server: FaultServer, tmp_path: Path) -> None:
    list_ = write_list(tmp_path / "a.csv", server, *good(60), "status/404")
    fetched(list_, tmp_path / "one")
    fetched(list_, tmp_path / "two", workers=2)
    assert tars(tmp_path / "one") == tars(tmp_path / "two")
    for name in ("index.parquet", "places.bin", "dataset.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


_AGAIN = """
import sys
from pathlib import Path
from diptych.data.acquire.job import fetch
from diptych.data.acquire.options import NetOptions, PictureOptions
net = NetOptions(allow_private=True, backoff=0.01)
fetch(sys.argv[1], Path(sys.argv[2]), net=net, workers=2, shard_size=4, pictures=PictureOptions(size=24))
"""


def family(pid: int) -> list[int]:
    """The processes that a process has begun, and those that they have: workers and their origin."""
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *family(child))]


@pytest.mark.slow
def test_killed_again_and_again(server: FaultServer, tmp_path: Path) -> None:
    """SIGKILL of the whole job or of one worker, at random moments: the same shards, each row once."""
    paths = [*good(60), "status/404", "loop/a"]
    list_, out = write_list(tmp_path / "a.csv", server, *paths), tmp_path / "out"
    fetched(list_, tmp_path / "calm", shard_size=4)
    server.delay, draw = 0.01, random.Random(7)
    kills = 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", _AGAIN, str(list_), str(out)], start_new_session=True
        )
        if not server.asked(process, draw.randrange(1, 20)):
            assert process.returncode == 0
            break
        time.sleep(draw.uniform(0, 0.1))
        kills += 1
        if draw.random() < 0.5:
            victims = family(process.pid)
            if victims:
                os.kill(draw.choice(victims), signal.SIGKILL)
                time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert kills
    fetched(list_, out, shard_size=4, net=NetOptions(allow_private=True, backoff=0.01))
    assert tars(out) == tars(tmp_path / "calm")
    assert (out / "index.parquet").read_bytes() == (tmp_path / "calm" / "index.parquet").read_bytes()
    assert [row["number"] for row in rows(out)] == list(range(62))
    assert verify(out).sound


def test_the_command(server: FaultServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_ = write_list(tmp_path / "a.csv", server, *good(4), "status/404")
    command = ["data", "fetch", str(list_), "--out", str(tmp_path / "out"), "--size", "24", "--workers", "1"]
    assert run([*command, "--allow-private"]) == 0
    said = capsys.readouterr().out
    assert "4 of 5 rows in 1 shards" in said
    assert "  failed: http 404: 1\n" in said
    assert "1 of 5 failed, mostly http 404" in said
    assert run([*command, "--allow-private"]) == 0
    assert "already fetched" in capsys.readouterr().out
    refused = [*command[:4], str(tmp_path / "other"), "--workers", "1"]
    assert run(refused) == 1
    assert "none of the 5 rows could be fetched (refused address 5)" in capsys.readouterr().err


def test_published_lists_are_read_in_their_own_form(server: FaultServer, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = [f"a caption , number {n}\t{server.url}/{n}.png" for n in range(3)]
    (raw / "Train_GCC-training.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = fetched(raw, tmp_path / "out", form="cc3m")
    assert summary.fetched == 3
    dataset = ShardDataset.open(tmp_path / "out")
    assert "train" in dataset.splits
    assert dataset.select("train").read(2).captions == ("a caption , number 2",)


_RAY = """
import sys
from pathlib import Path
import ray
from diptych.data.acquire.job import fetch
from diptych.data.acquire.options import NetOptions, PictureOptions
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
net = NetOptions(allow_private=True, backoff=0.01)
pictures = PictureOptions(size=24)
fetch(sys.argv[1], Path(sys.argv[2]), net=net, workers=2, engine="ray", shard_size=8, pictures=pictures)
"""


@pytest.mark.slow
def test_ray_gives_what_one_process_gives(server: FaultServer, tmp_path: Path) -> None:
    list_ = write_list(tmp_path / "a.csv", server, *good(30), "status/404")
    fetched(list_, tmp_path / "one")
    command = [sys.executable, "-c", _RAY, str(list_), str(tmp_path / "ray")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert tars(tmp_path / "one") == tars(tmp_path / "ray")
    assert verify(tmp_path / "ray").sound


def test_a_full_disk_is_told(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is finished stays, and the next run goes on."""
    list_, out, write = write_list(tmp_path / "a.csv", server, *good(20)), tmp_path / "out", pq.write_table
    written: list[Path] = []

    def full(table: Any, path: Path, **options: Any) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        write(table, path, **options)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(DataError, match=r"cannot write .*No space left"):
        fetched(list_, out)
    monkeypatch.undo()
    assert not list(out.glob("*.partial"))
    summary = fetched(list_, out)
    assert (summary.fetched, summary.resumed) == (20, 1)
    assert verify(out).sound
