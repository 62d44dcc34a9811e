"""Clips in batches: from shards of videos and pictures, and from a user's program."""

import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loader_samples import png, write_tar
from PIL import Image
from torch import Tensor
from video_samples import HEIGHT, WIDTH, make_video, naive_frames, picture

from diptych.data.augment import augment
from diptych.data.batch import Batch, views
from diptych.data.budget import sample_costs
from diptych.data.config import AugmentConfig, DataConfig, ImageConfig
from diptych.data.draws import Draws
from diptych.data.frames import choose_frames
from diptych.data.image import normalise, square_into
from diptych.data.index import Selection, ShardDataset
from diptych.data.loader import Loader, evaluation_batches
from diptych.data.order import uniforms
from diptych.data.pictures import clips_of, framed_pictures, square_pictures
from diptych.data.video_config import VideoConfig
from diptych.errors import ConfigError, DataError
from diptych.objectives.pictures import blank_outside
from diptych.systems.protocol import ImageSpec

LENGTHS = [12, 20, 26, 3, 1, 40]
"""Frames of the videos `v0`, `v1`, ..."""


def side(number: int, **meta: Any) -> bytes:
    return json.dumps({"captions": [f"number {number}"], "match_id": "", "meta": meta}).encode()


def videos() -> list[tuple[str, dict[str, bytes]]]:
    return [
        (f"v{i}", {"mp4": make_video(frames), "json": side(i, start=0.2, end=0.4)})
        for i, frames in enumerate(LENGTHS)
    ]


