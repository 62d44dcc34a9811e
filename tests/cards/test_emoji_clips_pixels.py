"""emoji-clips: pixels of the frames, the video they become, and emoji that move by themselves."""

import io
import json

import av
import numpy as np
import pytest
from clip_judge import events
from PIL import Image

from diptych.data.cards.emoji_clips import CARD
from diptych.data.cards.emoji_clips_draw import ClipPainter
from diptych.data.cards.emoji_clips_plan import SMALL, Clip, State, Thing
from diptych.data.cards.emoji_clips_raw import ANIMATED, PACKAGES
from diptych.data.cards.emoji_clips_video import encode
from diptych.data.cards.emoji_scenes import load_sprites, spread
from diptych.data.cards.scenes_draw import BACKGROUND
from diptych.data.cards.scenes_layout import COLORS, Item
from diptych.data.cards.scenes_nouns import NOUNS
from diptych.data.cards.sprites import shipped
from diptych.errors import DataError


def decoded(data):
    with av.open(io.BytesIO(data)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def item(singular):
    return next(Item("X", noun) for noun in NOUNS if noun.singular == singular)


@pytest.fixture(scope="module")
def painter():
    """Every emoji is an opaque square, white above and black below: it shows how it is turned."""
    square = Image.new("RGBA", (64, 64), (255, 255, 255, 255))
    square.paste((0, 0, 0, 255), (0, 32, 64, 64))
    out = io.BytesIO()
    square.save(out, "PNG")
    green = io.BytesIO()
    Image.new("RGBA", (64, 64), (0, 255, 0, 255)).save(green, "PNG")
    return ClipPainter(120, 5, 8, {("X", "noto"): out.getvalue(), ("Y", "noto"): green.getvalue()})


def painted(painter, *states, color="red"):
    """Five frames of a clip with one thing."""
    return painter.paint(Clip("one", (Thing(color, states),), "noto"))


def edge(frame, row, column):
    """The pixel 3 of 40 below the upper edge of a cell: on the tile, above the emoji."""
    return tuple(frame[40 * row + 3, 40 * column + 20].tolist())


def test_pixels_of_a_move(painter):
    frames = painted(painter, State(item("cat"), 1, 0), State(item("cat"), 1, 2))
    red = COLORS["red"]
    assert edge(frames[0], 1, 0) == edge(frames[2], 1, 1) == edge(frames[4], 1, 2) == red
    assert edge(frames[0], 1, 1) == edge(frames[4], 1, 1) == edge(frames[2], 0, 1) == BACKGROUND
    # A quarter of the way: half a cell further.
    assert tuple(frames[1][43, 40].tolist()) == red


def test_pixels_of_two_moves(painter):
    cat = item("cat")
    frames = painted(painter, State(cat, 0, 0), State(cat, 0, 2), State(cat, 2, 2))
    assert [
        edge(frame, *cell) for frame, cell in zip(frames[::2], ((0, 0), (0, 2), (2, 2)), strict=True)
    ] == [COLORS["red"]] * 3


def test_clockwise_is_clockwise(painter):
    cat = item("cat")
    frames = painted(painter, State(cat, 1, 1), State(cat, 1, 1, angle=360.0))
    # The white half is above, right, below, left, above again.
    spots = [(48, 60), (60, 72), (72, 60), (60, 48), (48, 60)]
    for frame, (y, x) in zip(frames, spots, strict=True):
        assert frame[y, x].min() > 240
        assert frame[120 - y, 120 - x].max() < 15


def test_pixels_of_growing_and_appearing(painter):
    cat = item("cat")
    frames = painted(painter, State(cat, 1, 1, size=SMALL), State(cat, 1, 1))
    assert edge(frames[0], 1, 1) == BACKGROUND
    assert edge(frames[4], 1, 1) == COLORS["red"]
    assert tuple(frames[0][60 - 9, 60].tolist()) != BACKGROUND
    frames = painted(painter, State(cat, 1, 1, opacity=0.0), State(cat, 1, 1))
    assert (frames[0] == BACKGROUND).all()
    half = (np.array(BACKGROUND) + COLORS["red"]) / 2
    assert np.abs(np.array(edge(frames[2], 1, 1)) - half).max() <= 1


def test_pixels_of_a_change(painter):
    cat, other = item("cat"), Item("Y", item("dog").noun)
    frames = painted(painter, State(cat, 1, 1), State(other, 1, 1))
    assert frames[0][50, 60].tolist() == [255, 255, 255]
    assert np.abs(frames[2][50, 60].astype(int) - [127, 255, 127]).max() <= 2
    assert frames[4][50, 60].tolist() == [0, 255, 0]


def test_frames_survive_the_video():
    rng = np.random.default_rng(0)
    frames = [np.full((32, 48, 3), rng.integers(0, 256, 3), dtype=np.uint8) for _ in range(7)]
    data = encode(frames, 8)
    assert data == encode(frames, 8)
    assert np.abs(np.array(decoded(data), dtype=int) - np.array(frames)).max() <= 6


# --- emoji that move by themselves


def animated(shades):
    frames = [Image.new("RGBA", (16, 16), (shade, shade, shade, 255)) for shade in shades]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=250, lossless=True)
    return out.getvalue()


@pytest.fixture
def packages(tmp_path):
    """The four packages, unpacked, with every third of their emoji each."""
    for number, package in enumerate(PACKAGES):
        folder = tmp_path / package.name
        (folder / "assets").mkdir(parents=True)
        told = {"name": package.name, "version": package.version}
        (folder / "package.json").write_text(json.dumps(told))
        for emoji in spread(load_sprites(shipped()).items, 10)[number::4]:
            (folder / "assets" / f"{emoji.hexcode.lower()}.webp").write_bytes(animated([0, 255]))
    return tmp_path


def test_animated_emoji_play_in_time(packages):
    given = {"size": "16", "resolution": "96", "style": ANIMATED, "kinds": "10", "fps": "4", "frames": "9"}
    seen = 0
    for sample in CARD.convert(packages, given):
        frames = decoded(sample.media["mp4"])
        still = [t for t in sample.meta["layout"]["things"] if not any(events(t))]
        if not still:
            continue
        thing, seen = still[0], seen + 1
        row, column = (32 * thing["states"][0][field] + 16 for field in ("row", "column"))
        # A quarter of a second each, at 4 frames a second; nine begin and end alike.
        shades = [int(frame[row, column].mean()) for frame in frames]
        assert [shade > 128 for shade in shades] == [bool(t % 2) for t in range(9)], shades
        assert sample.meta["style"] == ANIMATED
    assert seen >= 8


def test_packages_that_lack_an_emoji(packages):
    next(packages.rglob("*.webp")).unlink()
    with pytest.raises(DataError, match="1 of 10 emoji are not in the animated packages, for example"):
        next(CARD.convert(packages, {"style": ANIMATED, "kinds": "10"}))
    with pytest.raises(DataError, match=r"lobehub-fluent-emoji-anim-1-1\.0\.0\.tgz not found"):
        next(CARD.convert(_empty(packages), {"style": ANIMATED, "kinds": "10"}))


def _empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"
