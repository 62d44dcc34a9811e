"""How one sample lies in a tar: keys, members, sidecar JSON, and the facts that the index keeps about it."""

import hashlib
import io
import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, UnidentifiedImageError

from diptych.data.raw.refs import MediumError
from diptych.data.raw.video import HEAD, VIDEOS, ending_of, probe_video
from diptych.data.sample import Sample
from diptych.errors import DataError

MAX_KEY = 200
"""Letters of a key. Longer names do not fit the file systems that shards get unpacked to."""
MAX_TEXT = 16 * 2**20
"""Letters of one caption. More is no caption but a quote that somebody forgot to close."""
SIDECARS = ("txt", "json")
"""Fields that hold texts and facts; every other field of a sample is a medium."""
PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "jp2", "avif"})
"""Endings of fields that are pictures: their header tells the size."""
OWN_FIELDS = frozenset({"captions", "match_id", "meta"})
"""Keys that a sidecar JSON has when Diptych wrote it."""
COUNTED = ("questions", "statements", "choices")
"""Lists in `Sample.meta` whose lengths are columns; `data.examples` makes a row of each entry."""

ALL = "all"
"""Split of samples that nobody put into one."""

_STARTS = {
    b"\xff\xd8\xff": ("jpg", "jpeg"),
    b"\x89PNG\r\n": ("png",),
    b"GIF8": ("gif",),
    b"BM": ("bmp",),
    b"II*\0": ("tif", "tiff"),
    b"MM\0*": ("tif", "tiff"),
    b"\0\0\0\x0cjP": ("jp2",),
}
"""How pictures begin, and the endings that they have."""
_ORIENTATION = 0x0112
_SIDEWAYS = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap width and height."""

_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_KEY}}}")
_MEDIUM = re.compile(r"[a-z0-9]+(\.[a-z0-9]+)*")


class BadSampleError(DataError):
    """A sample that cannot go into a shard; `cause` is the name it is counted under."""

    def __init__(self, cause: str, key: str, detail: str) -> None:
        super().__init__(f"sample '{key}': {detail}")
        self.cause, self.key, self.detail = cause, key, detail


@dataclass(frozen=True)
class Facts:
    """What the header of a picture or video tells, upright; None where it does not apply."""

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    """Number of frames of a video or of an animated picture."""
    duration: float | None = None
    """Seconds of a video."""
    fps: float | None = None
    """Frames a second, on average."""
    audio: bool | None = None
    """Whether a video has sound."""


def clean_key(text: str) -> str:
    """Return `text` as a key: runs of other characters than letters, digits, `_`, `-` become one `_`.

    Two texts may give the same key. An empty string is returned when nothing is left.
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:MAX_KEY]


def is_key(text: str) -> bool:
    """Tell whether `text` can be a key as it stands."""
    return _KEY.fullmatch(text) is not None


def pack(sample: Sample) -> dict[str, bytes]:
    """Return the members of a sample by extension, in the order they are stored.

    Lone surrogates in texts become U+FFFD, numbers that JSON does not have (NaN, infinity) null.

    Raises:
        BadSampleError: bad key, neither media nor captions, a caption without end.
        DataError: a medium's extension or a fact in `meta` that cannot be stored (a defect of the card).
    """
    if not is_key(sample.key):
        raise BadSampleError(
            "bad key",
            sample.key,
            f"a key has 1 to {MAX_KEY} letters, digits, '_' and '-'; clean_key() makes one",
        )
    if not sample.media and not sample.captions:
        raise BadSampleError("empty sample", sample.key, "neither media nor captions")
    longest = max(map(len, sample.captions), default=0)
    if longest > MAX_TEXT:
        raise BadSampleError("text too long", sample.key, f"{longest} letters, at most {MAX_TEXT} are stored")
    for name in sample.media:
        if name in SIDECARS or not _MEDIUM.fullmatch(name):
            raise DataError(
                f"sample '{sample.key}': '{name}' cannot be the extension of a medium "
                "(small letters and digits; txt and json are taken)"
            )
    side = {
        "captions": list(sample.captions),
        "match_id": sample.match_id,
        "split": sample.split,
        "meta": dict(sample.meta),
    }
    try:
        encoded = _json(side)
    except (TypeError, ValueError) as error:
        raise DataError(f"sample '{sample.key}': cannot be stored as JSON in UTF-8: {error}") from error
    first = whole(sample.captions[0]).encode() if sample.captions else b""
    members = {name: bytes(sample.media[name]) for name in sorted(sample.media)}
    return {**members, "txt": first, "json": encoded}


