"""Odd videos, row by row as docs/data.md says what becomes of them."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from loader_samples import write_tar
from PIL import Image
from torch import Tensor
from video_samples import make_video, naive_frames

from diptych.data.config import DataConfig, ImageConfig
from diptych.data.image import square_into
from diptych.data.index import ShardDataset
from diptych.data.loader import evaluation_batches

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
KEYS = {"x264-params": "keyint=10"}


class Case:
    """What a video is, and which of its frames (as a plain decoder gives them) a clip of three shows."""

    def __init__(
        self,
        data: bytes | Callable[[], bytes],
        shown: list[int] | None = None,
        *,
        refused: str = "",
        frames: Callable[[bytes], list[np.ndarray]] = naive_frames,
        name: str = "mp4",
        mask: list[bool] | None = None,
        most: int = 0,
        **video: Any,
    ) -> None:
        self.data, self.shown, self.refused, self.frames = data, shown, refused, frames
        self.name, self.mask, self.most, self.video = name, mask, most, video


def turned_frames(data: bytes) -> list[np.ndarray]:
    return [np.ascontiguousarray(np.rot90(frame)) for frame in naive_frames(data)]


def with_edit_list() -> bytes:
    """A copy of a video whose first ten frames are in the file but not to be shown."""
    file = io.BytesIO()
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with (
        av.open(io.BytesIO(make_video(30, options={"x264-params": "keyint=60:scenecut=0"}))) as source,
        av.open(file, "w", format="mp4", options=options) as out,
    ):
        stream = source.streams.video[0]
        target = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                assert packet.pts is not None
                assert packet.dts is not None
                shift = int(10 / 25 / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = target
                out.mux(packet)
    data = file.getvalue()
    assert len(naive_frames(data)) == 20
    return data


def cut_off() -> bytes:
    whole = make_video(40, container="matroska", options=KEYS)
    return whole[: len(whole) * 6 // 10]


def gif() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (20, 10), (colour, 0, 0)) for colour in (0, 60, 120, 180, 240)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


def gif_frames(data: bytes) -> list[np.ndarray]:
    with Image.open(io.BytesIO(data)) as picture:
        found = []
        for number in range(5):
            picture.seek(number)
            found.append(np.array(picture.convert("RGB")))
        return found


def damaged() -> bytes:
    data = bytearray(make_video(40, container="matroska", options=KEYS))
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    return bytes(data)


STAMPS = [0, 40, 80, 120, 160, 200, 240, 1000, 2000]
CASES = {
    # At 1.5 s, between the last two, the even number; half a second is nearer to 0.24 than to 1 s.
    "variable frame rate": Case(
        make_video(9, times=STAMPS, container="matroska"), [6, 8, 8], name="mkv", policy="fps"
    ),
    "turned by its header": Case(make_video(9, rotation=90), [1, 4, 7], frames=turned_frames),
    "one frame": Case(make_video(1), [0, 0, 0], mask=[True, False, False]),
    "fewer frames than the clip": Case(make_video(2), [0, 1, 1], mask=[True, True, False]),
    "other sizes than its neighbours": Case(make_video(9, size=(96, 32)), [1, 4, 7]),
    "cut off in front by an edit list": Case(with_edit_list, [2, 9, 16]),
    "sound only": Case(make_video(0, sound=True), refused="no video stream"),
    "truncated MP4 (its index is at the end)": Case(make_video(30)[:-400], refused="truncated video"),
    "truncated WebM, MKV, TS or AVI": Case(cut_off, [0, -1, -1], name="mkv", policy="uniform"),
    "damaged in the middle": Case(damaged, [0], name="mkv", policy="uniform"),
    "frames stored in another order than the container says (H.264 in AVI)": Case(
        make_video(9, container="avi"), [1, 4, 7], name="avi"
    ),
    "zero bytes, a web page, noise, a play list": Case(
        b"#EXTM3U\n#EXTINF:9\nhttp://127.0.0.1/x.ts\n", refused="unreadable video"
    ),
    "frames above 89 million pixels": Case(make_video(5), refused="video too large", most=2000),
    "an animated GIF or WebP, with `frames`": Case(
        gif, [0, 2, 4], name="gif", frames=gif_frames, policy="uniform"
    ),
}


def small(pixels: np.ndarray) -> Tensor:
    out = np.empty((16, 16, 3), dtype=np.uint8)
    square_into(out, pixels, ImageConfig(size=16))
    return torch.from_numpy(out).permute(2, 0, 1)


def test_the_page_and_the_cases_have_the_same_rows() -> None:
    part = PAGE.read_text(encoding="utf-8").partition("| video | what is loaded |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \| .+ \|$", part, re.MULTILINE)
    assert rows == list(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("row", CASES)
def test_odd_videos(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[row]
    if case.most:
        monkeypatch.setattr("diptych.data.raw.video.MAX_PIXELS", case.most)
    data = case.data if isinstance(case.data, bytes) else case.data()
    samples = [
        ("odd", {case.name: data, "txt": b"odd"}),
        ("plain", {"mp4": make_video(5, size=(32, 32)), "txt": b"plain"}),
    ]
    selection = ShardDataset.open(write_tar(tmp_path / "odd.tar", samples)).select()
    config = DataConfig.model_validate(
        {"image": {"size": 16}, "video": {"frames": 3, **case.video}, "loader": {"on_error": "count"}}
    )
    (batch,) = evaluation_batches(selection, config, 2)
    if case.refused:
        assert batch.keys == ["plain"]
        assert batch.skipped == {case.refused: 1}
        return
    assert batch.keys == ["odd", "plain"]
    assert batch.images is not None
    plain = case.frames(data)
    for place, number in enumerate(case.shown or []):
        if place == 1 and number == -1:
            number = (len(plain) - 1) // 2
        assert torch.equal(batch.images[0, place], small(plain[number])), (place, number)
    if case.mask is not None:
        assert batch.frame_mask is not None
        assert batch.frame_mask[0].tolist() == case.mask
