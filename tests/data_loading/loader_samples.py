"""Small plain tars that the tests of the loader share."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 23
TEXTS = [f"{colour} {shape}" for colour in ("red", "green", "blue") for shape in ("cat", "dog", "cow")]


def png(number: int) -> bytes:
    """A picture of 8 x 6 whose colour tells its number; its right half is transparent."""
    pixels = np.zeros((6, 8, 4), dtype=np.uint8)
    pixels[:] = (number * 10, 255 - number * 10, 100, 255)
    pixels[:, 4:, 3] = 0
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def sidecar(number: int) -> dict[str, Any]:
    return {
        "captions": [TEXTS[number % 9], f"Number {number}"],
        "match_id": f"m{number // 3}" if number < 21 else "",
        "meta": {"parity": number % 2} if number < 20 else {},
    }


def write_tar(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def plain_samples() -> list[tuple[str, dict[str, bytes]]]:
    return [(f"s{i:02d}", {"png": png(i), "json": json.dumps(sidecar(i)).encode()}) for i in range(SIZE)]
