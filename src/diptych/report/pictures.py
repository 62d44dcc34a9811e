"""Small pictures of a prepared dataset, embedded as data URIs."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from diptych.data.index import ShardDataset
from diptych.data.members import is_picture, is_video
from diptych.data.sample import Sample
from diptych.errors import DiptychError
from diptych.report.collect import Thumbnails

SIDE = 96
SMALL_ENOUGH = 4096
MIME = {"webp": "image/webp", "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg"}


def thumbnails(dataset: Path, keys: Iterable[str]) -> Thumbnails:
    """Read the pictures of `keys`, of videos one frame; those that cannot be read are left out."""
    wanted = sorted(set(keys))
    if not wanted or not dataset.exists():
        return Thumbnails()
    quoted = ", ".join("'" + key.replace("'", "''") + "'" for key in wanted)
    try:
        selection = ShardDataset.open(dataset).select(where=f"key in ({quoted})")
    except DiptychError:
        return Thumbnails()  # the data may have moved since
    uris: dict[str, str] = {}
    for i in range(len(selection)):
        try:
            sample = selection.read(i)
            if uri := sample_uri(sample):
                uris[sample.key] = uri
        except (DiptychError, OSError, ValueError):
            continue  # a damaged picture must not cost the user the report; its key is shown instead
    return Thumbnails(uris)


def data_uri(sample: Sample) -> str:
    """Return the sample's first picture as a data URI, scaled down to 96 pixels where it is large."""
    # Samples with two pictures name them 0.jpg and 1.jpg.
    parts = ((name.rpartition(".")[2], data) for name, data in sorted(sample.media.items()))
    extension, content = next((e, c) for e, c in parts if e in MIME)
    if len(content) > SMALL_ENOUGH:
        return _scaled_down(Image.open(io.BytesIO(content)))
    return _uri(extension, content)


def sample_uri(sample: Sample) -> str:
    """Return the first picture of a sample, else the frame in the middle of its first video, as a data URI.

    Scaled down to 96 pixels where it is large; empty if there is none, or it cannot be decoded.
    """
    for name, data in sorted(sample.media.items()):
        try:
            if is_picture(name):
                return data_uri(sample) if name.rpartition(".")[2] in MIME else _any_picture(data)
            if is_video(name):
                from diptych.data.stills import middle_frame

                return _scaled_down(middle_frame(data))
        except Exception:  # damaged bytes raise almost anything; the page shows the key instead
            return ""
    return ""


def _any_picture(data: bytes) -> str:
    return _scaled_down(Image.open(io.BytesIO(data)))


def _scaled_down(picture: Image.Image) -> str:
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.convert("RGBA" if picture.mode in ("RGBA", "LA", "P") else "RGB").save(buffer, "webp", quality=80)
    return _uri("webp", buffer.getvalue())


def _uri(extension: str, content: bytes) -> str:
    return f"data:{MIME[extension]};base64,{base64.b64encode(content).decode('ascii')}"
