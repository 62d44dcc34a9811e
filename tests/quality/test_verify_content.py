"""`diptych data verify` looks at texts, and with --decode into pictures and videos."""

from pathlib import Path
from typing import Any

import pytest
import typer
from quality_sets import encoded, make_set, pattern
from typer.testing import CliRunner, Result

from diptych.cli import data as commands
from diptych.data.examples import PARTNER
from diptych.data.miniatures.media import video
from diptych.data.raw.refs import MediumError
from diptych.data.sample import Sample
from diptych.data.stills import check_video, middle_frame
from diptych.data.verify import verify
from diptych.data.verify_texts import Found, TextTally

PICTURE = encoded(pattern(1))
VIDEO = video(9, seconds=2.0)


def call(*arguments: str | Path) -> Result:
    app = typer.Typer()
    commands.register(app)
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def asked(key: str, *questions: dict[str, Any], split: str = "train") -> Sample:
    return Sample(key, {"png": PICTURE}, (), split=split, meta={"questions": list(questions)})


def dangling(out: Path, **options: Any) -> dict[str, list[str]]:
    found = verify(out, **options).dangling
    assert found.counts.keys() == found.examples.keys()
    assert all(found.counts[cause] == len(named) for cause, named in found.examples.items())
    return found.examples


@pytest.mark.slow
def test_samples_without_what_others_of_their_split_have(tmp_path: Path) -> None:
    out = make_set(
        tmp_path / "d",
        [
            Sample("a", {"png": PICTURE}, ("a cat",)),
            Sample("b", {"png": PICTURE}),
            Sample("c", {}, ("no picture",)),
            # Nobody in this split has texts.
            Sample("d", {"png": PICTURE}, split="test"),
            Sample("e", {"png": PICTURE}, split="test"),
        ],
    )
    assert dangling(out) == {"no text": ["b"], "no medium": ["c"]}
    assert verify(out).sound


def test_captions_that_say_too_little_or_too_much(tmp_path: Path) -> None:
    out = make_set(tmp_path / "d", [Sample("a", {"png": PICTURE}, ("x" * 50, "y" * 51))])
    assert dangling(out) == {}
    assert dangling(out, max_letters=50) == {"long caption": ["a: caption 1 has 51 letters"]}
    # Preparation drops blank captions; shards of others may hold them.
    tally = TextTally()
    tally.add("k", "train", Sample("k", {}, ("", " \n", "good")))
    assert tally.conclude().examples == {"empty caption": ["k: caption 0", "k: caption 1"]}


@pytest.mark.slow
def test_questions(tmp_path: Path) -> None:
    good: dict[str, Any] = {"question": "What?", "answers": ["cat"] * 10}
    out = make_set(
        tmp_path / "d",
        [
            asked("a", good, {"question": "  ", "answer": "no"}),
            asked("b", {"question": "Who is it?"}, {"question": "Where?", "answers": ["", " "]}),
            asked("c", {"question": "Which?", "options": ["x", "y"], "answer": 0}),
            # Answers of the test split are kept back.
            asked("d", {"question": "Why?"}, split="test"),
        ],
        shard_size=1,
    )
    assert dangling(out, workers=2) == {
        "empty question": ["a: entry 1 of `questions`"],
        "question without answer": [
            "b: entry 0 of `questions`, 'Who is it?'",
            "b: entry 1 of `questions`, 'Where?'",
        ],
    }


@pytest.mark.slow
def test_statements_without_their_second_picture(tmp_path: Path) -> None:
    said = {"statement": "Both are red.", "label": False}
    two = {"0.png": PICTURE, "1.png": PICTURE}
    inside = make_set(
        tmp_path / "two",
        [
            Sample("a", two, meta={"statements": [said]}),
            Sample("b", {"0.png": PICTURE}, meta={"statements": [said]}),
            Sample("c", {"0.png": PICTURE}, meta={"statements": []}),
        ],
    )
    assert dangling(inside) == {"statement without second picture": ["b"], "no text": ["c"]}
    partners = make_set(
        tmp_path / "partners",
        [
            Sample("a", {"png": PICTURE}, meta={"statements": [said], PARTNER: "b"}),
            Sample("b", {"png": PICTURE}, ("b",), meta={PARTNER: ""}),
            Sample("c", {"png": PICTURE}, meta={"statements": [said], PARTNER: "z"}),
            Sample("d", {"png": PICTURE}, meta={"statements": [said], PARTNER: ""}),
        ],
    )
    assert dangling(partners) == {
        "partner is not there": ["c: z"],
        "statement without second picture": ["d"],
    }


