"""The `emoji` concepts and pictures from the npm packages."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, UnidentifiedImageError

from diptych.data.cards.npm import Package, read_json, read_package
from diptych.data.cards.sprites import LANGUAGES, SHIPPED_SIZE, STYLES, Concept, held_out
from diptych.errors import DataError, UsageError

NOTO = Package("emoji-datasource-google", "16.0.0")
TWEMOJI = Package("emoji-datasource-twitter", "16.0.0")
FLUENT_3D = Package("@lobehub/fluent-emoji-3d", "1.1.0")
FLUENT_FLAT = Package("fluentui-emoji", "1.3.0")
NAMES = Package("emojibase-data", "17.0.0")
PACKAGES = (NOTO, TWEMOJI, FLUENT_3D, FLUENT_FLAT, NAMES)

WEBP_QUALITY = 80
ALPHA_QUALITY = 90

LEFT_OUT_GROUPS = ("component", "flags")
"""Skin tones and hair by themselves, and flags."""

FLAT_FILES = {
    "1F917": "hugging-face",
    "1F635": "knocked-out-face",
    "1F621": "pouting-face",
    "1F471": "person-blonde-hair-default",
    "1F9CF": "person-deaf-default",
    "1F9B8": "person-superhero-default",
    "1F9B9": "person-supervillain-default",
    "1F9D9": "person-mage-default",
    "1F9DA": "person-fairy-default",
    "1F9DB": "person-vampire-default",
    "1F9DC": "person-merpeople-default",
    "1F9DD": "person-elf-default",
    "1F9DE": "person-genie",
    "1F9DF": "person-zombie",
    "1F46F": "person-with-bunny-ears",
    "1F93C": "person-wrestling",
    "1F959": "stuffedbread-flat",
    "0023-FE0F-20E3": "keycap-hashtag",
    "002A-FE0F-20E3": "keycap-asterisk",
    "1F53A": "red-triangle",
}
"""Flat pictures are filed under names, these under older ones than emojibase's."""


@dataclass(frozen=True)
class _Raw:
    """Pictures of one style by concept, still encoded as their owners ship them."""

    style: str
    pictures: Mapping[str, bytes]

    def find(self, hexcode: str, name: str) -> bytes | None:
        if self.style == "fluent-flat":
            stem = FLAT_FILES.get(hexcode, slug(name))
            return self.pictures.get(stem) or self.pictures.get(f"{stem}-default")
        return self.pictures.get(code_key(hexcode))


def read_raw(raw: Path, size: int = SHIPPED_SIZE) -> Iterator[Concept]:
    """Yield the concepts that all four styles show, in emojibase's order.

    Left out are flags, components (skin tones, hair), skin-tone variants, and sequences with a zero-width
    joiner (the gender and profession variants of one picture).

    Args:
        raw: folder with the npm packages of `PACKAGES`, packed or unpacked.
        size: side of the pictures in pixels. Noto and Twemoji come at 64 pixels; above, they are enlarged.

    Raises:
        DataError: a package is missing or damaged.
        UsageError: resvg-py, which renders the flat pictures, is not installed.
    """
    _svg_renderer()  # before minutes of work, not after
    styles = [
        _Raw("noto", _datasource(raw, NOTO, "google")),
        _Raw("twemoji", _datasource(raw, TWEMOJI, "twitter")),
        _Raw("fluent-3d", _by_code(read_package(raw, FLUENT_3D, _matches("assets/", ".webp")))),
        _Raw("fluent-flat", _by_stem(read_package(raw, FLUENT_FLAT, _matches("icons/flat/", ".svg")))),
    ]
    entries, translations = _names(raw)
    kept = []
    for entry in entries:
        found = {raws.style: raws.find(entry["hexcode"], entry["label"]) for raws in styles}
        pictures = {style: data for style, data in found.items() if data is not None}
        if len(pictures) == len(STYLES):
            kept.append((entry, pictures))
    out = held_out({entry["hexcode"]: entry["group"] for entry, _ in kept})
    for entry, pictures in kept:
        hexcode = entry["hexcode"]
        yield Concept(
            hexcode=hexcode,
            name=entry["label"],
            tags=tuple(entry.get("tags", ())),
            group=entry["group"],
            subgroup=entry["subgroup"],
            translations={language: names.get(hexcode, "") for language, names in translations.items()},
            sprites={
                style: encode(render(data, size, f"{style} {hexcode}")) for style, data in pictures.items()
            },
            held_out=hexcode in out,
        )


