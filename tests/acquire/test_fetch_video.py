"""Lists of videos into shards: clips, sizes, sound, local files, odd media; each row has a status."""

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fault_server import FaultServer, fault_server

from diptych.cli.main import run
from diptych.data.acquire.job import FetchSummary, fetch
from diptych.data.acquire.lists import ListRow
from diptych.data.acquire.problems import MediumProblemError
from diptych.data.acquire.video_options import PageOptions, VideoOptions, video_net
from diptych.data.acquire.videos import examine, make
from diptych.data.index import ShardDataset
from diptych.data.miniatures.internvid import make_internvid
from diptych.data.miniatures.media import colour_ids, colour_of, video, video_of
from diptych.data.miniatures.webvid import make_webvid
from diptych.data.prepare import load_card, prepare
from diptych.data.raw.video import probe_video
from diptych.data.verify import verify
from diptych.errors import DataError, UsageError

NET = video_net(
    allow_private=True,
    backoff=0.01,
    read_timeout=0.3,
    timeout=1.0,
    row_timeout=3.0,
    max_bytes=300_000,
    retries=1,
)
TWO = video_of([1] * 8 + [2] * 8, 8, audio=True)
"""Two seconds: one of each colour."""


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture
def server(running: FaultServer) -> FaultServer:
    running.files = {"/two.mp4": TWO, "/0.png": TWO}
    running.heads, running.mended, running.delay = {}, False, 0.0
    running.gets.clear()
    return running


def fetched(folder: Path, *records: dict[str, Any], **options: Any) -> FetchSummary:
    list_ = folder / "a.jsonl"
    list_.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    defaults: dict[str, Any] = {"net": NET, "videos": VideoOptions(), "workers": 1}
    return fetch(str(list_), folder / "out", **{**defaults, **options})


