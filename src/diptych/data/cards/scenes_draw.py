"""Painting a scene."""

from collections.abc import Mapping
from io import BytesIO

from PIL import Image, ImageDraw

from diptych.data.cards.scenes_layout import COLORS, GRID, Scene

BACKGROUND = (246, 244, 240)
_WEBP_QUALITY = 85


class Painter:
    """Paints scenes at one resolution; keeps resized sprites and tiles.

    Args:
        resolution: side of the pictures in pixels.
        sprites: (hexcode, style) -> encoded picture with transparency.
    """

    def __init__(self, resolution: int, sprites: Mapping[tuple[str, str], bytes]) -> None:
        self._resolution = resolution
        self._sprites = sprites
        self._edges = [round(i * resolution / GRID) for i in range(GRID + 1)]
        self._cell = resolution // GRID
        self._ready: dict[tuple[str, str], Image.Image] = {}
        self._tiles = {color: self._tile(rgb) for color, rgb in COLORS.items()}

    def paint(self, scene: Scene) -> Image.Image:
        """Return the picture, RGB, `resolution` x `resolution`."""
        picture = Image.new("RGB", (self._resolution, self._resolution), BACKGROUND)
        for group in scene.groups:
            tile = self._tiles[group.color]
            sprite = self._sprite(group.item.hexcode, scene.style)
            inset = (self._cell - sprite.width) // 2
            for row, column in group.cells:
                x, y = self._edges[column], self._edges[row]
                picture.paste(tile, (x, y))
                picture.paste(sprite, (x + inset, y + inset), sprite)
        return picture

    def webp(self, scene: Scene) -> bytes:
        """Return the picture as WebP."""
        buffer = BytesIO()
        self.paint(scene).save(buffer, "WEBP", quality=_WEBP_QUALITY, method=2)
        return buffer.getvalue()

    def _sprite(self, hexcode: str, style: str) -> Image.Image:
        if (hexcode, style) not in self._ready:
            side = max(1, round(0.74 * self._cell))
            with Image.open(BytesIO(self._sprites[hexcode, style])) as opened:
                sprite = opened.convert("RGBA").resize((side, side), Image.Resampling.LANCZOS)
            self._ready[hexcode, style] = sprite
        return self._ready[hexcode, style]

    def _tile(self, rgb: tuple[int, int, int]) -> Image.Image:
        """A square with round corners and a margin, drawn four times too large for smooth edges."""
        side = 4 * self._cell
        margin = side // 24
        tile = Image.new("RGB", (side, side), BACKGROUND)
        box = (margin, margin, side - 1 - margin, side - 1 - margin)
        ImageDraw.Draw(tile).rounded_rectangle(box, radius=side // 8, fill=rgb)
        return tile.resize((self._cell, self._cell), Image.Resampling.BOX)
