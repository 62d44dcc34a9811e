"""Random changes to whole batches of pictures on their device. Legend: B batch, H x W pixels.

Every random number is drawn for one sample (`Draws`) on the CPU, then moved, so that the result depends
neither on where the pictures are nor on the rest of the batch. Pictures are changed in place where they are
ours: fresh memory costs more than arithmetic.
"""

import math
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.data.config import AugmentConfig, parse_colour
from diptych.data.draws import Draws
from diptych.data.jitter import colour_jitter
from diptych.data.randaugment import rand_augment

_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)


def augment(
    images: Tensor, config: AugmentConfig, draws: Draws, background: str = "white", *, clips: bool = False
) -> Tensor:
    """Change pictures at random as `config` says.

    Args:
        images: [B, 3, H, W] uint8, or [B, 4, H, W] with opacity as the last channel (the loader keeps it when
            `config.keeps_opacity`). With n pictures a sample [B, n, 3 or 4, H, W]; each is changed by itself,
            frames of a clip all alike (noise too).
        config: what to change and how much.
        draws: of the B samples.
        background: colour behind transparent pixels that get no random one (`data.image.background`).
        clips: the n pictures of a sample are frames of a clip.

    Returns:
        [B, 3, H, W] float32 in 0..1, or uint8 after RandAugment; the input itself where it has 3 channels and
        everything is off. With several pictures a sample [B, n, 3, H, W].
    """
    if images.shape[-3] == 3 and not _active(config) and not config.randaugment_ops:
        return images
    if images.ndim == 5 and clips:
        last = images.shape[1] - 1
        changed = [
            augment(frame, config, draws if number == last else copy(draws), background)
            for number, frame in enumerate(images.unbind(1))
        ]
        return torch.stack(changed, 1)
    if images.ndim == 5:
        return torch.stack([augment(each, config, draws, background) for each in images.unbind(1)], 1)
    if images.shape[1] == 4 or _active(config):
        images = _changed(images, config, _Draws(draws, images.device), background)
    if config.randaugment_ops:
        images = images if images.dtype == torch.uint8 else images.mul(255).round_().to(torch.uint8)
        images = rand_augment(images, config, draws)
    return images


def _changed(images: Tensor, config: AugmentConfig, draw: "_Draws", background: str) -> Tensor:
    """Apply everything but RandAugment: [B, 3 or 4, H, W] uint8 -> [B, 3, H, W] float32 in 0..1."""
    # The loader's pictures have their channels last; sums over planes are faster channels first.
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
    opacity: Tensor | None = None
    if images.shape[1] == 4:
        # Premultiplied: interpolation and background are then plain sums.
        pixels[:, :3].mul_(pixels[:, 3:])
    if config.moves:
        pixels = _affine(pixels, config, draw)
    if images.shape[1] == 4:
        pixels, opacity = pixels[:, :3], pixels[:, 3:]
    pixels = _colours(pixels, opacity, config, draw)
    if opacity is not None:
        pixels = torch.addcmul(pixels, 1 - opacity, _background(config, draw, background))
    pixels = _texture(pixels, config, draw)
    return colour_jitter(pixels, config.jitter, draw.draws) if any(config.jitter) else pixels


def _active(config: AugmentConfig) -> bool:
    passive = ("outside", "random_background", "erase_size", "jitter")
    others = any(v for n, v in config if n not in passive and not n.startswith("randaugment"))
    return others or any(config.jitter)


class _Draws:
    """Per-picture random numbers, on the pictures' device."""

    def __init__(self, draws: Draws, device: torch.device) -> None:
        self.batch, self.draws, self.device = len(draws), draws, device

    def unit(self, *shape: int) -> Tensor:
        """[B, *shape] uniform in 0..1."""
        return self.draws.rand(*shape).to(self.device)

    def around(self, limit: float, *shape: int) -> Tensor:
        """[B, *shape] uniform in -limit..limit."""
        return (self.unit(*shape) * 2 - 1) * limit

    def chosen(self, probability: float) -> Tensor:
        """[B] bool."""
        return self.unit() < probability

    def normal(self, *shape: int) -> Tensor:
        """[B, *shape] standard normal."""
        return self.draws.normal(*shape).to(self.device)


def _affine(pixels: Tensor, config: AugmentConfig, draw: _Draws) -> Tensor:
    """Rotate, zoom, stretch and shift; outside is opacity 0 if there is opacity, else the edge goes on."""
    angle = draw.around(config.rotation) * (math.pi / 180)
    shrink = 1 / (1 + draw.around(config.zoom))
    stretch = 1 + draw.around(config.stretch)
    # Coordinates run from -1 to 1, so a shift by the whole side is 2.
    shift = draw.around(2 * config.translation, 2)
    # Where to look in the old picture for each place (x, y) of the new one: x * right + y * down + shift.
    right = torch.stack([shrink * stretch * angle.cos(), shrink * angle.sin()], 1)
    down = torch.stack([-shrink * angle.sin(), shrink / stretch * angle.cos()], 1)
    x, y = _centres(pixels.shape[3], draw.device), _centres(pixels.shape[2], draw.device)
    grid = (right[:, None, None, :] * x[:, None] + shift[:, None, None, :]) + (
        down[:, None, None, :] * y[:, None, None]
    )
    outside = "zeros" if pixels.shape[1] == 4 else "border"
    return F.grid_sample(pixels, grid, padding_mode=outside, align_corners=False)