def rows(out: Path) -> list[dict[str, Any]]:
    table = pq.read_table(out / "rows.parquet").sort_by("number")
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def sides(out: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                if name.endswith(".json"):
                    found[name.removesuffix(".json")] = json.load(tar.extractfile(name))  # type: ignore[arg-type]
    return found


def test_clips_of_a_video_that_is_fetched_once(server: FaultServer, tmp_path: Path) -> None:
    server.files["/other.webm"] = video(3, container="webm")
    url = f"{server.url}/two.mp4"
    summary = fetched(
        tmp_path,
        {"id": "late", "url": url, "caption": "late", "start": "00:00:01.000", "end": "00:00:02.000", "n": 5},
        {"id": "other", "url": f"{server.url}/other.webm", "caption": "other", "width": 7},
        {"id": "several", "url": url, "caption": "several", "clips": [[0, 0.5], ["00:00:00.5", 1.5], [7, 8]]},
        {"id": "rest", "url": url, "caption": "rest", "start": 1.5},
        lists=_named("id"),
    )
    out = tmp_path / "out"
    assert (summary.rows, summary.fetched, summary.shards) == (6, 5, 1)
    assert summary.causes == {"clip past the end": 1}
    assert dict(server.gets) == {"/two.mp4": 1, "/other.webm": 1}
    assert verify(out).sound
    samples = ShardDataset.open(out).select()
    found = {sample.key: sample for sample in (samples.read(n) for n in range(len(samples)))}
    assert {key: colour_ids(sample.media["mp4"]) for key, sample in found.items() if key != "other"} == {
        "several_00000": [1] * 4,
        "several_00001": [1] * 4 + [2] * 4,
        "late": [2] * 8,
        "rest": [2] * 4,
    }
    assert found["other"].media == {"webm": server.files["/other.webm"]}
    told = rows(out)
    assert [row["number"] for row in told] == list(range(6))
    assert [row["key"] for row in told] == [
        *("late", "other", "several_00000", "several_00001", "several_00002", "rest")
    ]
    assert (told[4]["status"], told[4]["cause"]) == ("failed_to_subsample", "clip past the end")
    assert sum(row["bytes"] for row in told) == len(TWO) + len(server.files["/other.webm"])
    # Columns of the index.
    where = "clip_start >= 0.5 and original_duration = 2 and audio and duration <= 1 and n is null"
    assert len(ShardDataset.open(out).select(where=where)) == 2


def test_samples_are_as_video2dataset_writes_them(server: FaultServer, tmp_path: Path) -> None:
    url = f"{server.url}/two.mp4"
    fetched(tmp_path, {"url": url, "caption": "a", "videoid": 9, "duration": "PT00H00M02S", "start": 1})
    ((key, side),) = sides(tmp_path / "out").items()
    assert {name: side[name] for name in side if name != "sha256"} == {
        "videoid": 9,
        "source_duration": "PT00H00M02S",
        "caption": "a",
        "url": url,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 32,
        "height": 24,
        "original_width": 32,
        "original_height": 24,
        "original_duration": 2.0,
        "original_fps": 8.0,
        "yt_meta_dict": None,
        "clips": [[1.0, 2.0]],
        "clip_start": 1.0,
        "clip_end": 2.0,
    }


def _named(name: str) -> Any:
    from diptych.data.acquire.options import ListOptions

    return ListOptions(id=name)


@pytest.mark.slow
def test_what_is_no_video_is_not_stored(server: FaultServer, tmp_path: Path) -> None:
    """Every fault has its status, and none is stored as .mp4."""
    page, sound = b"<html>" + b"gone" * 500, _sound()
    server.files |= {
        "/page.mp4": page,
        "/typed.mp4": TWO,
        "/playlist.mp4": b"#EXTM3U\nhttp://192.0.2.1/a.ts\n",
    }
    server.files |= {"/cut.mp4": TWO[:3000], "/sound.mp4": sound, "/empty.mp4": b"", "/large.mp4": TWO * 9}
    server.files |= {"/noise.webm": b"\x1a\x45\xdf\xa3" + bytes(2000)}
    server.heads = {"/typed.mp4": ("Content-Type: text/html",)}
    faults = {
        "page.mp4": ("not a video", 1),
        "playlist.mp4": ("not a video", 1),
        "typed.mp4": ("wrong type", 1),
        "cut.mp4": ("truncated video", 1),
        "sound.mp4": ("no video stream", 1),
        "noise.webm": ("unreadable video", 1),
        "empty.mp4": ("empty", 1),
        "large.mp4": ("too large", 1),
        "status/403": ("http 403", 1),
        "status/503": ("http 503", 2),
        "endless/x": ("not a video", 1),
        "slow/x": ("timeout", 1),
        "silent/x": ("no answer", 2),
        "loop/a": ("redirect loop", 1),
        "cut/x": ("cut off", 2),
        "to/http:==127.0.0.1:1=x.mp4": ("connect", 2),
    }
    good = {"url": f"{server.url}/two.mp4"}
    bad = [{"url": f"{server.url}/{path}"} for path in faults]
    others: list[dict[str, Any]] = [
        {"url": "/etc/hostname"},
        {"url": "ftp://v.example/a.mp4"},
        {"url": "http://["},
        {"url": ""},
    ]
    summary = fetched(tmp_path, good, *bad, *others, {**good, "start": 3, "end": 2})
    told = rows(tmp_path / "out")
    assert [(row["cause"], row["tries"]) for row in told] == [
        ("", 1),
        *faults.values(),
        ("refused file", 1),
        ("refused file", 1),
        ("bad address", 0),
        ("bad row", 0),
        ("bad row", 0),
    ]
    assert (summary.rows, summary.fetched) == (22, 1)
    assert all(row["seconds"] < 5 for row in told)
    assert "a play list" in told[2]["detail"]
    assert verify(tmp_path / "out").sound
    assert not (tmp_path / "out" / ".fetch" / "media").exists() or not list(
        (tmp_path / "out" / ".fetch" / "media").iterdir()
    )


def _sound() -> bytes:
    """An MP4 whose only stream is sound."""
    import io

    import av
    import numpy as np

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream: Any = out.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), "fltp", "mono")
        frame.sample_rate = 44_100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def made(
    path: Path, data: bytes, *, start: float | None = None, end: float | None = None, **options: Any
) -> Any:
    path.write_bytes(data)
    row = ListRow(0, "", "", "", {}, start=start, end=end)
    return make(path, examine(path), row, VideoOptions(**options), {})