def test_only_a_few_examples_are_kept() -> None:
    whole = Found()
    for start in (0, 4, 8):
        part = Found()
        for i in range(start, start + 4):
            part.add("bad", f"k{i}")
        whole.merge(part)
    assert whole.counts == {"bad": 12}
    assert whole.examples == {"bad": ["k0", "k1", "k2", "k3", "k4"]}


@pytest.mark.slow
def test_media_that_cannot_be_decoded(tmp_path: Path) -> None:
    # The headers are whole, so preparation takes them.
    jpeg = encoded(pattern(2, side=600), "JPEG")
    png = bytearray(encoded(pattern(3, side=600)))
    packed = png.index(b"IDAT") + 4
    png[packed : packed + 40] = b"\xff" * 40
    out = make_set(
        tmp_path / "d",
        [
            Sample("good", {"jpg": jpeg}, ("a",)),
            Sample("cut", {"jpg": jpeg[: len(jpeg) * 2 // 3]}, ("b",)),
            Sample("broken", {"png": bytes(png)}, ("c",)),
            Sample("film", {"mp4": VIDEO}, ("d",)),
        ],
        shard_size=2,
    )
    assert verify(out).sound
    for workers in (1, 2):
        verdict = verify(out, decode=True, workers=workers)
        assert not verdict.sound
        assert verdict.damages == []
        assert dict(verdict.undecodable.counts) == {"truncated picture": 1, "damaged picture": 1}
        assert verdict.undecodable.examples["truncated picture"][0].startswith("cut: jpg: ")
        assert verdict.undecodable.examples["damaged picture"][0].startswith("broken: png: ")


def test_ends_of_videos() -> None:
    check_video(VIDEO)
    check_video(video(9, container="webm"))
    check_video(video(9, seconds=0.1))
    with pytest.raises(MediumError, match="truncated video"):
        check_video(VIDEO[:-200])
    # The last frames are overwritten; the header and the first frame are whole.
    long = bytearray(video(9, seconds=20.0, size=(64, 48)))
    media = long.index(b"mdat")
    size = int.from_bytes(long[media - 4 : media], "big")
    end = media - 4 + size
    long[end - 400 : end] = bytes(400)
    with pytest.raises(MediumError, match=r"damaged video|unreadable video"):
        check_video(bytes(long))


@pytest.mark.parametrize("container", ["mp4", "webm", "avi", "mkv", "mov"])
def test_the_frame_in_the_middle(container: str) -> None:
    picture = middle_frame(video(7, container=container, size=(48, 32)))
    assert picture.size == (48, 32)
    pixel = picture.getpixel((24, 16))
    assert isinstance(pixel, tuple)
    # Colour 7 is red, green and blue at level 8 of 15.
    assert all(abs(value - 136) < 12 for value in pixel)


def test_the_frame_in_the_middle_is_upright() -> None:
    assert middle_frame(video(7, size=(48, 32), rotation=90)).size == (32, 48)


def test_the_command(tmp_path: Path) -> None:
    jpeg = encoded(pattern(2, side=600), "JPEG")
    out = make_set(
        tmp_path / "d",
        [
            Sample("good", {"jpg": jpeg}, ("a",)),
            Sample("cut", {"jpg": jpeg[: len(jpeg) * 2 // 3]}, ("b",)),
            Sample("mute", {"jpg": jpeg}),
        ],
    )
    quick = call("verify", out)
    assert quick.exit_code == 0
    size = (out / "d-000000.tar").stat().st_size
    assert quick.output.splitlines() == [
        "dangling: no text: 1",
        "  mute",
        f"{out}: 3 samples in 1 shards ({size / 1000:.4g} kB), all as written, 1 dangling texts",
    ]
    assert call("verify", out, "--strict").exit_code == 1
    decoded = call("verify", out, "--decode")
    assert decoded.exit_code == 1
    lines = decoded.output.splitlines()
    assert lines[0] == "cannot be decoded: truncated picture: 1"
    assert lines[1].startswith("  cut: jpg: ")
    assert lines[-1].endswith("0 damages found, 1 media cannot be decoded")


def test_damaged_samples_are_not_looked_into(tmp_path: Path) -> None:
    out = make_set(tmp_path / "d", [Sample("a", {"png": PICTURE}, ("a cat",))])
    path = out / "d-000000.tar"
    path.write_bytes(path.read_bytes().replace(b"a cat", b"a    "))
    verdict = verify(out, decode=True)
    assert [(damage.key, damage.file) for damage in verdict.damages] == [("a", path.name)]
    assert not verdict.dangling
    assert not verdict.undecodable
