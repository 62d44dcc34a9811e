"""What kind of medium a list is about: how fetched bytes become what is stored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diptych.data.acquire.options import PictureOptions
from diptych.data.members import Facts


@dataclass(frozen=True)
class Medium:
    """What is stored of one row."""

    members: Mapping[str, bytes | Path]
    """Extension -> content, or the file that has it."""
    facts: Facts
    """Columns of the index that the medium's header tells."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Further facts for the sample's JSON."""


Store = Callable[[bytes], Medium]
"""Makes the medium of what came; raises `MediumProblemError`."""


def picture_store(options: PictureOptions) -> Store:
    """Return what makes pictures."""
    # Pillow and ffmpeg are imported where pictures are made, not where a job is planned.
    from diptych.data.acquire.pictures import store_picture

    def store(data: bytes) -> Medium:
        made = store_picture(data, options)
        meta = {
            "width": made.width,
            "height": made.height,
            "original_width": made.original_width,
            "original_height": made.original_height,
            "exif": made.exif,
            "dhash": made.dhash,
        }
        if made.frames is not None:
            meta["original_frames"] = made.frames
        return Medium({made.extension: made.data}, Facts(made.width, made.height), meta)

    return store
