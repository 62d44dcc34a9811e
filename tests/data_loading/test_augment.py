import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data import augment as module
from diptych.data.augment import augment
from diptych.data.config import AugmentConfig
from diptych.data.draws import Draws


def changed(
    images: Tensor,
    config: AugmentConfig,
    background: str = "white",
    *,
    seed: int = 0,
    positions: Tensor | None = None,
) -> Tensor:
    """Return `augment` with the draws of samples 0, 1, ... (or others)."""
    rows = torch.arange(len(images)) if positions is None else positions
    return augment(images, config, Draws(seed, rows), background)


def pictures(batch: int = 6, channels: int = 3, side: int = 8) -> Tensor:
    return torch.randint(
        0, 256, (batch, channels, side, side), generator=torch.Generator().manual_seed(9), dtype=torch.uint8
    )


class Extreme(module._Draws):
    """Every symmetric draw is at its upper limit, every probability strikes."""

    def around(self, limit: float, *shape: int) -> Tensor:
        return torch.full((self.batch, *shape), float(limit))

    def chosen(self, probability: float) -> Tensor:
        return torch.full((self.batch,), probability > 0)


@pytest.fixture
def extreme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_Draws", Extreme)


EVERYTHING = AugmentConfig(
    rotation=20, zoom=0.2, stretch=0.1, translation=0.1, hue=0.1, saturation=0.3, contrast=0.3,
    brightness=0.2, grayscale=0.2, permute_channels=0.2, invert=0.2, posterize=0.2, random_background=0.5,
    sharpness=0.5, noise=0.1, erase=0.3, jitter=(0.4, 0.3, 0.2),
)  # fmt: skip


def test_off_leaves_pictures_alone() -> None:
    images = pictures()
    assert changed(images, AugmentConfig()) is images


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    "name",
    [n for n, v in EVERYTHING if n not in ("erase_size", "outside") and not n.startswith("randaugment")],
)
def test_each_change_alone(name: str, channels: int) -> None:
    images = pictures(channels=channels)
    before = images.clone()
    config = AugmentConfig.model_validate({name: getattr(EVERYTHING, name) if name != "hue" else 0.3})
    found = changed(images, config)
    assert torch.equal(images, before)
    assert found.shape == (6, 3, 8, 8)
    assert found.dtype == (torch.uint8 if channels == 3 and name == "random_background" else torch.float32)
    if channels == 3:
        assert (name == "random_background") == torch.equal(found, images)
    assert found.min() >= 0
    assert found.max() <= (255 if found.dtype == torch.uint8 else 1)


@pytest.mark.parametrize("channels", [3, 4])
def test_it_depends_on_the_draws_alone(channels: int) -> None:
    images = pictures(channels=channels)
    first, again = changed(images, EVERYTHING, seed=1), changed(images, EVERYTHING, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, changed(images, EVERYTHING, seed=2))
    assert first.min() >= 0
    assert first.max() <= 1


def test_opacity_by_hand() -> None:
    images = torch.tensor([200, 100, 0, 51], dtype=torch.uint8).view(1, 4, 1, 1)
    # Opacity 0.2: 0.2 * colour + 0.8 * background.
    found = changed(images, AugmentConfig(), "#0000ff").flatten()
    assert torch.allclose(found * 255, torch.tensor([40.0, 20.0, 204.0]), atol=1e-3)
    white = changed(images, AugmentConfig()).flatten()
    assert torch.allclose(white * 255, torch.tensor([244.0, 224.0, 204.0]), atol=1e-3)


def test_random_backgrounds_are_as_frequent_as_asked() -> None:
    images = torch.zeros(2000, 4, 1, 1, dtype=torch.uint8)
    found = changed(images, AugmentConfig(random_background=0.3), "black")[:, :, 0, 0]
    coloured = found.sum(1) > 0
    # Standard deviation sqrt(0.21 / 2000) = 0.010.
    assert abs(coloured.float().mean().item() - 0.3) < 0.05
    assert (found[coloured].mean(0) - 0.5).abs().max() < 0.07


@pytest.mark.usefixtures("extreme")
class TestGeometry:
    def test_quarter_turn(self) -> None:
        images = pictures()
        found = changed(images, AugmentConfig(rotation=90)) * 255
        assert torch.allclose(found, torch.rot90(images, 1, (2, 3)).float(), atol=0.01)

    def test_shift_by_two_pixels(self) -> None:
        # A quarter of 8 pixels: each place shows what was 2 to the right and below; the edge goes on.
        images = pictures()
        found = changed(images, AugmentConfig(translation=0.25)) * 255
        assert torch.allclose(found[:, :, :6, :6], images[:, :, 2:, 2:].float(), atol=0.01)
        assert torch.allclose(
            found[:, :, 6:, 6:], images[:, :, 7:, 7:].float().expand(-1, -1, 2, 2), atol=0.01
        )

    def test_background_comes_in_where_there_is_opacity(self) -> None:
        images = pictures(channels=4)
        images[:, 3] = 255
        config = AugmentConfig(translation=0.25, outside="background")
        assert config.keeps_opacity
        found = changed(images, config, "black") * 255
        assert torch.allclose(found[:, :, :6, :6], images[:, :3, 2:, 2:].float(), atol=0.01)
        assert (found[:, :, 6:] == 0).all()
        assert (found[:, :, :, 6:] == 0).all()

    def test_against_the_plain_affine_grid(self) -> None:
        images = pictures(channels=3, side=9)[..., :7]
        config = AugmentConfig(rotation=30, zoom=0.25, stretch=0.5, translation=0.1)
        found = changed(images, config)
        sine, cosine = 0.5, 3**0.5 / 2
        theta = torch.tensor(
            [[0.8 * 1.5 * cosine, -0.8 * sine, 0.2], [0.8 * sine, 0.8 / 1.5 * cosine, 0.2]]
        ).expand(6, -1, -1)
        grid = F.affine_grid(theta, [6, 3, 9, 7], align_corners=False)
        wanted = F.grid_sample(images.float() / 255, grid, padding_mode="border", align_corners=False)
        assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.usefixtures("extreme")
