"""Odd pictures, videos and texts, what is expected of them, and the words of docs/data.md for it."""

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from diptych.data.columns import Row
from diptych.data.index import ShardDataset
from diptych.data.members import MAX_TEXT, BadSampleError
from diptych.data.miniatures.media import picture, video, video_of
from diptych.data.raw import tables
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.tables import comma_separated, json_lines, lines, tsv
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.errors import DataError

Check = Callable[[str, Row], bool]


@dataclass(frozen=True)
class OddPicture:
    name: str
    ending: str
    data: bytes
    prepared: str
    loaded: str
    pixels: NDArray[np.uint8] | None
    """What the loader shows; None: it refuses."""
    check: Check = lambda name, row: True


@dataclass(frozen=True)
class OddVideo:
    name: str
    ending: str
    data: bytes
    prepared: str
    check: Check = lambda name, row: True


@dataclass(frozen=True)
class OddText:
    name: str
    result: str
    check: Callable[[Path], None]


def saved(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def field(red: int, green: int, blue: int, size: tuple[int, int] = (6, 4)) -> NDArray[np.uint8]:
    return np.full((size[1], size[0], 3), (red, green, blue), np.uint8)


def sixteen_bits() -> bytes:
    return saved(Image.fromarray(np.full((4, 6), 51400, np.uint16)), "PNG")


def animated() -> bytes:
    frames = [Image.new("RGB", (6, 4), name) for name in ("red", "lime", "blue")]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


def turned() -> tuple[bytes, NDArray[np.uint8]]:
    """A picture whose right half is white as stored; upright (a quarter clockwise) its lower half is."""
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:, 24:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.zeros((48, 32, 3), np.uint8)
    upright[24:] = 255
    return saved(Image.fromarray(stored), "JPEG", quality=100, exif=exif), upright


def truncated() -> bytes:
    noise = np.random.default_rng(1).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), "JPEG")
    return data[: len(data) // 2]


def with_size(width: int, height: int, **more) -> Check:
    wanted = {"width": width, "height": height, **more}
    return lambda name, row: all(row[column] == value for column, value in wanted.items())


ODD_PICTURES = [
    OddPicture(
        "CMYK",
        "jpg",
        saved(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "JPEG", quality=100),
        "stored as it is",
        "becomes RGB, without colour profiles",
        field(255, 0, 0),
        with_size(6, 4),
    ),
    OddPicture(
        "16 bits a channel",
        "png",
        sixteen_bits(),
        "stored as it is",
        "becomes 8 bits",
        field(200, 200, 200),
        with_size(6, 4),
    ),
    OddPicture(
        "animated",
        "gif",
        animated(),
        "stored as it is; `frames` counts",
        "the first frame",
        field(255, 0, 0),
        with_size(6, 4, frames=3),
    ),
    OddPicture(
        "turned by EXIF",
        "jpg",
        turned()[0],
        "stored as it is; width and height are upright",
        "upright",
        turned()[1],
        with_size(32, 48),
    ),
    OddPicture(
        "wrong ending",
        "jpg",
        saved(Image.new("RGB", (6, 4), (10, 20, 30)), "PNG"),
        "stored as it is, under the ending of its content",
        "like any other",
        field(10, 20, 30),
        lambda name, row: name == "png" and row["width"] == 6,
    ),
    OddPicture(
        "transparent",
        "png",
        saved(Image.new("RGBA", (6, 4), (255, 0, 0, 0)), "PNG"),
        "stored as it is",
        "laid on `data.image.background`",
        field(255, 255, 255),
    ),
    OddPicture(
        "palette, grey, one bit",
        "png",
        saved(Image.new("1", (6, 4), 1), "PNG"),
        "stored as it is",
        "becomes RGB with 8 bits",
        field(255, 255, 255),
    ),
    OddPicture(
        "truncated",
        "jpg",
        truncated(),
        "stored as it is: its header is good",
        "refused as `truncated picture`, see `data.loader.on_error`",
        None,
        with_size(48, 48),
    ),
    OddPicture(
        "zero bytes",
        "jpg",
        b"",
        "left out as `unreadable picture`",
        "refused as `unreadable picture`",
        None,
    ),
    OddPicture(
        "a web page called .jpg",
        "jpg",
        b"<!DOCTYPE html><title>404</title>",
        "left out as `unreadable picture`; the message says what it is",
        "refused as `unreadable picture`",
        None,
    ),
    OddPicture(
        "SVG",
        "png",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "left out as `unreadable picture`",
        "refused as `unreadable picture`",
        None,
    ),
]


def sound_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libmp3lame", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=44100, frame_size=1152)
        for ready in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return file.getvalue()


ODD_VIDEOS = [
    OddVideo(
        "variable frame rate",
        "mp4",
        video_of([1, 2, 3, 4], fps=4, times=[0, 1, 8, 9]),
        "stored as it is; `fps` is the average",
        with_size(32, 24, duration=2.5, frames=4, fps=1.6),
    ),
    OddVideo(
        "turned by its header",
        "mp4",
        video(1, rotation=90),
        "stored as it is; width and height are upright; clips are made upright",
        with_size(24, 32),
    ),
    OddVideo(
        "one frame", "mp4", video_of([1], fps=5), "stored as it is", with_size(32, 24, frames=1, fps=5.0)
    ),
    OddVideo(
        "with or without sound",
        "mp4",
        video(1, audio=True),
        "stored as it is; the column `audio` tells",
        with_size(32, 24, audio=True),
    ),
    OddVideo(
        "wrong ending (WebM called .mp4)",
        "mp4",
        video(1, container="webm"),
        "stored as it is, under the ending of its content",
        lambda name, row: name == "webm" and row["frames"] == 16,
    ),
    OddVideo("sound only", "mp4", sound_only(), "left out as `no video stream`"),
    OddVideo("truncated MP4", "mp4", video(1)[:-50], "left out as `truncated video`"),
    OddVideo(
        "truncated WebM, MKV or AVI",
        "webm",
        video_of(list(range(40)), container="webm", key_every=4)[:4000],
        "stored as it is; `frames` and `duration` are of what is there",
        lambda name, row: 0 < row["frames"] <= 40,
    ),
    OddVideo("zero bytes, a web page, noise", "mp4", b"<html>", "left out as `unreadable video`"),
    OddVideo(
        "a play list or list of other files called .mp4",
        "mp4",
        b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n",
        "left out as `unreadable video`: what it names is not opened",
    ),
]


def text_of(folder: Path, data: bytes, name: str = "x.csv"):
    (folder / name).write_bytes(data)
    return RawFolder(folder).text(name)


def stored(folder: Path, sample: Sample) -> Sample:
    with ShardWriter(folder / "out", "d") as writer:
        writer.write(sample)
    return ShardDataset.open(folder / "out").select("all").read(0)


def byte_order_marks(folder: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        with text_of(folder, "id,text\n1,é\n".encode(encoding)) as stream:
            assert list(comma_separated(stream)) == [{"id": "1", "text": "é"}]


def line_ends(folder: Path) -> None:
    with text_of(folder, "a\tb\r\nc\rd\te\u2028f\n\ng".encode()) as stream:
        assert list(lines(stream)) == [(0, "a\tb"), (1, "c\rd\te\u2028f"), (2, ""), (3, "g")]
    with text_of(folder, b"1\tx\r\n\r\n2\ty\r") as stream:
        assert list(tsv(stream)) == [(0, ["1", "x"]), (2, ["2", "y"])]
    with text_of(folder, b"id,text\r\n1,one\r\n2,two") as stream:
        assert [row["text"] for row in comma_separated(stream)] == ["one", "two"]


def quotes(folder: Path) -> None:
    with text_of(folder, b'id,text\n1,"a ""b"",\nc"\n2,d\n') as stream:
        assert [row["text"] for row in comma_separated(stream)] == ['a "b",\nc', "d"]
    with text_of(folder, b'1\t"a "b\n2\tc\td') as stream:
        assert list(tsv(stream, 2)) == [(0, ["1", '"a "b']), (1, ["2", "c\td"])]


def open_quote(folder: Path) -> None:
    before, tables.MAX_FIELD = tables.MAX_FIELD, 50
    try:
        with (
            text_of(folder, b'id,text\n1,"a\n' + b"2,b\n" * 40) as stream,
            pytest.raises(DataError, match=r"x\.csv: line 1\d: .*is a quote left open"),
        ):
            list(comma_separated(stream))
    finally:
        tables.MAX_FIELD = before


def not_utf8(folder: Path) -> None:
    with text_of(folder, b"caf\xe9\n") as stream:
        assert list(lines(stream)) == [(0, "caf\ufffd")]


def surrogates(folder: Path) -> None:
    with text_of(folder, b'{"c": "a\\ud800b"}\n{"c": "\\ud83d\\ude00"}\n') as stream:
        first, second = (value["c"] for _, value in json_lines(stream, "x"))
    assert stored(folder, Sample("k", {}, (first, second))).captions == ("a\ufffdb", "😀")


def not_a_number(folder: Path) -> None:
    with text_of(folder, b'{"score": NaN}\n') as stream:
        ((_, meta),) = json_lines(stream, "x")
    assert stored(folder, Sample("k", {}, ("c",), meta=meta)).meta == {"score": None}


def zero_bytes(folder: Path) -> None:
    with text_of(folder, b"id,text\n1,a\0b\n") as stream:
        (row,) = comma_separated(stream)
    assert stored(folder, Sample("k", {}, (row["text"],))).captions == ("a\0b",)


def long_captions(folder: Path) -> None:
    caption = "word " * 20_000
    with text_of(folder, f'id,text\n1,"{caption}"\n'.encode()) as stream:
        (row,) = comma_separated(stream)
    sample = Sample("k", {}, (row["text"],))
    assert stored(folder, sample).captions == (caption,)
    assert ShardDataset.open(folder / "out").select("all").column("text_chars") == [100_000]


def endless_captions(folder: Path) -> None:
    with pytest.raises(BadSampleError, match=f"{MAX_TEXT + 1} letters") as caught:
        stored(folder, Sample("k", {}, ("x" * (MAX_TEXT + 1),)))
    assert caught.value.cause == "text too long"


def names_in_other_forms(folder: Path) -> None:
    (folder / "Cafe\u0301.JPG").write_bytes(picture(3))
    with tarfile.open(folder / "x.tar", "w") as tar:
        tar.add(folder / "Cafe\u0301.JPG", "./Cafe\u0301.JPG")
    raw = RawFolder(folder)
    assert raw.media("").get("Caf\xe9.jpg") is not None
    assert raw.media("x.tar").get("Caf\xe9.jpg") is not None
    assert raw.media("x.tar").get("caf\xe9.jpg") is None


def quoted_captions_survive(folder: Path) -> None:
    caption = 'a "quoted",\ttabbed\nline, 中 \U0001f600'
    made = stored(folder, Sample("k", {"jpg": picture(1)}, (caption,)))
    assert made.captions == (caption,)


ODD_TEXTS = [
    OddText("byte order mark (UTF-8, UTF-16)", "dropped; UTF-16 is read as such", byte_order_marks),
    OddText(
        "CR LF; CR or U+2028 inside a line",
        "LF and CR LF end lines, nothing else does (in CSV also CR)",
        line_ends,
    ),
    OddText("quotes, commas, line ends in CSV", "RFC 4180; in TSV quotes mean nothing", quotes),
    OddText("a quote that is never closed", "an error that names the line, after 16 MiB", open_quote),
    OddText("bytes that are not UTF-8", "become U+FFFD", not_utf8),
    OddText("half surrogates (JSON `\\ud800`)", "become U+FFFD; pairs become their letter", surrogates),
    OddText("NaN and infinity in facts", "become null", not_a_number),
    OddText("NUL", "stays", zero_bytes),
    OddText("captions of 100 kB", "stay whole; `data.text` cuts what a run sees", long_captions),
    OddText("captions above 16 Mi letters", "the sample is left out as `text too long`", endless_captions),
    OddText(
        "names in another Unicode form, endings in other capitals",
        "are found; other capitals are other names",
        names_in_other_forms,
    ),
    OddText("quotes, tabs, line ends in captions", "stay as the card gives them", quoted_captions_survive),
]
