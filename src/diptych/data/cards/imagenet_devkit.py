"""The classes of ImageNet's development kit: as much of the MATLAB format (level 5) as `meta.mat` needs."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from diptych.data.raw.refs import MediumError, Ref
from diptych.errors import DataError

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR = 2, 4
_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
    16: "u1",
    17: "u2",
}
_MOST = 1 << 26
"""Bytes that the classes may become, unpacked."""


def wnids_of_devkit(ref: Ref) -> dict[int, str]:
    """Return the number of each class in the development kit (from 1) -> WordNet id.

    Raises:
        DataError: the file cannot be read, or is no such file.
    """
    try:
        content = ref.read()
        for kind, data in _elements(content[_HEADER:]):
            if kind == _MATRIX:
                name, value = _matrix(data)
                if name == "synsets":
                    return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in value}
    except MediumError as error:
        raise DataError(str(error)) from error
    except (KeyError, ValueError, IndexError, TypeError, struct.error, zlib.error, RecursionError) as error:
        raise DataError(f"{ref}: no file of classes in MATLAB's format ({error}); get it again") from error
    raise DataError(f"{ref}: holds no table 'synsets'; expected meta.mat of the development kit")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of the elements that `data` consists of."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:  # a small element: size and type share four bytes, the content is in the next four
            yield kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]
            at += 8
            continue
        content = data[at + 8 : at + 8 + size]
        if len(content) != size:
            raise ValueError("it is cut off")
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            content = unpacker.decompress(content, _MOST)
            if unpacker.unconsumed_tail:
                raise ValueError("too large")
            yield from _elements(content)
            at += 8 + size
        else:
            yield kind, content
            at += 8 + size + -size % 8


def _matrix(data: bytes) -> tuple[str, Any]:
    """Return name and value of an array: a list of dictionaries, a text, or its first number."""
    parts = _elements(data)
    kind = struct.unpack_from("<I", next(parts, (0, b""))[1])[0] & 0xFF
    dimensions = np.frombuffer(next(parts, (0, b""))[1], "<i4")
    name = next(parts, (0, b""))[1].decode("latin-1")
    if kind == _STRUCT:
        length = struct.unpack("<i", next(parts, (0, b""))[1])[0]
        packed = next(parts, (0, b""))[1]
        fields = [packed[i : i + length].split(b"\0")[0].decode() for i in range(0, len(packed), length)]
        count = int(np.prod(dimensions))
        return name, [{field: _matrix(next(parts)[1])[1] for field in fields} for _ in range(count)]
    code, content = next(parts, (5, b""))
    numbers = np.frombuffer(content, f"<{_TYPES[code]}")
    if kind == _CHAR:
        return name, "".join(map(chr, numbers.tolist()))
    return name, numbers[0].item() if len(numbers) else None
