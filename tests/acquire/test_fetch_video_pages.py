"""Pages of video platforms: a false yt-dlp, the real one on the loopback address, what is refused."""

import json
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fault_server import fault_server

from diptych.data.acquire.job import FetchSummary, fetch
from diptych.data.acquire.page_child import guard, hook, status_of, tidy
from diptych.data.acquire.page_errors import page_error
from diptych.data.acquire.pages import as_address, is_page
from diptych.data.acquire.video_options import PageOptions, VideoOptions, video_net
from diptych.data.addresses import PrivateAddressError
from diptych.data.index import ShardDataset
from diptych.data.miniatures.internvid import make_internvid, whole
from diptych.data.miniatures.media import colour_ids, colour_of, video, video_of
from diptych.data.prepare import load_card, prepare
from diptych.data.verify import verify
from diptych.errors import UsageError

NET = video_net(backoff=0.01, timeout=8.0, row_timeout=20.0, retries=1, max_bytes=100_000)
VTT = "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nhello\n\n00:00:01.500 --> 00:00:02.000\nbye\n"
FALSE = """
import json, os, time
from pathlib import Path

HERE = Path(__file__).parent


class DownloadError(Exception):
    pass


class HTTPError(Exception):
    status = 429


class YoutubeDL:
    def __init__(self, params):
        self.params = params

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def extract_info(self, url, download):
        name = url.rpartition("=")[2]
        known = {k: v for k, v in self.params.items() if isinstance(v, (str, int, float, list, dict))}
        with (HERE / "asked.jsonl").open("a") as file:
            file.write(json.dumps({"url": url, "params": known, "pid": os.getpid()}, default=str) + "\\n")
        self.params["match_filter"]({"is_live": name == "LIVEAAAAAAA"})
        told = HERE / f"{name}.txt"
        if name == "HANGAAAAAAA":
            time.sleep(600)
        if name == "DIESAAAAAAA":
            os._exit(9)
        if name == "BUSYAAAAAAA":
            raise DownloadError("ERROR: [youtube] too much") from HTTPError()
        if told.exists():
            raise DownloadError(told.read_text())
        data = (HERE / f"{name}.mp4").read_bytes()
        path = Path(self.params["outtmpl"]["default"].replace("%(ext)s", "mp4"))
        path.write_bytes(data)
        self.params["progress_hooks"][0]({"downloaded_bytes": len(data)})
        info = {"id": name, "title": "A title", "tags": ["a", "b"], "formats": [{"url": "x"}], "epoch": 3}
        info["requested_downloads"] = [{"filepath": str(path)}]
        if self.params["writesubtitles"]:
            shown = path.with_name("video.en.vtt")
            shown.write_text((HERE / "subtitles.vtt").read_text())
            info["requested_subtitles"] = {"en": {"filepath": str(shown)}}
        return {"entries": [None, info]} if name == "LISTAAAAAAA" else info
"""


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with videos by id, and a false yt-dlp that gives them."""
    folder = tmp_path / "platform"
    folder.mkdir()
    (folder / "yt_dlp.py").write_text(FALSE)
    (folder / "subtitles.vtt").write_text(VTT)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def fetched(folder: Path, *records: dict[str, Any], **options: Any) -> FetchSummary:
    list_ = folder / "a.jsonl"
    list_.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    defaults: dict[str, Any] = {"net": NET, "videos": VideoOptions(), "workers": 1}
    return fetch(str(list_), folder / "out", **{**defaults, **options})


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(out / "rows.parquet").sort_by("number").to_pylist()
    return found


def asked(platform: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (platform / "asked.jsonl").read_text().splitlines()]


def test_clips_with_subtitles(platform: Path, tmp_path: Path) -> None:
    (platform / "-AAAAAAAAA0.mp4").write_bytes(video_of([1] * 8 + [2] * 8, 8))
    (platform / "cookies.txt").write_text("# Netscape HTTP Cookie File\n")
    summary = fetched(
        tmp_path,
        *({"YoutubeID": "-AAAAAAAAA0", "caption": f"c{n}", "start": n, "end": n + 1} for n in range(2)),
        videos=VideoOptions(subtitles=("en",), height=240),
        pages=PageOptions(
            cookies=str(platform / "cookies.txt"), proxy="http://127.0.0.1:1", rate=5000, sleep_requests=0.5
        ),
    )
    assert summary.fetched == 2
    ((told),) = asked(platform)
    assert told["url"] == "https://www.youtube.com/watch?v=-AAAAAAAAA0"
    params = told["params"]
    assert params["format"].startswith("b[height<=240][ext=mp4]/")
    assert (params["proxy"], params["ratelimit"], params["sleep_interval_requests"]) == (
        "http://127.0.0.1:1",
        5000,
        0.5,
    )
    assert (params["subtitleslangs"], params["writeautomaticsub"], params["max_filesize"]) == (
        ["en"],
        False,
        100_000,
    )
    # Only a copy is given away: yt-dlp writes into it.
    assert params["cookiefile"] != str(platform / "cookies.txt")
    with tarfile.open(tmp_path / "out" / "a-000000.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".json")]
        first, second = (json.load(tar.extractfile(name)) for name in names)  # type: ignore[arg-type]
        media = [tar.extractfile(name.replace("json", "mp4")).read() for name in names]  # type: ignore[union-attr]
    assert [colour_ids(data) for data in media] == [[1] * 8, [2] * 8]
    assert first["yt_meta_dict"] == {
        "info": {"id": "-AAAAAAAAA0", "title": "A title", "tags": ["a", "b"]},
        "subtitles": {
            "en": [
                {"start": 0.5, "end": 1.5, "lines": ["hello"]},
                {"start": 1.5, "end": 2.0, "lines": ["bye"]},
            ]
        },
    }
    assert first["clip_subtitles"] == {"en": [{"start": 0.5, "end": 1.0, "lines": ["hello"]}]}
    assert second["clip_subtitles"]["en"][1] == {"start": 0.5, "end": 1.0, "lines": ["bye"]}
    # Nothing that was said about cookies or proxy is in the dataset.
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"cookie" not in everything
    assert b"127.0.0.1:1" not in everything


@pytest.mark.slow
def test_each_failure_has_its_status(platform: Path, tmp_path: Path) -> None:
    said = {
        "PRIVAAAAAAA": "ERROR: [youtube] PRIVAAAAAAA: Private video. Sign in if you have been granted access",
        "REMOAAAAAAA": "ERROR: [youtube] REMOAAAAAAA: This video has been removed by the uploader",
        "BOTSAAAAAAA": "ERROR: [youtube] BOTSAAAAAAA: Sign in to confirm you’re not a bot.",
    }
    for name, text in said.items():
        (platform / f"{name}.txt").write_text(text)
    (platform / "goodAAAAAA1.mp4").write_bytes(video(7))
    (platform / "LISTAAAAAAA.mp4").write_bytes(video(8))
    (platform / "PAGEAAAAAAA.mp4").write_bytes(b"<html>403</html>")
    (platform / "LARGAAAAAAA.mp4").write_bytes(bytes(100_001))
    causes = {
        "goodAAAAAA1": ("", 1),
        "PRIVAAAAAAA": ("video private", 1),
        "REMOAAAAAAA": ("video gone", 1),
        "PAGEAAAAAAA": ("not a video", 1),
        "LARGAAAAAAA": ("too large", 1),
        "LIVEAAAAAAA": ("live video", 1),
        "DIESAAAAAAA": ("page failed", 2),
        "BUSYAAAAAAA": ("http 429", 2),
        "BOTSAAAAAAA": ("bot check", 2),
        "LISTAAAAAAA": ("", 1),
    }
    summary = fetched(tmp_path, *({"url": name} for name in causes), pages=PageOptions(pause=0.01))
    assert (summary.rows, summary.fetched) == (10, 2)
    assert [(row["cause"], row["tries"]) for row in rows(tmp_path / "out")] == list(causes.values())
    assert {row["host"] for row in rows(tmp_path / "out")} == {"www.youtube.com"}
    assert verify(tmp_path / "out").sound
    # One process for all, but for what the one that died left undone.
    assert len({one["pid"] for one in asked(platform)}) == 3
    # What failed is tried again, alone.
    (platform / "PRIVAAAAAAA.txt").unlink()
    (platform / "PRIVAAAAAAA.mp4").write_bytes(video(9))
    before = len(asked(platform))
    again = fetched(
        tmp_path, *({"url": name} for name in causes), pages=PageOptions(pause=0.01), retry_failed=True
    )
    assert again.fetched == 3
    assert {one["url"][-11:] for one in asked(platform)[before:]} == {
        name for name, (cause, _) in causes.items() if cause
    }


@pytest.mark.slow
def test_a_page_that_never_ends_is_given_up(platform: Path, tmp_path: Path) -> None:
    (platform / "goodAAAAAA1.mp4").write_bytes(video(7))
    net = video_net(timeout=1.5, row_timeout=3.0)
    summary = fetched(tmp_path, {"url": "HANGAAAAAAA"}, {"url": "goodAAAAAA1"}, net=net)
    assert summary.causes == {"timeout": 1}
    # The process that hung is gone.
    pid = asked(platform)[0]["pid"]
    assert not Path(f"/proc/{pid}").exists()


_HANGING = """
import sys
sys.path.insert(0, sys.argv[3])
from diptych.data.acquire.job import fetch
from diptych.data.acquire.video_options import VideoOptions
fetch(sys.argv[1], __import__("pathlib").Path(sys.argv[2]), videos=VideoOptions(), workers=1)
"""


@pytest.mark.slow
def test_no_process_outlives_a_killed_job(platform: Path, tmp_path: Path) -> None:
    list_ = tmp_path / "a.txt"
    list_.write_text("https://youtu.be/v=HANGAAAAAAA\n")
    job = subprocess.Popen([sys.executable, "-c", _HANGING, str(list_), str(tmp_path / "out"), str(platform)])
    try:
        _until((platform / "asked.jsonl").exists)
    finally:
        job.kill()
        job.wait()
    pid = asked(platform)[0]["pid"]
    _until(lambda: not _lives(pid))


def _until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass within 30 s")


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_the_published_list_of_internvid(platform: Path, tmp_path: Path) -> None:
    """From the owners' JSON lines to the card: fetch, then prepare."""
    raw, out = tmp_path / "raw", tmp_path / "fetched"
    make_internvid(raw)
    # 0.5 to 2 s and 2 to 3.5 s of a video whose colour changes at 2 s.
    (platform / "-AAAAAAAAA0.mp4").write_bytes(whole())
    (platform / "zAAAAAAAAA9.mp4").write_bytes(video(600, 200.0, fps=5))
    (platform / "GONEAAAAAA3.txt").write_text("ERROR: [youtube] GONEAAAAAA3: Private video")
    (platform / "_AAAAAAAAA1.mp4").write_bytes(video(602, 2.0))
    list_ = raw / "InternVid-10M-flt.jsonl"
    summary = fetch(
        str(list_), out, form="internvid", videos=VideoOptions(), net=NET, workers=2, shard_size=2
    )
    assert (summary.rows, summary.fetched, summary.shards) == (8, 4, 2)
    assert summary.causes == {"bad row": 2, "video private": 1, "clip past the end": 1}
    # Once each, by two workers.
    assert sorted(one["url"][-11:] for one in asked(platform)) == [
        *("-AAAAAAAAA0", "GONEAAAAAA3", "_AAAAAAAAA1", "zAAAAAAAAA9")
    ]
    assert verify(out).sound
    made = prepare(load_card("internvid"), out, tmp_path / "out", layout="fetched")
    assert made.splits == {"train": 3, "from_1_second": 2}
    assert made.problems == {"missing video": 4}
    samples = ShardDataset.open(tmp_path / "out").select()
    found = {sample.key: sample for sample in (samples.read(n) for n in range(len(samples)))}
    assert {key: sample.captions for key, sample in found.items()} == {
        "yt_zAAAAAAAAA9_190567_191200": ('A man, "smiling", in a café', "The same clip in other words"),
        "yt_-AAAAAAAAA0_500_2000": ("a dog runs",),
        "yt_-AAAAAAAAA0_2000_3500": ("a dog runs",),
    }
    colours = {key: set(colour_ids(sample.media["mp4"])) for key, sample in found.items()}
    assert list(colours.values()) == [{600}, {610}, {611}]
    meta = found["yt_zAAAAAAAAA9_190567_191200"].meta
    assert (meta["clip_start"], meta["clip_end"], meta["aesthetic_score"]) == (190.567, 191.2, 4.58984375)


