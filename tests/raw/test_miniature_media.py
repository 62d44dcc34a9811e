"""The media of miniatures: colours that tell which medium it is, the same bytes every time."""

import io

import av
import pytest
from PIL import Image

from diptych.data.miniatures.media import COLOURS, colour, colour_ids, colour_of, picture, video, video_of


def test_colours_by_hand():
    assert colour(0) == (0, 0, 0)
    assert colour(1) == (8 * 17, 0, 0)  # bit 0: the highest bit of red
    assert colour(2) == (0, 8 * 17, 0)
    assert colour(1 << 11) == (0, 0, 17)  # bit 11: the lowest of blue
    assert colour(COLOURS - 1) == (255, 255, 255)
    assert len({colour(number) for number in range(COLOURS)}) == COLOURS
    with pytest.raises(ValueError, match="0 to 4095, got 4096"):
        colour(COLOURS)


@pytest.mark.parametrize("format", ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif"])
def test_pictures_tell_their_id(format):
    for number in (0, 1, 7, 1234, 2222, 4095):
        data = picture(number, (20, 10), format)
        assert colour_of(data) == number
        assert data == picture(number, (20, 10), format)
        assert Image.open(io.BytesIO(data)).size == (20, 10)


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "webm", "avi"])
def test_videos_tell_their_id(container):
    data = video(2222, seconds=1.0, fps=4, container=container)
    assert colour_ids(data) == [2222] * 4
    assert data == video(2222, seconds=1.0, fps=4, container=container)


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm", "avi"])
def test_a_sound_track(container):
    with av.open(io.BytesIO(video(3, seconds=0.5, container=container, audio=True))) as file:
        assert [stream.type for stream in file.streams] == ["video", "audio"]


def test_frames_times_and_rotation():
    ids = list(range(0, 4000, 400))
    assert colour_ids(video_of(ids, fps=5, key_every=3)) == ids
    with av.open(io.BytesIO(video_of(ids[:3], fps=5, times=[0, 1, 4], rotation=90))) as file:
        frames = list(file.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx([0, 0.2, 0.8])
    assert {abs(frame.rotation) for frame in frames} == {90}


def test_what_has_no_colour():
    with pytest.raises(ValueError, match="neither picture nor video"):
        colour_of(b"<html>not found</html>")