def test_size_frames_and_sound(tmp_path: Path) -> None:
    path = tmp_path / "v"
    data = video(4, 2.0, fps=8, size=(64, 48), audio=True)
    assert made(path, data).members == {"mp4": path}
    # More than it has: nothing changes.
    assert made(path, data, fps=30, short_side=100).members == {"mp4": path}
    medium = made(path, data, fps=2, short_side=24, audio="drop")
    facts = probe_video(medium.members["mp4"])
    assert (facts.width, facts.height, facts.frames, facts.audio) == (32, 24, 4, False)
    assert (medium.facts.width, medium.facts.frames, medium.meta["original_width"]) == (32, 4, 64)
    # Without sound, frames are copied.
    silent = made(path, data, audio="drop")
    assert (silent.facts.audio, silent.facts.frames, colour_of(silent.members["mp4"])) == (False, 16, 4)
    assert made(path, video(4), audio="drop").members == {"mp4": path}
    # Frames at 0, 1/8, 5/8 and 6/8 s: as it is; what is shown at 0 and at 1/2 s.
    varying = video_of([1, 2, 3, 4], 8, times=[0, 1, 5, 6])
    assert made(path, varying).members == {"mp4": path}
    assert colour_ids(made(path, varying, start=0.0, end=0.9, fps=2).members["mp4"]) == [1, 2]
    # One frame, and one turned by its header.
    one = made(path, video(5, 0.1, fps=8), start=0.0, end=0.05)
    assert (one.facts.frames, colour_of(one.members["mp4"])) == (1, 5)
    sideways = made(path, video(6, size=(64, 32), rotation=90), short_side=16)
    assert (sideways.facts.width, sideways.facts.height) == (16, 32)


def test_precision(tmp_path: Path) -> None:
    """Keyframes at 0 and 1 s; the clip begins at 1.5 s."""
    data = video_of([1] * 8 + [2] * 8, 8, key_every=8)
    exact = made(tmp_path / "v", data, start=1.5, end=2.0)
    copied = made(tmp_path / "v", data, start=1.5, end=2.0, precision="keyframe")
    assert (exact.facts.frames, copied.facts.frames) == (4, 8)
    assert colour_ids(copied.members["mp4"]) == [2] * 8


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"max_seconds": 0.5}, "video too long"),
        ({"min_seconds": 1.5}, "video too short"),
        ({"cut_timeout": 1e-9}, "cutting timeout"),
    ],
)
def test_limits_of_clips(tmp_path: Path, options: dict[str, Any], cause: str) -> None:
    with pytest.raises(MediumProblemError) as caught:
        made(tmp_path / "v", TWO, start=0.0, end=1.0, **options)
    assert caught.value.cause == cause


