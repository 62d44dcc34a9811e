"""Headers of tar members equal those of `tarfile`, byte for byte."""

import sys
import tarfile

import pytest

from diptych.data.shards import _header

LARGEST = 8**11 - 1


@pytest.mark.skipif(sys.version_info < (3, 11, 4), reason="older versions fill two fields that mean nothing")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("a.jpg", 0),
        ("000000001-0a1b2c3d.json", 12345),
        ("folder/a.0.png", 512),
        ("x" * 96 + ".jpg", LARGEST),
        ("x" * 97 + ".jpg", 5),
        ("a.jpg", LARGEST + 1),
        ("é.jpg", 4),
    ],
)
def test_a_header_is_that_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    assert _header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