@pytest.mark.slow
def test_the_real_ytdlp(tmp_path: Path) -> None:
    """Its generic extractor on a page of this machine; and the same without leave to look there."""
    pytest.importorskip("yt_dlp")
    with fault_server() as server:
        server.files = {
            "/a.mp4": video(5),
            "/page": f"<html><title>T</title><video src='{server.url}/a.mp4'></video></html>".encode(),
        }
        server.heads = {"/page": ("Content-Type: text/html",), "/a.mp4": ("Content-Type: video/mp4",)}
        records = [{"url": f"{server.url}/page"}, {"url": f"{server.url}/status/404"}]
        net = video_net(allow_private=True, backoff=0.01)
        pages = PageOptions(extract="all")
        summary = fetched(tmp_path, *records, {"url": f"{server.url}/a.mp4"}, net=net, pages=pages)
        assert summary.causes == {"http 404": 1}
        sample = ShardDataset.open(tmp_path / "out").select().read(0)
        assert colour_of(sample.media["mp4"]) == 5
        server.gets.clear()
        (tmp_path / "b").mkdir()
        net = video_net(backoff=0.01)
        with pytest.raises(Exception, match=r"refused address 1"):
            fetched(tmp_path / "b", records[0], net=net, pages=pages)
        assert not server.gets


