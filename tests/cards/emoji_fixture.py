"""Miniature npm packages in the true format, oddities included, for the emoji cards."""

import colorsys
import hashlib
import io
import json
import tarfile
from pathlib import Path

from PIL import Image

LANGUAGES = ("de", "es", "fr", "ja", "zh")

ORDINARY = {
    "1F436": "dog",
    "1F98A": "fox",
    "1F431": "cat",
    "1F42E": "cow",
    "1F437": "pig",
    "1F427": "penguin",
    "1F34B": "lemon",
    "1F34C": "banana",
    "1F34D": "pineapple",
    "1F955": "carrot",
    "1F680": "rocket",
    "1F511": "key",
}
"""Concepts that scenes use, filed under one name everywhere."""

EXPECTED = [
    ("1F600", "grinning face"),
    ("1F917", "smiling face with open hands"),  # flat: hugging-face
    ("1F44B", "waving hand"),  # flat: waving-hand-default; skin tones beside it
    *ORDINARY.items(),
    ("1FA85", "piñata"),  # flat: pinata
    ("260E", "telephone"),  # 260E-FE0F in emoji-datasource and the 3D package
    ("0023-FE0F-20E3", "keycap: #"),  # 3D: 23-fe0f-20e3; flat: keycap-hashtag
    ("00A9", "copyright"),  # 3D: a9-fe0f
]
"""What the card makes of the packages, in order."""

_GROUPS = {"0": "smileys-emotion", "1": "people-body", "2": "component", "3": "animals-nature", "9": "flags"}
_SUBGROUPS = {
    "0": "face-smiling",
    "16": "hand-fingers-open",
    "32": "skin-tone",
    "34": "animal-mammal",
    "97": "flag",
}


def color(style: str, code: str) -> tuple[int, int, int]:
    """The colour that the fixture paints one concept in one style: all differ."""
    digest = hashlib.sha256(f"{style} {code}".encode()).digest()
    r, g, b = colorsys.hsv_to_rgb(digest[0] / 256, 0.5 + digest[1] / 512, 0.5 + digest[2] / 512)
    return round(255 * r), round(255 * g), round(255 * b)