def pictures() -> list[tuple[str, dict[str, bytes]]]:
    return [(f"p{i}", {"png": png(i), "json": side(i)}) for i in range(3)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    path = tmp_path_factory.mktemp("mixed") / "mixed.tar"
    return ShardDataset.open(write_tar(path, [*videos(), *pictures()])).select()


def settings(**groups: Any) -> DataConfig:
    base: dict[str, Any] = {
        "image": {"size": 16},
        "video": {"frames": 4},
        "loader": {"batch_size": 5, "on_error": "raise"},
    }
    for name, changes in groups.items():
        base[name] = {**base.get(name, {}), **changes} if isinstance(changes, dict) else changes
    return DataConfig.model_validate(base)


def take(selection: Selection, config: DataConfig, count: int = 4, **options: Any) -> list[Batch]:
    loader = Loader(selection, config, None, seed=3, **options)
    batches = list(islice(loader, count))
    loader.close()
    return batches


def images(batch: Batch) -> Tensor:
    assert batch.images is not None
    return batch.images


def mask(batch: Batch) -> Tensor:
    assert batch.frame_mask is not None
    return batch.frame_mask


def small(pixels: np.ndarray, config: ImageConfig | None = None) -> Tensor:
    """[3, 16, 16]: a picture as an evaluation shows it."""
    out = np.empty((16, 16, 3), dtype=np.uint8)
    square_into(out, pixels, config or ImageConfig(size=16))
    return torch.from_numpy(out).permute(2, 0, 1)


def test_an_evaluation_batch_by_hand(mixed: Selection) -> None:
    (batch,) = evaluation_batches(mixed, settings(), 20)
    assert images(batch).shape == (9, 4, 3, 16, 16)
    assert batch.keys == [f"v{i}" for i in range(6)] + ["p0", "p1", "p2"]
    for row, frames in enumerate(LENGTHS):
        plain = naive_frames(make_video(frames))
        wanted = torch.stack([small(plain[number]) for number in choose_frames(frames, 4)])
        assert torch.equal(images(batch)[row], wanted)
    shown = torch.ones(9, 4, dtype=torch.bool)
    shown[3] = torch.tensor([True, True, False, True])  # three frames: 0, 1, 1, 2
    shown[[4, 6, 7, 8], 1:] = False
    assert torch.equal(mask(batch), shown)
    for i in range(3):
        colour = [i * 10, 255 - i * 10, 100]
        assert images(batch)[6 + i, :, :, 8, 0].tolist() == [colour] * 4


def test_no_mask_where_every_frame_is_new(mixed: Selection) -> None:
    (batch,) = evaluation_batches(mixed.dataset.select(where="frames > 10"), settings(), 20)
    assert len(batch) == 4
    assert batch.frame_mask is None


def test_training_draws_frames_by_seed_and_position(mixed: Selection) -> None:
    (batch,) = take(mixed.dataset.select(where="frames = 40"), settings(loader={"batch_size": 1}), 1)
    draws = uniforms(3, np.zeros(1, dtype=np.int64), 4, stream=1)[0]
    plain = naive_frames(make_video(40))
    chosen = choose_frames(40, 4, draws)
    assert torch.equal(images(batch)[0], torch.stack([small(plain[n]) for n in chosen]))
    fixed = settings(video={"random": False}, loader={"batch_size": 1})
    (batch,) = take(mixed.dataset.select(where="frames = 40"), fixed, 1)
    middles = choose_frames(40, 4)
    assert torch.equal(images(batch)[0], torch.stack([small(plain[n]) for n in middles]))


CUTS: list[dict[str, Any]] = [
    {"resize": "squash", "flip": 0.5},
    {"resize": "random_crop", "flip": 0.5},
    {"resize": "zoom_crop", "zoom": (1.2, 1.5)},
    {"resize": "fit", "long": 64, "short": 32, "train_short": (16, 40), "multiple": 16, "flip": 0.5},
]


@pytest.mark.slow
@pytest.mark.parametrize("cut", CUTS, ids=[str(cut["resize"]) for cut in CUTS])
@pytest.mark.parametrize("policy", ["segments", "uniform"])
def test_neither_cache_nor_workers_change_batches(
    mixed: Selection, cut: dict[str, Any], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = {"policy": policy}
    wanted = take(mixed, settings(image=cut, video=video), 5)
    # Of videos longer than this only the frames that were shown are remembered.
    monkeypatch.setattr("diptych.data.clips.WHOLE", 20)
    for loader in ({"cache_mb": 8}, {"cache_mb": 8, "workers": 2}, {"workers": 2}):
        found = take(mixed, settings(image=cut, video=video, loader=loader), 5)
        for a, b in zip(wanted, found, strict=True):
            assert a.keys == b.keys
            assert torch.equal(images(a), images(b))
            assert torch.equal(mask(a), mask(b))
            assert (a.image_sizes is None) == (b.image_sizes is None)
            if a.image_sizes is not None and b.image_sizes is not None:
                assert torch.equal(a.image_sizes, b.image_sizes)


@pytest.mark.parametrize("cut", [CUTS[0], CUTS[1]], ids=["squash", "random_crop"])
def test_remembered_videos_are_not_decoded_again(
    mixed: Selection, cut: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diptych.data import clips

    decoded: list[bytes] = []
    original = clips.decode_video

    def counting(data: bytes, *rest: Any) -> None:
        decoded.append(data)
        original(data, *rest)

    monkeypatch.setattr(clips, "decode_video", counting)
    take(mixed, settings(image=cut, loader={"cache_mb": 8, "batch_size": 9}), 3)
    assert len(decoded) == len(set(decoded)) == 6
    decoded.clear()
    take(mixed, settings(image=cut, loader={"batch_size": 9}), 3)
    assert len(decoded) == 18


def test_a_clip_is_cut_and_mirrored_as_one(tmp_path: Path) -> None:
    # Every frame is the same picture: so is every frame of a row, whatever is drawn.
    still = [picture(0)] * 10
    data = make_video(10, pictures=still, options={"x264-params": "qp=0"})
    dataset = ShardDataset.open(write_tar(tmp_path / "still.tar", [("s", {"mp4": data, "txt": b"still"})]))
    for cut in CUTS:
        config = settings(image=cut, video={"frames": 3}, loader={"batch_size": 8})
        (batch,) = take(dataset.select(), config, 1)
        assert (images(batch) == images(batch)[:, :1]).all()
        assert len({row.numpy().tobytes() for row in images(batch)[:, 0]}) > 1  # rows differ


def test_words_forbid_mirroring_clips(tmp_path: Path) -> None:
    data = make_video(4)
    samples = [(f"s{i}", {"mp4": data, "txt": text}) for i, text in enumerate((b"it goes left", b"a dog"))]
    selection = ShardDataset.open(write_tar(tmp_path / "left.tar", samples)).select()
    config = settings(
        image={"flip": 1.0, "flip_unless": ["left"]}, loader={"shuffle": False, "batch_size": 2}
    )
    config = config.with_(video=VideoConfig(frames=2, random=False))
    (batch,) = take(selection, config, 1)
    assert torch.equal(images(batch)[0], images(batch)[1].flip(-1))


def test_zoom_crop_by_hand() -> None:
    # A column of white at each x: which columns are left tells where the cut is.
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[...] = (np.arange(60) * 4)[None, :, None]
    config = ImageConfig(size=20, resize="zoom_crop", zoom=(1.0, 2.0), zoom_eval=2.0)
    out = np.empty((20, 20, 3), dtype=np.uint8)
    square_into(out, pixels, config)
    assert out[0, :, 0].tolist() == [4 * x for x in range(20, 40)]  # 20 wide, in the middle
    # The factor 1 + 1 * 1.0 = 2, then 0.5 * (60 - 20 + 1) = 20.5 from the left, 0 from the top.
    square_into(out, pixels, config, np.array([1.0, 0.5, 0.0]))
    assert out[0, :, 0].tolist() == [4 * x for x in range(20, 40)]
    square_into(out, pixels, config, np.array([1.0, 0.999, 0.0]))
    assert out[0, :, 0].tolist() == [4 * x for x in range(40, 60)]
    for crop, first in ((0, 0), (1, 20), (2, 40)):
        square_into(out, pixels, config, None, crop)
        assert out[0, :, 0].tolist() == [4 * x for x in range(first, first + 20)]


def test_several_clips_and_crops_of_an_evaluation(mixed: Selection) -> None:
    config = settings(
        image={"size": 16, "resize": "crop"},
        video={"frames": 2, "policy": "dense", "stride": 3, "clips": 2, "crops": 3},
    )
    (batch,) = evaluation_batches(mixed.dataset.select(where="frames = 20"), config, 20)
    assert images(batch).shape == (1, 2 * 3 * 2, 3, 16, 16)
    plain = naive_frames(make_video(20))
    found = views(images(batch), 2)
    assert found.shape == (6, 2, 3, 16, 16)
    # Clips from 0 and from 16; squares of 48 from 0, 8 and 16.
    for view in range(6):
        numbers, left = ([0, 3], [16, 19])[view // 3], (0, 8, 16)[view % 3]
        wanted = [small(plain[n][:, left : left + HEIGHT]) for n in numbers]
        assert torch.equal(found[view], torch.stack(wanted))
    (batch,) = take(mixed.dataset.select(where="frames = 20"), config.with_(loader=config.loader), 1)
    assert images(batch).shape[1] == 2  # training has one


def test_times_of_a_sample_limit_its_frames(mixed: Selection) -> None:
    # From 0.2 to 0.4 s of 25 frames a second: 5 to 9; of the video of 3 frames the last one.
    config = settings(video={"frames": 5, "part": "times"})
    (batch,) = evaluation_batches(mixed, config, 20)
    plain = naive_frames(make_video(12))
    assert torch.equal(images(batch)[0], torch.stack([small(plain[n]) for n in range(5, 10)]))
    assert torch.equal(images(batch)[3], small(naive_frames(make_video(3))[2]).expand(5, -1, -1, -1))
    whole = settings(video={"frames": 5})
    (batch,) = evaluation_batches(mixed, whole, 20)
    assert not torch.equal(images(batch)[0], torch.stack([small(plain[n]) for n in range(5, 10)]))


def test_numbered_pictures_are_frames(tmp_path: Path) -> None:
    members = {f"{n}.png": png(n) for n in range(12)}
    samples = [("folder", {**members, "txt": b"frames"}), ("two", {"jpg.png": png(1), "png": png(2)})]
    selection = ShardDataset.open(write_tar(tmp_path / "frames.tar", samples)).select()
    (batch,) = evaluation_batches(selection, settings(video={"frames": 3}), 4)
    # Parts 0-3, 4-7, 8-11, each without its last one: 10 comes after 9, not after 1.
    assert images(batch)[0, :, 0, 8, 0].tolist() == [10, 50, 90]


BAD = {
    "unreadable video": b"no video at all" * 100,
    "truncated video": make_video(20)[:-400],
    "no video stream": make_video(0, sound=True),
}


def test_videos_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    samples = [("good", {"mp4": make_video(5), "txt": b"good"})]
    samples += [(f"bad{i}", {"mp4": data, "txt": b"bad"}) for i, data in enumerate(BAD.values())]
    selection = ShardDataset.open(write_tar(tmp_path / "bad.tar", samples)).select()
    for batch in (
        *take(selection, settings(loader={"batch_size": 4, "on_error": "count"}), 1),
        *evaluation_batches(selection, settings(loader={"on_error": "count"}), 4),
    ):
        assert batch.keys == ["good"]
        assert batch.skipped == dict.fromkeys(BAD, 1)
    with pytest.raises(DataError, match=r"bad\.tar: sample 'bad0': unreadable video .*on_error"):
        list(evaluation_batches(selection, settings(), 4))


def test_without_frames_videos_are_not_read(mixed: Selection) -> None:
    config = settings(video={"frames": 0}, loader={"on_error": "count"})
    (batch,) = evaluation_batches(mixed, config, 20)
    assert batch.keys == ["p0", "p1", "p2"]
    assert images(batch).shape == (3, 3, 16, 16)
    assert batch.skipped == {"no picture": 6}


def test_settings_that_contradict_each_other() -> None:
    for changes, words in (
        ({"examples": "statements"}, "two pictures"),
        ({"video": {"frames": 2, "crops": 3, "policy": "dense"}}, "resize to crop"),
        ({"video": {"frames": 2, "clips": 2}}, "policy = dense"),
        ({"image": {"resize": "zoom_crop", "zoom": (0.5, 1.0)}}, "zoom"),
    ):
        with pytest.raises((ValueError, ConfigError), match=words):
            settings(**changes)


def test_opacity_of_clips_lasts_until_augmentation(mixed: Selection) -> None:
    config = settings(augment={"random_background": 1.0}, loader={"shuffle": False, "batch_size": 9})
    (batch,) = take(mixed, config, 1)
    found = images(batch)
    assert found.shape == (9, 4, 4, 16, 16)
    assert (found[:6, :, 3] == 255).all()
    assert (found[6:, :, 3, :, 9:] == 0).all()  # the right halves of the pictures
    laid = augment(found, config.augment, Draws(1, batch.positions), clips=True)
    assert laid.shape == (9, 4, 3, 16, 16)
    assert (laid[6:] == laid[6:, :1]).all()
    assert not torch.equal(laid[6, 0, :, 0, 12], laid[7, 0, :, 0, 12])  # each row has its own colour


def test_frames_as_costs(mixed: Selection) -> None:
    selection = mixed.dataset.select(where="frames is not null")
    assert sample_costs(selection, settings(video={"frames": 0}), "frames").tolist() == LENGTHS
    assert sample_costs(selection, settings(video={"frames": 16}), "frames").tolist() == [16] * 6


# What happens to clips behind the loader


def test_augmentation_is_alike_over_frames() -> None:
    pixels = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8)
    clips = torch.stack([pixels, pixels, pixels.flip(-1)], 1)
    for config in (
        AugmentConfig(rotation=30, zoom=0.2, hue=0.3, noise=0.1, erase=0.7, jitter=(0.4, 0.4, 0.4)),
        AugmentConfig(randaugment_ops=2),
    ):
        positions = torch.arange(3)
        found = augment(clips, config, Draws(7, positions), clips=True)
        assert found.shape == clips.shape
        assert torch.equal(found[:, 0], augment(pixels, config, Draws(7, positions)))
        assert torch.equal(found[:, 0], found[:, 1])
        assert not torch.equal(found[:, 0], found[:, 2])
        apart = augment(clips, config, Draws(7, positions))
        assert not torch.equal(apart[:, 0], apart[:, 1])


def test_draws_go_on_behind_a_clip() -> None:
    clips = torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8)
    config = AugmentConfig(brightness=0.2)
    one, other = Draws(1, torch.arange(2)), Draws(1, torch.arange(2))
    augment(clips, config, one, clips=True)
    augment(clips[:, 0], config, other)
    assert torch.equal(one.rand(3), other.rand(3))


def test_clips_are_normalised_frame_by_frame() -> None:
    clips = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8)
    spec = ImageSpec(8, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), frames=3)
    found = normalise(clips, spec)
    assert torch.equal(found, torch.stack([normalise(frame, spec) for frame in clips.unbind(1)], 1))