@pytest.mark.parametrize(
    ("said", "status", "cause", "again"),
    [
        ("ERROR: [youtube] x: Private video. Sign in", 0, "video private", False),
        ("[youtube] x: Video unavailable. This video is no longer available", 0, "video gone", False),
        ("[youtube] x: The uploader has not made this video available in your country", 0, "region", False),
        ("[youtube] x: Sign in to confirm your age. This video may be inappropriate", 0, "age check", False),
        ("[youtube] x: Sign in to confirm you’re not a bot. Use --cookies", 0, "bot check", True),
        ("[youtube] x: Join this channel to get access to members-only content", 0, "video not free", False),
        ("[vimeo] x: The web client only works when logged-in", 0, "login", False),
        ("[youtube] x: Premieres in 3 hours", 0, "live video", False),
        ("[youtube] x: Requested format is not available", 0, "no such format", False),
        ("Unsupported URL: http://v.example/private/429", 0, "no video on the page", False),
        ("[generic] Unable to download webpage: HTTP Error 403: Forbidden", 0, "http 403", False),
        ("[generic] Unable to download webpage: HTTP Error 503: busy", 0, "http 503", True),
        ("unable to download video data: HTTP Error 429: Too Many Requests", 0, "http 429", True),
        ("anything", 429, "http 429", True),
        ("[private] x: The read operation timed out", 0, "no answer", True),
        ("[generic] Failed to resolve 'v.example' ([Errno -2] Name or service not known)", 0, "dns", True),
        ("10.0.0.1 is a private or local address", 0, "refused address", False),
        ("[x] y: Connection aborted.", 0, "cut off", True),
        ("Something else", 0, "page failed", False),
    ],
)
def test_messages_become_causes(said: str, status: int, cause: str, again: bool) -> None:
    found = page_error(said, status, 30.0)
    assert (found.cause, found.again) == (cause, again)
    assert (found.after == 30.0) == (cause in ("http 429", "bot check"))