def _centres(count: int, device: torch.device) -> Tensor:
    """Return the pixel centres of one axis, [count], where the picture's edges are -1 and 1."""
    return (torch.arange(count, device=device) + 0.5) * (2 / count) - 1


def _colours(pixels: Tensor, opacity: Tensor | None, config: AugmentConfig, draw: _Draws) -> Tensor:
    """Apply one linear map per picture, then fewer levels; premultiplied in and out if there is opacity."""
    linear = (config.hue, config.saturation, config.contrast, config.brightness)
    if any(linear) or config.grayscale or config.permute_channels or config.invert:
        matrix, offset = _colour_map(config, draw)
        flat = pixels.flatten(2)
        if opacity is None:
            mapped = torch.baddbmm(offset, matrix, flat)
            pixels = mapped.view_as(pixels).clamp_(0, 1)
        else:
            mapped = torch.baddbmm(torch.bmm(offset, opacity.flatten(2)), matrix, flat)
            pixels = torch.minimum(mapped.view_as(pixels).clamp_(min=0), opacity)
    if config.posterize:
        steps = (draw.unit(1, 1, 1) * 4).floor() + 3
        chosen = draw.chosen(config.posterize)[:, None, None, None]
        pixels = torch.where(chosen, (pixels * steps).round() / steps, pixels)
        if opacity is not None:
            pixels = torch.minimum(pixels, opacity)  # a premultiplied colour rounded up may exceed it
    return pixels


def _colour_map(config: AugmentConfig, draw: _Draws) -> tuple[Tensor, Tensor]:
    """Return matrix [B, 3, 3] and offset [B, 3, 1] of the changes of hue, saturation, contrast, ..."""
    turn = draw.around(config.hue) * (2 * math.pi)
    strength = 1 + draw.around(config.saturation)
    if config.grayscale:
        strength = strength.masked_fill(draw.chosen(config.grayscale), 0)
    chroma = torch.zeros(draw.batch, 3, 3, device=draw.device)
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = strength * turn.cos()
    chroma[:, 1, 2], chroma[:, 2, 1] = -strength * turn.sin(), strength * turn.sin()
    contrast = 1 + draw.around(config.contrast)
    matrix = _FROM_YIQ.to(draw.device) @ chroma @ _TO_YIQ.to(draw.device) * contrast[:, None, None]
    offset = 0.5 * (1 - contrast) + draw.around(config.brightness)
    if config.permute_channels:
        order = F.one_hot(draw.unit(3).argsort(1), 3).float()
        matrix = torch.where(draw.chosen(config.permute_channels)[:, None, None], order, matrix)
    if config.invert:
        sign = 1 - 2 * draw.chosen(config.invert).float()
        matrix = matrix * sign[:, None, None]
        offset = offset * sign + (1 - sign) / 2
    return matrix, offset[:, None, None].expand(-1, 3, 1)


def _background(config: AugmentConfig, draw: _Draws, background: str) -> Tensor:
    """Return [B, 3, 1, 1]: a random colour or the plain one."""
    plain = torch.tensor(parse_colour(background), device=draw.device) / 255
    if not config.random_background:
        return plain[None, :, None, None]
    chosen = draw.chosen(config.random_background)[:, None]
    return torch.where(chosen, draw.unit(3), plain)[:, :, None, None]


def _texture(pixels: Tensor, config: AugmentConfig, draw: _Draws) -> Tensor:
    """Blur or sharpen, add noise, erase a square."""
    if config.sharpness:
        detail = pixels - _blur(_blur(pixels, 3), 2)
        pixels = pixels + detail.mul_(draw.around(config.sharpness, 1, 1, 1))
    if config.noise:
        spread = draw.unit(1, 1, 1) * config.noise
        pixels = pixels + draw.normal(*pixels.shape[1:]) * spread
    if config.sharpness or config.noise:
        pixels = pixels.clamp_(0, 1)
    if config.erase:
        pixels = pixels.masked_fill(_squares(pixels.shape[2], pixels.shape[3], config, draw), 0.5)
    return pixels


def _blur(pixels: Tensor, axis: int) -> Tensor:
    """Return the mean of three neighbours along an axis; the edge counts twice at the edge."""
    last = pixels.shape[axis] - 1
    total = pixels.clone()
    for here, there in ((0, 1), (1, 0)):
        total.narrow(axis, here, last).add_(pixels.narrow(axis, there, last))
    for edge in (0, last):
        total.narrow(axis, edge, 1).add_(pixels.narrow(axis, edge, 1))
    return total.mul_(1 / 3)


def _squares(height: int, width: int, config: AugmentConfig, draw: _Draws) -> Tensor:
    """Return [B, 1, H, W] bool: inside the square to erase. Its centre is anywhere in the picture."""
    chosen = draw.chosen(config.erase)[:, None, None, None]
    y = torch.arange(height, device=draw.device).view(1, 1, -1, 1) + 0.5
    x = torch.arange(width, device=draw.device).view(1, 1, 1, -1) + 0.5
    near_y = (y - draw.unit(1, 1, 1) * height).abs() < config.erase_size * height / 2
    near_x = (x - draw.unit(1, 1, 1) * width).abs() < config.erase_size * width / 2
    return chosen & near_y & near_x
