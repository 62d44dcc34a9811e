"""Clips: the right frames, also with odd times, sources and sizes."""

import io
import math
import pickle
import tarfile
import zipfile
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.miniatures.media import colour, colour_ids, picture, turned, video, video_of
from diptych.data.raw.clips import ClipRef, resample
from diptych.data.raw.encode import Sampler
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.refs import FileRef, MediumError
from diptych.data.raw.video import probe_video

IDS = list(range(1, 41))
"""Frame n (from 0) of 8 a second shows id n + 1; keyframes are 1, 11, 21, 31."""


WHOLE = [video(5, 1.0, container=container) for container in ("mp4", "mkv", "webm", "avi")]
WHOLE.append(video(5, 1.0, audio=True))


class Bytes:
    """A medium in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self) -> bytes:
        return self._data


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for ending in ("mp4", "mkv", "webm", "avi"):
        (folder / f"x.{ending}").write_bytes(video_of(IDS, container=ending, key_every=10))
    (folder / "sound.mp4").write_bytes(video_of(IDS, key_every=10, audio=True))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm", "avi"])
def test_exact_parts(sources, ending):
    source = FileRef(sources / f"x.{ending}")
    for start, end, ids in [
        (0, 1, range(1, 9)),
        (-3, 0.3, range(1, 4)),
        (1.5, 2.0, range(13, 17)),  # [start, end)
        (1.49, 2.01, range(13, 18)),
        (1.51, 1.52, [13]),  # between two frames: the one that is shown
        (4.8, 100, [40]),
        (4.9, math.inf, [40]),
        (3.0, 9.0, range(25, 41)),
    ]:
        clip = ClipRef(source, start, end)
        data = clip.read()
        assert colour_ids(data) == list(ids), clip
        facts = probe_video(data)
        assert (facts.container, facts.codec) == ("mov", "h264")
        assert facts.duration == pytest.approx(len(ids) / 8)
        assert data == pickle.loads(pickle.dumps(clip)).read()


@pytest.mark.slow
@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "webm", "avi", "mpegts", "flv"])
def test_exact_parts_against_the_whole_video(container):
    """Times are those of players: transport streams begin at 1.4 s of their own clock."""
    ids = [number * 37 % 4096 for number in range(100)]
    source = Bytes(video_of(ids, fps=25, container=container, key_every=30, size=(64, 48)))
    for start, end in [(0.0, 0.2), (0.04, 0.3), (0.081, 1.0), (1.199, 1.4), (2.5, 2.9), (3.21, 8.0)]:
        wanted = [ids[n] for n in range(100) if start - 0.0005 <= n / 25 < end - 0.0005]
        assert colour_ids(ClipRef(source, start, end).read()) == wanted


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_videos_raise_nothing_else(data):
    content = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    source = Bytes(bytes(content[:cut]))
    for act in (
        lambda: probe_video(source.read()),
        ClipRef(source, 0.2, 0.7).read,
        ClipRef(source, 0.2, 0.7, "keyframe").read,
    ):
        with suppress(MediumError):
            act()


def test_parts_by_keyframes_are_copied(sources):
    source = FileRef(sources / "x.mp4")
    data = ClipRef(source, 1.5, 2.0, "keyframe").read()
    ids = colour_ids(data)
    assert ids[0] == 11  # the keyframe before frame 13
    assert ids[-1] in (16, 17, 18)  # up to two frames that others needed
    assert ids == list(range(11, ids[-1] + 1))
    assert data == ClipRef(source, 1.5, 2.0, "keyframe").read()


def test_what_cannot_be_copied_is_encoded(sources):
    for ending in ("webm", "avi"):
        data = ClipRef(FileRef(sources / f"x.{ending}"), 1.5, 2.0, "keyframe").read()
        assert colour_ids(data)[-4:] == [13, 14, 15, 16]
        assert probe_video(data).codec in ("h264", "mpeg4")


@pytest.mark.parametrize("precision", ["exact", "keyframe"])
def test_times_behind_the_end(sources, precision):
    for start in (5.0, 5.1, 700):
        with pytest.raises(MediumError, match=r"clip past the end: .*the video ends at 5 s"):
            ClipRef(FileRef(sources / "x.mp4"), start, start + 10, precision).read()


@pytest.mark.parametrize(("start", "end"), [(2, 2), (3, 1), (math.nan, 2), (1, math.nan), (-5, -1), (-5, 0)])
def test_times_that_make_no_part(sources, start, end):
    with pytest.raises(MediumError, match="empty clip"):
        ClipRef(FileRef(sources / "x.mp4"), start, end).read()


def test_fewer_frames_and_smaller_ones(sources):
    source = FileRef(sources / "x.mp4")
    data = ClipRef(source, 1.0, 3.0).resample(fps=4, short_side=12).read()
    assert colour_ids(data) == [9, 11, 13, 15, 17, 19, 21, 23]
    facts = probe_video(data)
    assert (facts.width, facts.height, facts.fps, facts.duration) == (16, 12, 4.0, 2.0)
    # 3 a second: shown at 0, 1/3, 2/3, ... are frames 0, 2, 5, 8, 10, 13, ...
    assert colour_ids(resample(source, fps=3).read())[:6] == [1, 3, 6, 9, 11, 14]
    # Never more frames than there are, never larger.
    facts = probe_video(resample(source, fps=30, short_side=1000).read())
    assert (facts.frames, facts.width, facts.height) == (40, 32, 24)


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.integers(0, 200), min_size=1, max_size=12, unique=True).map(sorted),
    start=st.integers(0, 150),
    length=st.integers(1, 100),
    fps=st.integers(1, 20),
)
def test_sampling_against_a_slow_oracle(times, start, length, fps):
    """Times in 1/20 s. At every moment of the grid the last frame at or before it, each frame once."""
    unit = Fraction(1, 20)
    sampler = Sampler(start * unit, (start + length) * unit, Fraction(fps))
    got = [n for n, at in enumerate(times) for _, n in sampler.push(at * unit, n, unit)]
    got += [n for _, n in sampler.finish()]
    within = [n for n, at in enumerate(times) if at < start + length]
    expected: list[int] = []
    end = min(start + length, (times[within[-1]] + 1) if within else 0) * unit
    moment = start * unit
    while moment < end:
        shown = [n for n in within if times[n] * unit <= moment]
        if shown and shown[-1] not in expected:
            expected.append(shown[-1])
        moment += Fraction(1, fps)
    if not expected and end > start * unit:
        expected = within[-1:]
    assert got == expected


def test_sources_inside_archives(tmp_path, sources):
    content = (sources / "x.mp4").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(sources / "x.mp4", "v/x.mp4")
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("packed.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / name, "w", method) as archive:
            archive.writestr("v/x.mp4", content)
    expected = ClipRef(FileRef(sources / "x.mp4"), 1, 2).read()
    for place in ("a.tar", "stored.zip", "packed.zip"):
        assert ClipRef(RawFolder(tmp_path).need(f"{place}@/v/x.mp4"), 1, 2).read() == expected


def test_sound_is_cut_with_the_pictures(sources):
    source = FileRef(sources / "sound.mp4")
    for precision in ("exact", "keyframe"):
        data = ClipRef(source, 2.5, 3.5, precision).read()
        with av.open(io.BytesIO(data)) as file:
            heard = [frame.time for frame in file.decode(audio=0)]
        assert heard[0] == pytest.approx(0, abs=0.06)
        assert heard[-1] == pytest.approx(1, abs=0.15)
    assert not probe_video(ClipRef(source, 2.5, 3.5, sound=False).read()).audio


def test_sound_that_an_mp4_does_not_take():
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as out:
        shown, heard = out.add_stream("mpeg4", rate=8), out.add_stream("pcm_s16le", rate=8000, layout="mono")
        shown.width, shown.height, shown.pix_fmt = 32, 24, "yuv420p"
        for number in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), colour(number), np.uint8), format="rgb24")
            out.mux(shown.encode(frame))
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.int16), format="s16", layout="mono")
            noise.sample_rate, noise.pts = 8000, number * 1000
            out.mux(heard.encode(noise))
        out.mux(shown.encode(None))
        out.mux(heard.encode(None))
    clip = ClipRef(Bytes(file.getvalue()), 0.5, 1.5)
    data = clip.read()
    assert data == clip.read()
    with av.open(io.BytesIO(data)) as made:
        assert [stream.codec_context.codec.canonical_name for stream in made.streams] == ["h264", "opus"]
    assert colour_ids(data) == list(range(4, 12))


def quadrants(rotation: int) -> bytes:
    """A video whose top left quarter is white, turned by the header."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=4, options={"x264-params": "mbtree=0"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        pixels = np.zeros((32, 64, 3), np.uint8)
        pixels[:16, :32] = 255
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode(None))
    return turned(file.getvalue(), rotation)


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (1, 1)), (270, (1, 0))])
def test_turned_videos_become_upright(rotation, corner):
    data = ClipRef(Bytes(quadrants(rotation)), 0, 0.5).read()
    with av.open(io.BytesIO(data)) as file:
        frame = next(file.decode(video=0))
        pixels = frame.to_ndarray(format="rgb24")
    assert frame.rotation == 0
    height, width, _ = pixels.shape
    assert (width, height) == ((64, 32) if rotation in (0, 180) else (32, 64))
    quarter = {
        (y, x): part.mean()
        for y, row in enumerate(np.split(pixels, 2))
        for x, part in enumerate(np.split(row, 2, axis=1))
    }
    assert max(quarter, key=quarter.__getitem__) == corner
    assert sorted(quarter.values())[-2] < 30 < 200 < quarter[corner]