def make_raw(raw: Path, *, packed: bool = True, without: tuple[str, ...] = ()) -> Path:
    """Write the five packages under `raw`, leaving some out; return `raw`."""
    packages = {
        ("emoji-datasource-google", "16.0.0"): _datasource("google", "noto"),
        ("emoji-datasource-twitter", "16.0.0"): _datasource("twitter", "twemoji"),
        ("@lobehub/fluent-emoji-3d", "1.1.0"): _fluent_3d(),
        ("fluentui-emoji", "1.3.0"): _fluent_flat(),
        ("emojibase-data", "17.0.0"): _emojibase(),
    }
    for (name, version), files in packages.items():
        if name in without:
            continue
        files = {"package.json": _json({"name": name, "version": version, "license": "MIT"}), **files}
        if packed:
            write_tarball(raw / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz", files)
        else:
            for path, data in files.items():
                target = raw / "node_modules" / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
    return raw


def write_tarball(path: Path, files: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> None:
    """Write a tarball as `npm pack` does: everything below package/."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for info in extra:
            archive.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _picture(rgb: tuple[int, int, int], size: tuple[int, int], form: str, mode: str = "RGBA") -> bytes:
    image = Image.new("RGBA", size, (*rgb, 255))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
    return buffer.getvalue()


def _entry(
    code: str, label: str, order: int | None, group: int = 0, subgroup: int = 0, **more: object
) -> dict:
    entry = {"label": label, "hexcode": code, "tags": [label.split()[0], "thing"], "emoji": "?", "type": 1}
    if order is not None:
        entry |= {"order": order, "group": group, "subgroup": subgroup}
    return entry | more


def _emojibase() -> dict[str, bytes]:
    entries = [
        # Regional indicators come first, without order, group or tags.
        {"label": "regional indicator A", "hexcode": "1F1E6", "emoji": "?", "type": 1, "version": 0},
        # The last in order stands early in the file.
        _entry("00A9", "copyright", 900, 3, 34, text="©\ufe0e"),
        _entry("1F600", "grinning face", 1),
        _entry("1F917", "smiling face with open hands", 2),
        _entry(
            "1F44B", "waving hand", 3, 1, 16, skins=[_entry("1F44B-1F3FB", "waving hand: light skin tone", 4)]
        ),
        _entry("1F3FB", "light skin tone", 5, 2, 32),
        _entry("1F468-200D-1F680", "man astronaut", 6, 1, 16),
        *(_entry(code, name, 100 + i, 3, 34) for i, (code, name) in enumerate(ORDINARY.items())),
        _entry("1FA85", "piñata", 200, 3, 34),
        _entry("260E", "telephone", 300, 3, 34),
        _entry("1F6D8", "landslide", 400, 3, 34),  # newer than the pictures
        _entry("1F46A", "family", 500, 1, 16),  # not in the flat set
        _entry("1F36C", "candy", 550, 3, 34),  # Twitter's file is a stand-in of another vendor
        _entry("0023-FE0F-20E3", "keycap: #", 600, 3, 34),
        _entry("1F3C1", "chequered flag", 950, 9, 97),
    ]
    files = {
        "meta/groups.json": _json({"groups": _GROUPS, "hierarchy": {"0": [0]}, "subgroups": _SUBGROUPS}),
        "en/data.json": _json(entries),
        "en/compact.json": b"[]",
        "versions/emoji.json": b"{}",
    }
    for language in LANGUAGES:
        names = [{**entry, "label": f"{entry['label']} ({language})"} for entry in entries]
        files[f"{language}/data.json"] = _json(names)
    return files


def _codes() -> dict[str, str]:
    """Hexcode of emojibase -> the one that emoji-datasource gives in `unified`."""
    codes = {code: code for code, _ in EXPECTED}
    codes |= {code: code for code in ("1F468-200D-1F680", "1F46A", "1F36C", "1F3C1", "1F3FB")}
    return codes | {"260E": "260E-FE0F", "00A9": "00A9-FE0F"}


def _datasource(vendor: str, style: str) -> dict[str, bytes]:
    rows, files = [], {"categories.json": b"{}", f"img/{vendor}/sheets/32.png": b"not read"}
    for code, unified in _codes().items():
        image = f"{unified.lower()}.png"
        own = not (vendor == "twitter" and code == "1F36C")
        rows.append(
            {
                "name": "NAME",
                "unified": unified,
                "non_qualified": None,
                "image": image,
                "has_img_apple": True,
                "has_img_google": vendor == "google" or own,
                "has_img_twitter": own,
                "has_img_facebook": False,
            }
        )
        # Some files are palette images, as pngquant leaves them.
        mode = "P" if code == "1F436" else "RGBA"
        files[f"img/{vendor}/64/{image}"] = _picture(color(style, code), (64, 64), "PNG", mode)
    files["emoji.json"] = _json(rows)
    return files


def _fluent_3d() -> dict[str, bytes]:
    files = {}
    for code, unified in _codes().items():
        stem = "-".join(part.lstrip("0") for part in unified.lower().split("-"))
        files[f"assets/{stem}.webp"] = _picture(color("fluent-3d", code), (256, 256), "WEBP")
    files["assets/1f44b-1f3fb.webp"] = _picture((1, 2, 3), (256, 256), "WEBP")
    files["assets/1f680.webp"] = _picture(color("fluent-3d", "1F680"), (256, 264), "WEBP")  # not square
    return files


def _fluent_flat() -> dict[str, bytes]:
    stems = {code: name.replace(" ", "-") for code, name in EXPECTED}
    stems |= {
        "1F917": "hugging-face",
        "1F44B": "waving-hand-default",
        "1FA85": "pinata",
        "0023-FE0F-20E3": "keycap-hashtag",
        "1F468-200D-1F680": "man-astronaut-default",
        "1F36C": "candy",
        "1F3C1": "chequered-flag",
    }
    files = {"icons/high-contrast/dog.svg": b"<svg/>", "icons/flat/waving-hand-dark.svg": _svg((1, 2, 3))}
    for code, stem in stems.items():
        files[f"icons/flat/{stem}.svg"] = _svg(color("fluent-flat", code))
        files[f"icons/modern/{stem}.svg"] = _svg((1, 2, 3))
    return files


def _svg(rgb: tuple[int, int, int]) -> bytes:
    fill = "#{:02x}{:02x}{:02x}".format(*rgb)
    head = '<svg width="32" height="32" viewBox="0 0 32 32" fill="none" xmlns="http://www.w3.org/2000/svg">'
    return f'{head}\n<path d="M0 0H32V32H0Z" fill="{fill}"/>\n</svg>\n'.encode()
