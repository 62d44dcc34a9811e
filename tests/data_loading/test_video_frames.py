"""Which frames are shown, and that they are those of a decoder that is given everything."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_samples import HEIGHT, WIDTH, make_video, naive_frames

from diptych.data import video as video_module
from diptych.data.frames import (
    choose_frames,
    dense_frames,
    first_shown,
    frames_at_rate,
    frames_between,
    frames_of_clip,
    interleaved_frames,
    middle_frames,
    uniform_frames,
)
from diptych.data.raw.refs import MediumError
from diptych.data.video import VideoFrames, open_frames
from diptych.data.video_config import VideoConfig

GOLDEN = Path(__file__).with_name("frame_indices.json")
"""Made by the original implementations of VideoChat2, MVBench and Video-LLaVA."""


def times_of(frames: int, fps: float = 25.0) -> np.ndarray:
    return np.arange(frames) / fps


def shown_by(video: VideoFrames, wanted: list[int]) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}

    def use(number: int, pixels: np.ndarray) -> None:
        assert number not in found
        found[number] = pixels.copy()

    chosen = video.show(lambda _: np.array(wanted), use)
    assert chosen.tolist() == wanted
    return found


# Policies


def test_segments_show_the_middle_or_the_start_of_equal_parts() -> None:
    # Parts 0-1, 2-3, 4-5, 6-8 of nine frames.
    assert choose_frames(9, 4).tolist() == [0, 2, 4, 7]
    assert choose_frames(9, 4, place="start").tolist() == [0, 2, 4, 6]
    assert choose_frames(3, 5).tolist() == [0, 1, 1, 2, 2]
    assert choose_frames(3, 5, short="last").tolist() == [0, 1, 2, 2, 2]


def test_uniform_frames_have_both_ends() -> None:
    assert uniform_frames(11, 3).tolist() == [0, 5, 10]
    assert uniform_frames(5, 4).tolist() == [0, 1, 2, 4]
    assert uniform_frames(7, 1).tolist() == [0]
    assert uniform_frames(2, 4).tolist() == [0, 0, 0, 1]


def test_middles_of_eight_parts() -> None:
    # Parts of (100 - 1) / 8 = 12.375 frames; 6.1875 + 12, 25, 37, 50, ... rounded as Python does.
    assert middle_frames(100, 8).tolist() == [6, 18, 31, 43, 56, 68, 80, 93]


def test_dense_clips() -> None:
    assert dense_frames(20, 4, 2).tolist() == [6, 8, 10, 12]  # 13 frames of room on both sides, 6 before
    assert dense_frames(20, 4, 2, draw=0.0).tolist() == [0, 2, 4, 6]
    assert dense_frames(20, 4, 2, draw=0.999).tolist() == [13, 15, 17, 19]
    assert dense_frames(5, 4, 2).tolist() == [0, 2, 4, 4]
    assert dense_frames(20, 3, 2, clips=3).tolist() == [0, 2, 4, 7, 9, 11, 15, 17, 19]
    # Stride 4 in two clips: every second frame from the middle (room of 5), in turn.
    assert interleaved_frames(20, 4, 4, 2).tolist() == [2, 6, 10, 14, 4, 8, 12, 16]


def test_frames_at_a_rate_follow_the_times() -> None:
    assert frames_at_rate(times_of(100), 1.0).tolist() == [12, 38, 62, 88]  # 12.5, 37.5, ...: to even
    assert frames_at_rate(times_of(10), 1.0).tolist() == [5]  # shorter than half of a second
    assert frames_at_rate(times_of(1), 1.0).tolist() == [0]
    # Ten frames in the first second, then one a second: halves of seconds are between two frames, to even.
    times = np.array([i / 10 for i in range(10)] + [1.0, 2.0, 3.0, 4.0])
    assert frames_at_rate(times, 1.0).tolist() == [5, 10, 12, 12]


def test_rate_policy_takes_the_first_frames_and_repeats_the_last() -> None:
    config = VideoConfig(frames=3, policy="fps", fps=2.0)
    assert frames_of_clip(times_of(100), config).tolist() == [6, 19, 31]
    assert frames_of_clip(times_of(25), config).tolist() == [6, 19, 19]
    assert first_shown(np.array([6, 19, 19])).tolist() == [True, True, False]


def test_frames_between_two_times() -> None:
    times = times_of(100)
    assert frames_between(times, 1.0, 3.0) == (25, 75)
    assert frames_between(times, None, None) == (0, 100)
    assert frames_between(times, 1.01, 1.02) == (25, 26)  # what is shown then
    assert frames_between(times, 9.0, 10.0) == (99, 100)  # behind the end: the last one
    assert frames_between(times, -1.0, 0.0) == (0, 1)


@given(
    st.integers(1, 400),
    st.integers(1, 20),
    st.sampled_from(["segments", "uniform", "middles", "dense", "fps"]),
    st.integers(1, 40),
    st.sampled_from(["spread", "interleaved"]),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_any_policy_shows_frames_that_exist_in_order(
    frames: int, count: int, policy: str, stride: int, at: str, clips: int, random_: bool, seed: int
) -> None:
    clips = clips if policy == "dense" and not random_ else 1
    config = VideoConfig.model_validate(
        {"frames": count, "policy": policy, "stride": stride, "clips": clips, "clips_at": at, "fps": stride}
    )
    draws = np.random.default_rng(seed).random(count) if random_ else None
    found = frames_of_clip(times_of(frames), config, draws, clips)
    assert found.shape == (clips * count,)
    assert found.min() >= 0
    assert found.max() < frames
    assert (np.diff(found.reshape(clips, count), axis=1) >= 0).all()
    assert first_shown(found, clips).sum() == sum(len(set(c)) for c in found.reshape(clips, count).tolist())


def test_published_policies() -> None:
    checked = set()
    for case in json.loads(GOLDEN.read_text())["cases"]:
        rule, frames = case["rule"], case.get("vlen")
        if rule == "videochat2_middle":
            found = choose_frames(frames, case["num_frames"], short="last")
        elif rule == "videochat2_fix_start0":
            found = choose_frames(frames, case["num_frames"], place="start", short="last")
        elif rule == "mvbench_demo_get_index":
            found = middle_frames(case["num_frames"], case["num_segments"])
        elif rule == "video_llava_linspace":
            found = uniform_frames(frames, case["num_frames"])
        elif rule == "videochat2_fps" and case["indices"]:
            rate, most = float(case["sample"].removeprefix("fps")), case["max_num_frames"]
            found = frames_at_rate(times_of(frames, case["input_fps"]), rate)[: most if most > 0 else None]
        else:
            continue  # one random choice, another rule of MVBench, and a clip that would show nothing
        assert found.tolist() == case["indices"], case
        checked.add(rule)
    assert len(checked) == 5


# Decoding

FORMS = {
    "h264": ("libx264", "mp4", {"x264-params": "keyint=20:scenecut=0"}),
    "one key frame": ("libx264", "mov", {}),
    "open groups": ("libx264", "matroska", {"x264-params": "keyint=12:open-gop=1:bframes=3"}),
    "slices": ("libx264", "mpegts", {"x264-params": "slices=3:bframes=5:keyint=15"}),
    "interlaced": ("libx264", "mp4", {"x264-params": "interlaced=1:keyint=15"}),
    "refreshed bit by bit": ("libx264", "mp4", {"x264-params": "intra-refresh=1:keyint=10"}),
    "stored in another order": ("libx264", "avi", {"x264-params": "keyint=10"}),
    "mpeg4": ("mpeg4", "avi", {"bf": "2"}),
    "vp8": ("libvpx", "webm", {"auto-alt-ref": "1", "lag-in-frames": "10"}),
    "vp9": ("libvpx-vp9", "webm", {"lag-in-frames": "10"}),
    "mpeg2": ("mpeg2video", "mpeg", {"bf": "2"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_frames_are_those_of_a_plain_decoder(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, container, options = FORMS[form]
    data = make_video(45, codec=codec, container=container, options=options)
    plain = naive_frames(data)
    choice = random.Random(0)
    wanted = [[0], [len(plain) - 1], [choice.randrange(len(plain))], list(range(len(plain)))]
    wanted += [sorted(choice.sample(range(len(plain)), 4)) for _ in range(4)]
    for kept in (video_module.KEPT_PACKETS, 0):
        monkeypatch.setattr(video_module, "KEPT_PACKETS", kept)
        with open_frames(data) as video:
            assert len(video.times) == len(plain)
            assert (np.diff(video.times) > 0).all()
            for numbers in wanted:
                found = shown_by(video, numbers)
                assert found.keys() == set(numbers)
                for number, pixels in found.items():
                    np.testing.assert_array_equal(pixels, plain[number])


def test_only_what_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_video(
        60, options={"x264-params": "keyint=20:min-keyint=20:scenecut=0:bframes=2:b-adapt=0:b-pyramid=none"}
    )
    fed: list[int] = []
    original = video_module._decoded

    def counting(codec, packets, **options):  # type: ignore[no-untyped-def]
        def counted():  # type: ignore[no-untyped-def]
            for packet in packets:
                fed.append(packet.pts)
                yield packet

        return original(codec, counted(), **options)

    monkeypatch.setattr(video_module, "_decoded", counting)
    with open_frames(data) as video:
        shown_by(video, [40])
        assert len(fed) == 1  # a key frame
        fed.clear()
        shown_by(video, [3, 46])
        # 0 and 3; 40, 43 and 46: two of three pictures between them serve no other.
        assert len(fed) == 5


def without_order(data: bytes) -> bytes:
    """A video whose header no longer says how far frames are out of order (H.264 of the main profile)."""
    header = re.search(rb"\x01\x4d..\xff\xe1", data, re.DOTALL)
    assert header is not None
    at = header.end()
    size, start = int.from_bytes(data[at : at + 2], "big"), at + 2
    bits = "".join(f"{byte:08b}" for byte in data[start : start + size])
    place = 8 + 24  # the kind of unit; profile, constraints, level

    def number() -> int:
        nonlocal place
        zeros = bits.index("1", place) - place
        value = int(bits[place + zeros : place + 2 * zeros + 1], 2) - 1
        place += 2 * zeros + 1
        return value

    number(), number()
    if number() == 0:  # how places in the order are stored
        number()
    number()
    place += 1
    number(), number()
    place += 1 if bits[place] == "1" else 2
    place += 1
    place += 1
    if bits[place - 1] == "1":
        number(), number(), number(), number()
    assert bits[place] == "1"  # there are further parameters, the order among them
    bits = (bits[:place] + "01").ljust(len(bits), "0")
    unit = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    return data[:start] + unit + data[start + size :]


def test_headers_that_hide_the_order_of_frames() -> None:
    # FFmpeg works it out of the table of an MP4, although the first frames are not decoded to find out.
    options = {"profile": "main", "x264-params": "bframes=3:keyint=20"}
    data = without_order(make_video(40, options=options))
    plain = naive_frames(data)
    assert len(plain) == 40
    for wanted in ([0], [1], [39], [2, 17, 30], list(range(40))):
        with open_frames(data) as video:
            found = shown_by(video, wanted)
        for number in wanted:
            np.testing.assert_array_equal(found[number], plain[number])


# Odd files


def test_one_frame() -> None:
    data = make_video(1)
    with open_frames(data) as video:
        assert video.times.tolist() == [0.0]
        np.testing.assert_array_equal(shown_by(video, [0, 0])[0], naive_frames(data)[0])


def test_times_of_a_variable_frame_rate() -> None:
    stamps = [0, 40, 80, 500, 1000, 1040, 3000]
    data = make_video(len(stamps), times=stamps, container="matroska")
    with open_frames(data) as video:
        np.testing.assert_allclose(video.times, np.array(stamps) / 1000, atol=1e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_videos_are_upright(degrees: int) -> None:
    data = make_video(3, rotation=degrees)
    stored = naive_frames(data)
    with open_frames(data) as video:
        found = shown_by(video, [1])[1]
    assert found.shape[:2] == ((HEIGHT, WIDTH) if degrees == 180 else (WIDTH, HEIGHT))
    np.testing.assert_array_equal(found, np.rot90(stored[1], degrees // 90))  # both counter-clockwise


def test_truncated_videos() -> None:
    whole = make_video(40, container="matroska", options={"x264-params": "keyint=10"})
    cut = whole[: len(whole) * 6 // 10]
    plain = naive_frames(cut)
    with open_frames(cut) as video:
        found = shown_by(video, [0, len(plain) - 1])
    np.testing.assert_array_equal(found[len(plain) - 1], plain[-1])
    assert 1 < len(plain) < 40
    with pytest.raises(MediumError) as problem, open_frames(make_video(40)[:-200]):
        pass
    assert problem.value.cause in ("truncated video", "unreadable video")


def test_videos_that_cannot_be_used() -> None:
    for data, cause in ((b"", "unreadable video"), (b"nothing" * 300, "unreadable video")):
        with pytest.raises(MediumError) as problem, open_frames(data):
            pass
        assert problem.value.cause == cause


def test_damage_in_the_middle_shows_what_can_be_decoded() -> None:
    data = bytearray(make_video(40, container="matroska", options={"x264-params": "keyint=10"}))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    with open_frames(bytes(data)) as video:
        found: dict[int, np.ndarray] = {}
        numbers = video.show(lambda times: np.arange(len(times)), lambda n, p: found.update({n: p.copy()}))
    assert len(numbers) == len(found) > 10