def code_key(code: str) -> str:
    """Bring a hexcode to the form that matches across packages.

    The packages differ in case, in the presentation selector FE0F and in leading zeros (`00A9-FE0F` is
    `a9-fe0f` in one of them): lower case without either.
    """
    return "-".join(part.lstrip("0") for part in code.lower().split("-") if part != "fe0f")


def slug(name: str) -> str:
    """Return the file stem under which fluentui-emoji keeps a name: `keycap: 1` -> `keycap-1`."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = text.replace("&", "and").replace("'", "")
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def render(data: bytes, size: int, what: str) -> Image.Image:
    """Decode PNG, WebP or SVG to a `size` x `size` RGBA picture.

    Raises:
        DataError: the picture cannot be decoded.
    """
    if data.lstrip()[:5] in (b"<svg ", b"<?xml"):
        # Twice the size, then down like the other styles, so that edges are equally soft.
        data = _render_svg(data, 2 * size, what)
    try:
        with Image.open(BytesIO(data)) as opened:
            picture = opened.convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{what}: cannot decode the picture ({error})") from error
    side = max(picture.size)
    if picture.width != picture.height:
        square = Image.new("RGBA", (side, side))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        picture = square
    if side == size:
        return picture
    # Pillow resizes RGBA premultiplied, so the invisible colour of transparent pixels stays out of the edges.
    resample = Image.Resampling.BOX if side % size == 0 else Image.Resampling.LANCZOS
    return picture.resize((size, size), resample)


def encode(picture: Image.Image) -> bytes:
    """Encode as lossy WebP with transparency."""
    buffer = BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY, alpha_quality=ALPHA_QUALITY, method=6)
    return buffer.getvalue()


def _svg_renderer() -> Any:
    try:
        import resvg_py
    except ImportError as error:
        raise UsageError(
            "the full rebuild of 'emoji' renders SVG with resvg-py: pip install 'diptych[emoji]' "
            "(or leave --raw out to use the shipped pictures)"
        ) from error
    return resvg_py


def _render_svg(data: bytes, size: int, what: str) -> bytes:
    try:
        text = data.decode("utf-8")
        return bytes(
            _svg_renderer().svg_to_bytes(svg_string=text, width=size, height=size, skip_system_fonts=True)
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise DataError(f"{what}: cannot render the SVG ({error})") from error


def _matches(prefix: str, suffix: str) -> Any:
    return lambda path: path.startswith(prefix) and path.endswith(suffix)


def _by_code(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {code_key(PurePosixPath(path).stem): data for path, data in files.items()}


def _by_stem(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {PurePosixPath(path).stem: data for path, data in files.items()}


def _datasource(raw: Path, package: Package, vendor: str) -> dict[str, bytes]:
    """Pictures of an emoji-datasource package that its emoji.json says are the vendor's own."""
    folder = f"img/{vendor}/64/"
    files = read_package(raw, package, lambda p: p == "emoji.json" or p.startswith(folder))
    table = read_json(files, "emoji.json", package)
    pictures = {}
    for row in table if isinstance(table, list) else ():
        # Without the flag a file may be there all the same: another vendor's, as a stand-in.
        if row.get(f"has_img_{vendor}") and f"{folder}{row['image']}" in files:
            pictures[code_key(row["unified"])] = files[f"{folder}{row['image']}"]
    if not pictures:
        raise DataError(f"{package.tarball}: emoji.json lists no picture under {folder}")
    return pictures


def _names(raw: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, str]]]:
    """Entries of emojibase in order, with group names, and language -> hexcode -> name."""
    wanted = {"meta/groups.json", *(f"{language}/data.json" for language in ("en", *LANGUAGES))}
    files = read_package(raw, NAMES, wanted.__contains__)
    groups: Any = read_json(files, "meta/groups.json", NAMES)
    table: Any = read_json(files, "en/data.json", NAMES)
    entries = []
    for entry in sorted((e for e in table if "order" in e), key=lambda e: e["order"]):
        group = groups["groups"][str(entry["group"])]
        if group not in LEFT_OUT_GROUPS and "200D" not in entry["hexcode"].split("-"):
            entries.append({**entry, "group": group, "subgroup": groups["subgroups"][str(entry["subgroup"])]})
    translations = {}
    for language in LANGUAGES:
        rows: Any = read_json(files, f"{language}/data.json", NAMES)
        translations[language] = {row["hexcode"]: row["label"] for row in rows}
    return entries, translations