def test_files_of_this_machine(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    (videos / "a").mkdir(parents=True)
    (videos / "a" / "two.mp4").write_bytes(TWO)
    (tmp_path / "outside.mp4").write_bytes(TWO)
    (videos / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    os.mkfifo(videos / "pipe.mp4")
    names = ["a/two.mp4", f"file://{videos}/a/two.mp4", "../outside.mp4", "link.mp4", "pipe.mp4", "none.mp4"]
    records: list[dict[str, Any]] = [{"file": name, "start": 1} for name in names]
    summary = fetched(tmp_path, *records, pages=PageOptions(files=str(videos)))
    assert summary.fetched == 2
    assert [row["cause"] for row in rows(tmp_path / "out")] == [
        "",
        "",
        *("refused file", "refused file", "refused file", "missing file"),
    ]
    assert (videos / "a" / "two.mp4").read_bytes() == TWO
    with pytest.raises(UsageError, match=r"--files: .* is no folder"):
        fetched(tmp_path, pages=PageOptions(files=str(tmp_path / "none")))


def test_private_addresses_are_refused(server: FaultServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 1 rows could be fetched \(refused address 1\)"):
        fetched(tmp_path, {"url": f"{server.url}/two.mp4"}, net=replace(NET, allow_private=False))


def test_failed_videos_alone_are_tried_again(server: FaultServer, tmp_path: Path) -> None:
    url = f"{server.url}/late.mp4"
    records: list[dict[str, Any]] = [
        {"url": f"{server.url}/two.mp4"},
        *({"url": url, "start": n, "end": n + 1} for n in range(3)),
    ]
    assert fetched(tmp_path, *records).causes == {"http 404": 3}
    server.files["/late.mp4"] = TWO
    summary = fetched(tmp_path, *records, retry_failed=True)
    assert (summary.fetched, summary.causes) == (3, {"clip past the end": 1})
    assert dict(server.gets) == {"/two.mp4": 1, "/late.mp4": 2}
    assert [row["shard"] for row in rows(tmp_path / "out")] == [
        *("a-000000.tar", "a-000001.tar", "a-000001.tar", "")
    ]
    assert verify(tmp_path / "out").sound


_AGAIN = """
import sys
from diptych.data.acquire.job import fetch
from diptych.data.acquire.video_options import VideoOptions, video_net
fetch(sys.argv[1], __import__("pathlib").Path(sys.argv[2]), videos=VideoOptions(), workers=2, shard_size=3,
      net=video_net(allow_private=True, backoff=0.01))
"""


@pytest.mark.slow
def test_killed_again_and_again(server: FaultServer, tmp_path: Path) -> None:
    records = []
    for number in range(12):
        server.files[f"/{number}.mp4"] = video_of([number] * 16, 8)
        records += [
            {
                "url": f"{server.url}/{number}.mp4",
                "caption": f"{number} {start}",
                "start": start,
                "end": start + 1,
            }
            for start in (1, 0)
        ]
    fetched(tmp_path, *records, shard_size=3)
    server.delay, draw, kills = 0.05, random.Random(5), 0
    out = tmp_path / "killed"
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", _AGAIN, str(tmp_path / "a.jsonl"), str(out)])
        if not server.asked(process, draw.randrange(1, 5)):
            break
        time.sleep(draw.uniform(0, 0.1))
        kills += 1
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert kills
    fetch(str(tmp_path / "a.jsonl"), out, videos=VideoOptions(), net=NET, workers=1, shard_size=3)
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == {
        path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.tar")
    }
    assert [row["number"] for row in rows(out)] == list(range(24))
    assert not (out / ".fetch" / "media").exists() or not list((out / ".fetch" / "media").iterdir())
    assert not list((out / ".fetch").glob(".media-*"))


def test_the_published_list_of_webvid(
    server: FaultServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the owners' CSV to the card: `diptych data fetch`, then `diptych data prepare`."""
    raw, out = tmp_path / "raw", tmp_path / "fetched"
    make_webvid(raw)
    for path in raw.glob("*.csv"):
        path.write_text(path.read_text().replace("https://stock.example", server.url))
    for path in raw.glob("videos/*/*.mp4"):
        server.files[f"/shutter%20stock/{path.stem}/preview/stock-footage-{path.name}"] = path.read_bytes()
    command = ["data", "fetch", str(raw), "--form", "webvid", "--out", str(out), "--workers", "1"]
    assert run([*command, "--allow-private", "--retries", "0"]) == 0
    said = capsys.readouterr().out
    assert "5 of 10 rows in 1 shards" in said
    assert "failed: not a video: 1" in said
    assert "failed: http 404: 1" in said
    summary = prepare(load_card("webvid"), out, tmp_path / "out", layout="fetched")
    assert summary.splits == {"train": 3, "val": 2}
    assert summary.problems == {"missing video": 5}
    dataset = ShardDataset.open(tmp_path / "out")
    samples = dataset.select()
    found = {sample.key: sample for sample in (samples.read(n) for n in range(len(samples)))}
    assert {key: colour_of(sample.media["mp4"]) for key, sample in found.items()} == {
        "1066674784": 500,
        "21179416": 501,
        "7730000": 502,
        "555": 504,
        "12": 506,
    }
    assert found["21179416"].meta["listed_seconds"] == 62.0
    assert found["1066674784"].captions == ('Horse running, in "slow motion" at dawn',)
    # One file of the list alone.
    alone = [
        "data",
        "fetch",
        str(raw / "results_2M_val.csv"),
        "--list",
        "webvid",
        "--out",
        str(tmp_path / "v"),
    ]
    assert run([*alone, "--allow-private", "--workers", "1", "--fps", "4"]) == 0
    assert "2 of 2 rows" in capsys.readouterr().out
    assert len(ShardDataset.open(tmp_path / "v").select("val", where="fps = 4")) == 2
    assert (
        run(["data", "fetch", str(raw), "--list", "webvid", "--out", str(tmp_path / "w"), "--media", "x"])
        == 2
    )


def test_the_list_of_internvid_needs_ytdlp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_internvid(tmp_path / "raw")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'diptych\[video\]'"):
        fetch(str(tmp_path / "raw"), tmp_path / "out", form="internvid", videos=VideoOptions())