def test_padding_of_clips_is_blank() -> None:
    pixels = torch.ones(2, 2, 3, 4, 6)
    sizes = torch.tensor([[[4, 6], [4, 6]], [[2, 3], [1, 6]]])
    found = blank_outside(pixels, sizes)
    assert found[:, :, 0].sum((2, 3)).tolist() == [[24, 24], [6, 6]]
    assert torch.equal(found[1], blank_outside(pixels[1], sizes[1]))


# A user's program


def test_videos_of_a_program(tmp_path: Path, mixed: Selection) -> None:
    data = make_video(20)
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    image, video = ImageConfig(size=16), VideoConfig(frames=4, policy="uniform")
    frames = np.stack(naive_frames(data))
    found, sizes = framed_pictures([path, data, frames, Image.open(_png(tmp_path))], image, video)
    assert sizes is None
    assert found.shape == (4, 4, 3, 16, 16)
    (batch,) = evaluation_batches(mixed.dataset.select(where="frames = 20"), settings(video=video), 1)
    for row in range(3):
        assert torch.equal(found[row], images(batch)[0])
    still = square_pictures([Image.open(_png(tmp_path))], image)
    assert torch.equal(found[3], still.expand(4, -1, -1, -1))


def _png(folder: Path) -> Path:
    path = folder / "still.png"
    path.write_bytes(png(3))
    return path