def _json(value: Any) -> bytes:
    """Return JSON in UTF-8; only what cannot be written as it is is looked through."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:  # NaN, or a lone surrogate
        return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {
            whole(name) if isinstance(name, str) else name: _plain(entry) for name, entry in value.items()
        }
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def whole(text: str) -> str:
    """Return a text with U+FFFD for lone surrogates, which UTF-8 cannot store; pairs become letters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def unpack(key: str, members: Mapping[str, bytes], split: str | None = None) -> Sample:
    """Return the sample that `members` (extension -> content) hold, ours or any WebDataset's.

    Captions come from the JSON (`captions`, else `caption`), else from the text. `split` wins over that of
    the JSON; without either it is `all`.

    Raises:
        ValueError: the JSON cannot be parsed or is no object.
    """
    media = {name: data for name, data in members.items() if name not in SIDECARS}
    text = members.get("txt", b"").decode("utf-8", errors="replace").strip()
    captions: tuple[str, ...] = (text,) if text else ()
    side = json.loads(members["json"]) if "json" in members else {}
    if not isinstance(side, dict):
        raise ValueError(f"expected an object in the JSON, got {type(side).__name__}")
    if side.keys() >= OWN_FIELDS:
        return Sample(
            key,
            media,
            tuple(side["captions"]),
            str(side["match_id"]),
            split or str(side.get("split", ALL)),
            side["meta"],
        )
    many, one = side.get("captions"), side.get("caption")
    if isinstance(many, list) and all(isinstance(c, str) for c in many):
        captions = tuple(c for c in many if c.strip())
    elif isinstance(one, str) and one.strip():
        captions = (one.strip(),)
    meta = {name: value for name, value in side.items() if name not in ("captions", "caption")}
    return Sample(key, media, captions, "", split or ALL, meta)


def is_picture(name: str) -> bool:
    """Tell whether a field (`jpg`, `0.jpg`) is a picture."""
    return name.rpartition(".")[2] in PICTURES


def is_video(name: str) -> bool:
    """Tell whether a field (`mp4`, `0.webm`) is a video."""
    return name.rpartition(".")[2] in VIDEOS


def named_by_content(sample: Sample) -> Sample:
    """Return the sample with pictures and videos called what they are: a PNG in `jpg` becomes `png`.

    What is not recognised, and what would take the name of another medium, keeps its name.
    """
    names = {name: _true_name(name, bytes(data[:HEAD])) for name, data in sample.media.items()}
    if all(name == new for name, new in names.items()) or len(set(names.values())) < len(names):
        return sample
    return replace(sample, media={names[name]: data for name, data in sample.media.items()})


def _true_name(name: str, head: bytes) -> str:
    stem, dot, ending = name.rpartition(".")
    if ending in PICTURES:
        found = _picture_endings(head)
        return name if not found or ending in found else f"{stem}{dot}{found[0]}"
    if ending in VIDEOS:
        new = ending_of(head)
        return name if not new or VIDEOS[new] == VIDEOS[ending] else f"{stem}{dot}{new}"
    return name


def _picture_endings(head: bytes) -> tuple[str, ...]:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ("webp",)
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return ("avif",)
    return next((endings for start, endings in _STARTS.items() if head.startswith(start)), ())


def probe(key: str, media: Mapping[str, bytes]) -> Facts:
    """Read the facts of the first video among `media`, or else of the first picture.

    Of pictures only the header is read, of videos also the first frame.

    Raises:
        BadSampleError: it cannot be read, or announces a picture too large to decode.
    """
    moving = next((name for name in sorted(media) if is_video(name)), None)
    if moving is not None:
        return _video_facts(key, moving, media[moving])
    name = next((name for name in sorted(media) if is_picture(name)), None)
    if name is None:
        return Facts()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The loader refuses what Pillow warns of.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(media[name])) as picture:
                return _facts(picture)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadSampleError("picture too large", key, f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise BadSampleError("unreadable picture", key, f"{name}: {_no_picture(media[name])}") from error
    except Exception as error:  # damaged bytes raise almost anything: OSError, SyntaxError, struct.error, ...
        raise BadSampleError("unreadable picture", key, f"{name}: {error}") from error


def _no_picture(data: bytes) -> str:
    if not data:
        return "the file is empty"
    what = "a web page, no picture" if data.lstrip()[:1] == b"<" else "no known picture format"
    return f"{what}, it starts with {data[:12]!r}"


def _video_facts(key: str, name: str, data: bytes) -> Facts:
    try:
        found = probe_video(bytes(data))
    except MediumError as error:
        raise BadSampleError(error.cause, key, f"{name}: {error.detail}") from error
    return Facts(found.width, found.height, found.frames, found.duration, found.fps, found.audio)


def _facts(picture: Image.Image) -> Facts:
    frames = int(getattr(picture, "n_frames", 1)) if getattr(picture, "is_animated", False) else None
    width, height = picture.size
    try:
        sideways = picture.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
    except Exception:  # damaged metadata raises almost anything and does not make the pixels useless
        sideways = False
    return Facts(height, width, frames) if sideways else Facts(width, height, frames)


def media_hash(media: Mapping[str, bytes]) -> str:
    """Return the hex SHA-256 of the media's bytes, several media one after another by extension."""
    digest = hashlib.sha256()
    for name in sorted(media):
        digest.update(media[name])
    return digest.hexdigest()


def scalars(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of `meta` that become columns: numbers, texts and booleans at the top level."""
    kept = {name: value for name, value in meta.items() if isinstance(value, bool | int | float | str)}
    return {
        name: whole(value) if isinstance(value, str) else value
        for name, value in kept.items()
        if not isinstance(value, float) or math.isfinite(value)
    }