@pytest.mark.parametrize(
    ("url", "platforms", "everything"),
    [
        ("https://www.youtube.com/watch?v=AAAAAAAAAA0", True, True),
        ("https://youtu.be/AAAAAAAAAA0", True, True),
        ("https://notyoutube.com/watch", False, True),
        ("https://youtube.com.v.example/watch", False, True),
        ("https://v.example/a.mp4?x=1", False, False),
        ("https://v.example/a.MOV", False, False),
        ("https://v.example/a", False, True),
    ],
)
def test_what_is_a_page(url: str, platforms: bool, everything: bool) -> None:
    assert is_page(url, "platforms") == platforms
    assert is_page(url, "all") == everything
    assert not is_page(url, "none")


def test_ids_become_addresses() -> None:
    assert as_address("-AAAAAAAAA0") == "https://www.youtube.com/watch?v=-AAAAAAAAA0"
    assert as_address("clips/a.mp4") == "clips/a.mp4"


def test_connections_and_programs_that_are_refused() -> None:
    look = hook(False, frozenset({("127.0.0.1", 3128)}))
    for host in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:192.168.0.1", "fe80::1%eth0"):
        with pytest.raises(PrivateAddressError):
            look("socket.connect", (None, (host, 80)))
    with pytest.raises(PrivateAddressError):
        look("socket.connect", (None, "/var/run/some.sock"))
    look("socket.connect", (None, ("127.0.0.1", 3128)))
    look("socket.connect", (None, ("8.8.8.8", 443)))
    hook(True, frozenset())("socket.connect", (None, ("127.0.0.1", 80)))
    for event in ("subprocess.Popen", "os.posix_spawn"):
        with pytest.raises(PermissionError):
            look(event, ("ffmpeg", ["ffmpeg", "-i", "http://v.example/a.m3u8"]))
    look("subprocess.Popen", ("deno", ["deno", "run", "-"]))