def test_videos_of_a_program_in_their_own_shape() -> None:
    data = make_video(20)
    image = ImageConfig(resize="fit", long=64, short=24, multiple=16)
    found, sizes = clips_of([data, np.zeros((30, 20, 3), dtype=np.uint8)], image, VideoConfig(frames=2))
    # 64 x 48 becomes 32 x 24, 20 x 30 becomes 24 x 36; frames of multiples of 16.
    assert found.shape == (2, 2, 3, 48, 32)
    assert sizes is not None
    assert sizes.tolist() == [[[24, 32], [24, 32]], [[36, 24], [36, 24]]]
    assert (WIDTH, HEIGHT) == (64, 48)


def test_errors_of_a_program(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_video(20)[:-400])
    with pytest.raises(DataError, match=r"clip\.mp4: truncated video"):
        clips_of([path], ImageConfig(size=16), VideoConfig(frames=2))
    with pytest.raises(DataError, match=r"clip\.mp4: a video, but the model reads pictures"):
        framed_pictures([path], ImageConfig(size=16))


def gif(colours: list[int], milliseconds: list[int]) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (20, 10), (colour, 0, 0)) for colour in colours]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return out.getvalue()


def test_animated_pictures_are_videos(tmp_path: Path) -> None:
    data = gif([0, 60, 120, 180, 240], [100, 100, 100, 700, 500])
    selection = ShardDataset.open(write_tar(tmp_path / "g.tar", [("g", {"gif": data, "txt": b"g"})])).select()
    (batch,) = evaluation_batches(selection, settings(video={"frames": 3, "policy": "uniform"}), 1)
    assert images(batch)[0, :, 0, 8, 8].tolist() == [0, 120, 240]
    # At 0, 0.1, 0.2, 0.3 and 1.0 s; the frames nearest to 0.25 and 0.75 s.
    found, _ = clips_of([data], ImageConfig(size=16), VideoConfig(frames=2, policy="fps", fps=2.0))
    assert found[0, :, 0, 8, 8].tolist() == [120, 240]
    still, _ = framed_pictures([data], ImageConfig(size=16))
    assert still[0, 0, 8, 8] == 0
    cut = data[: len(data) * 3 // 4]
    found, _ = clips_of([cut], ImageConfig(size=16), VideoConfig(frames=3, policy="uniform"))
    assert found[0, 0, 0, 8, 8] == 0
    with pytest.raises(DataError, match=r"unreadable picture|truncated picture"):
        clips_of([data[:30]], ImageConfig(size=16), VideoConfig(frames=3))
