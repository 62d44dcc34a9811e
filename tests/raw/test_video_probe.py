"""What a video is, from its content."""

import io
import struct

import av
import numpy as np
import pytest

from diptych.data.miniatures.media import picture, video, video_of
from diptych.data.raw import video as module
from diptych.data.raw.refs import MediumError
from diptych.data.raw.video import VIDEOS, VideoFacts, container_of, ending_of, probe_video


@pytest.mark.parametrize(
    ("ending", "container", "codec"),
    [
        ("mp4", "mov", "h264"),
        ("mov", "mov", "h264"),
        ("mkv", "matroska", "h264"),
        ("webm", "matroska", "vp8"),
        ("avi", "avi", "mpeg4"),
    ],
)
def test_facts_by_hand(tmp_path, ending, container, codec):
    data = video(9, seconds=1.5, fps=8, size=(48, 32), container=ending)
    expected = VideoFacts(container, codec, 48, 32, 1.5, 12, 8.0, 0, audio=False)
    assert probe_video(data) == expected
    path = tmp_path / "x.bin"  # the name says nothing
    path.write_bytes(data)
    assert probe_video(path) == expected
    assert ending_of(data) == ending
    assert VIDEOS[ending] == container


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm"])
def test_sound(ending):
    facts = probe_video(video(9, seconds=1, container=ending, audio=True))
    assert (facts.audio, facts.frames, facts.width) == (True, 8, 32)


@pytest.mark.parametrize(("rotation", "size"), [(90, (24, 32)), (180, (32, 24)), (270, (24, 32))])
def test_turned_videos_are_measured_upright(rotation, size):
    facts = probe_video(video(9, rotation=rotation))
    assert (facts.rotation, facts.width, facts.height) == (rotation, *size)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_variable_frame_rate(ending):
    # Frames at 0, 0.25, 2 and 2.25 s; the last one is shown for 0.25 s.
    facts = probe_video(video_of([1, 2, 3, 4], fps=4, times=[0, 1, 8, 9], container=ending))
    assert (facts.frames, facts.duration, facts.fps) == (4, 2.5, 1.6)


@pytest.mark.parametrize("ending", ["mp4", "webm", "avi"])
def test_one_frame(ending):
    facts = probe_video(video_of([1], fps=5, container=ending))
    assert (facts.frames, facts.duration, facts.fps) == (1, 0.2, 5.0)


def sound_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def tall() -> bytes:
    data = video(1)
    at = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
    return data[:at] + struct.pack(">HH", 60_000, 60_000) + data[at + 4 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "unreadable video: the file is empty"),
        (b"<!DOCTYPE html>", "unreadable video: a web page, no video"),
        (b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n", "unreadable video: no known video format"),
        (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "unreadable video: no known video format"),
        (picture(1, format="png"), "unreadable video: no known video format"),
        (picture(1, format="gif"), "unreadable video: no known video format"),
        (video(1)[:-10], r"truncated video: \d+ bytes of \d+"),
        (video(1)[:200], r"truncated video: 200 bytes of \d+"),
        (video(1)[:32], "unreadable video"),
        (video(1, container="avi")[:150], "unreadable video"),
        (video(1, container="webm")[:150], "unreadable video"),
        (sound_only(), "no video stream: only audio"),
        (video(1)[:48] + bytes(900) + video(1)[948:], "unreadable video"),
    ],
)
def test_what_is_no_video(data, message):
    with pytest.raises(MediumError, match=message):
        probe_video(data)


def test_frames_too_large(monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 32 * 24 - 1)
    with pytest.raises(MediumError, match="video too large: 32 x 24 pixels, at most 767"):
        probe_video(video(1))


@pytest.mark.parametrize(("ending", "share"), [("webm", 0.5), ("avi", 0.75)])
def test_videos_without_an_index_count_what_is_there(ending, share):
    data = video_of(list(range(40)), fps=8, container=ending, key_every=4)
    facts = probe_video(data[: int(share * len(data))])
    assert 8 <= facts.frames < 40
    assert facts.fps == pytest.approx(8, rel=0.05)


def test_odd_bytes_behind_the_end_do_no_harm():
    assert probe_video(video(1) + b"junk of a downloader").frames == 16


def test_containers_that_are_not_generated_here():
    assert container_of(b"G" + bytes(187) + b"G" + bytes(187) + b"G") == "mpegts"
    assert container_of(b"\0\0\1\xba" + bytes(20)) == "mpeg"
    assert ending_of(b"FLV\1") == "flv"
    assert ending_of(b"\x30\x26\xb2\x75") == "wmv"
    assert ending_of(b"\0\0\0\x14ftypqt  ") == "mov"
    assert ending_of(b"\0\0\0\x14ftypavif") == ""  # a picture
    assert container_of(b"GIF89a") == ""


def test_a_missing_file(tmp_path):
    with pytest.raises(MediumError, match=r"unreadable video: .*gone\.mp4"):
        probe_video(tmp_path / "gone.mp4")