def test_copied_packets_keep_the_turn():
    data = ClipRef(Bytes(quadrants(90)), 0, 0.5, "keyframe").read()
    assert probe_video(data).rotation == 90


def test_variable_frame_rate_keeps_its_times():
    data = video_of([1, 2, 3, 4, 5], fps=4, times=[0, 1, 8, 9, 20])
    clip = ClipRef(Bytes(data), 0.25, 4).read()
    assert colour_ids(clip) == [2, 3, 4]
    with av.open(io.BytesIO(clip)) as file:
        assert [frame.time for frame in file.decode(video=0)] == pytest.approx([0, 1.75, 2.0], abs=1e-3)


def test_odd_sizes_become_even():
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as out:
        stream = out.add_stream("png", rate=4)
        stream.width, stream.height, stream.pix_fmt = 33, 25, "rgb24"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((25, 33, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    facts = probe_video(ClipRef(Bytes(file.getvalue())).read())
    assert (facts.width, facts.height, facts.frames) == (34, 26, 1)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "unreadable video"),
        (b"<html>404</html>", "unreadable video"),
        (picture(1), "unreadable video"),
        (video(1)[:-300], "truncated video"),
    ],
)
def test_sources_that_are_no_videos(data, cause):
    with pytest.raises(MediumError) as caught:
        ClipRef(Bytes(data), 0, 1).read()
    assert caught.value.cause == cause
    assert "[0 s, 1 s)" in caught.value.detail


def test_a_missing_source(tmp_path):
    with pytest.raises(MediumError, match="missing file"):
        ClipRef(FileRef(tmp_path / "gone.mp4"), 0, 1).read()