def test_the_hook_holds_in_a_process() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        code = (
            "import socket, threading\n"
            f"from {guard.__module__} import guard\n"
            "guard({'allow_private': False, 'proxy': ''})\n"
            "try:\n"
            f"    socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))\n"
            "except OSError as error:\n"
            "    print(error)\n"
            "try:\n"
            "    import curl_cffi\n"
            "except ImportError:\n"
            "    print('kept out')\n"
        )
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "127.0.0.1 is a private or local address\nkept out\n"


def test_what_is_kept_of_a_description() -> None:
    info = {"title": "t" * 30_000, "url": "x", "n": 1, "none": None, "_hidden": 1, "many": ["x" * 10] * 5000}
    assert tidy({**info, "chapters": [{"start_time": 0}], "odd": {"a": 1}}) == {
        "title": "t" * 20_000,
        "n": 1,
        "none": None,
        "chapters": [{"start_time": 0}],
    }


def test_the_status_behind_an_error() -> None:
    class CauseError(Exception):
        status = 403

    class OuterError(Exception):
        exc_info = (CauseError, CauseError("x"), None)

    assert status_of(OuterError("y")) == 403
    assert status_of(ValueError("z")) == 0
    loop = ValueError("loop")
    loop.__cause__ = loop
    assert status_of(loop) == 0


def test_options_are_checked(tmp_path: Path) -> None:
    for wrong in ({"extract": "al"}, {"rate": -1}, {"at_a_time": 0}):
        with pytest.raises(UsageError):
            PageOptions(**wrong)
    for bad in ({"precision": "exac"}, {"audio": "no"}, {"fps": -1}, {"cut_timeout": 0}, {"height": 0}):
        with pytest.raises(UsageError):
            VideoOptions(**bad)
    with pytest.raises(UsageError, match=r"--cookies: .* is no file"):
        fetched(tmp_path, pages=PageOptions(cookies=str(tmp_path / "none.txt")))
