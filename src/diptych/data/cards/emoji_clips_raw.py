"""Emoji that move by themselves: the animated Fluent pictures from their npm packages."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from diptych.data.cards.emoji_raw import code_key
from diptych.data.cards.npm import Package, read_package
from diptych.data.cards.scenes_layout import Item
from diptych.errors import DataError

ANIMATED = "fluent-animated"
"""The name of their style."""
PACKAGES = tuple(Package(f"@lobehub/fluent-emoji-anim-{number}", "1.0.0") for number in range(1, 5))


def read_animated(raw: Path, items: Sequence[Item]) -> dict[tuple[str, str], bytes]:
    """Return (hexcode, style) -> animated WebP for each item.

    Raises:
        DataError: a package is missing or damaged, or an emoji is in none of them.
    """
    wanted = {code_key(item.hexcode): item.hexcode for item in items}
    found: dict[tuple[str, str], bytes] = {}
    for package in PACKAGES:
        files = read_package(raw, package, lambda path: _code(path) in wanted)
        found |= {(wanted[_code(path)], ANIMATED): data for path, data in files.items()}
    missing = [item.noun.singular for item in items if (item.hexcode, ANIMATED) not in found]
    if missing:
        raise DataError(
            f"{raw}: {len(missing)} of {len(items)} emoji are not in the animated packages, for example "
            f"'{missing[0]}'; get the packages again with `npm pack`"
        )
    return found


def _code(path: str) -> str:
    """`assets/1f600.webp` -> `1f600`; empty for other files."""
    place = PurePosixPath(path)
    return code_key(place.stem) if place.suffix == ".webp" and place.parent.name == "assets" else ""