class TestColours:
    @pytest.mark.parametrize("channels", [3, 4])
    @pytest.mark.parametrize(
        ("settings", "wanted"),
        [
            # Of the colour (0.6, 0.4, 0.2).
            ({"brightness": 0.3}, (0.9, 0.7, 0.5)),
            ({"brightness": 0.5}, (1.0, 0.9, 0.7)),
            ({"contrast": 0.5}, (0.65, 0.35, 0.05)),
            ({"contrast": 1.0}, (0.7, 0.3, 0.0)),
            ({"invert": 0.1}, (0.4, 0.6, 0.8)),
            # Its luma is 0.299 * 0.6 + 0.587 * 0.4 + 0.114 * 0.2 = 0.437.
            ({"grayscale": 0.1}, (0.437, 0.437, 0.437)),
            ({"saturation": 0.5}, (0.6815, 0.3815, 0.0815)),
            # Half a turn mirrors the colour at its luma.
            ({"hue": 0.5}, (0.274, 0.474, 0.674)),
        ],
    )
    def test_by_hand(self, settings: dict[str, float], wanted: tuple[float, ...], channels: int) -> None:
        images = torch.tensor([153, 102, 51, 255], dtype=torch.uint8)[:channels].view(1, channels, 1, 1)
        found = changed(images, AugmentConfig.model_validate(settings)).flatten()
        assert torch.allclose(found, torch.tensor(wanted), atol=2e-3)

    def test_transparent_pixels_stay_transparent(self) -> None:
        images = pictures(channels=4)
        images[:, 3] = 0
        config = AugmentConfig(brightness=0.5, contrast=0.5, invert=1)
        assert torch.allclose(changed(images, config, "#ff0000")[:, 0], torch.ones(()))

    def test_levels(self) -> None:
        found = changed(pictures(), AugmentConfig(posterize=1))
        assert all(4 <= len(image.unique()) <= 7 for image in found)


def test_channels_are_permuted() -> None:
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(200, 3, 1, 1)
    found = changed(images, AugmentConfig(permute_channels=1))[:, :, 0, 0]
    orders = {tuple((row * 255).round().int().tolist()) for row in found}
    assert len(orders) == 6
    assert {tuple(sorted(order)) for order in orders} == {(0, 128, 255)}


@pytest.mark.usefixtures("extreme")
def test_sharpening_takes_the_blurred_picture_away() -> None:
    images = (pictures() // 2) + 64
    pixels = images.float() / 255
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    wanted = (pixels + 0.5 * (pixels - blurred)).clamp(0, 1)
    assert torch.allclose(changed(images, AugmentConfig(sharpness=0.5)), wanted, atol=1e-5)


def test_noise_has_the_spread_asked_for() -> None:
    images = torch.full((400, 3, 8, 8), 128, dtype=torch.uint8)
    spread = changed(images, AugmentConfig(noise=0.1)).flatten(1).std(1)
    assert spread.max() < 0.13
    assert abs(spread.mean().item() - 0.05) < 0.01


def test_erased_squares() -> None:
    images = torch.zeros(300, 3, 20, 20, dtype=torch.uint8)
    found = changed(images, AugmentConfig(erase=0.5, erase_size=0.3))
    grey = found == 0.5
    assert (found[~grey] == 0).all()
    erased = grey[:, 0].flatten(1).sum(1)
    # 6 x 6 pixels, fewer at the borders, one more or less in a row by rounding.
    assert erased.max() <= 49
    assert abs((erased > 0).float().mean().item() - 0.5) < 0.15
    assert torch.equal(grey[:, 0], grey[:, 2])


@pytest.mark.parametrize("channels", [3, 4])
def test_a_picture_is_changed_alike_in_any_company(channels: int) -> None:
    images = pictures(channels=channels)
    rows = torch.tensor([5, 2])
    alone = changed(images[rows], EVERYTHING, positions=rows)
    # Matrix products of other batch sizes may differ by rounding.
    torch.testing.assert_close(alone, changed(images, EVERYTHING)[rows], rtol=0, atol=2e-6)


@pytest.mark.parametrize("channels", [3, 4])
def test_each_picture_of_a_sample_is_changed_by_itself(channels: int) -> None:
    images = pictures(channels=channels)
    pairs = torch.stack([images, images], 1)
    found = changed(pairs, EVERYTHING.with_(randaugment_ops=2))
    assert found.shape == (6, 2, 3, 8, 8)
    assert torch.equal(found[:, 0], changed(images, EVERYTHING.with_(randaugment_ops=2)))
    assert (found[:, 0] != found[:, 1]).flatten(1).any(1).all()
    if channels == 3:
        assert changed(pairs, AugmentConfig()) is pairs
