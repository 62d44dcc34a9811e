"""Headers of tars against `tarfile`."""

import io
import subprocess
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.raw.tars import Member, members

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=90)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def oracle(content: bytes) -> list[tuple[bytes, int, int, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content), encoding="utf-8", errors="surrogateescape") as tar:
        return [
            (
                info.name.encode("utf-8", "surrogateescape"),
                0 if info.islnk() else info.offset_data,
                0 if info.islnk() else info.size,
                info.linkname.encode("utf-8", "surrogateescape") if info.islnk() else b"",
            )
            for info in tar
            if info.isreg() or info.islnk()
        ]


def ours(content: bytes) -> list[tuple[bytes, int, int, bytes]]:
    found = list(members(io.BytesIO(content)))
    return [(m.name, 0 if m.link else m.offset, m.size, m.link) for m in found]


@settings(max_examples=100, deadline=None)
@given(
    format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    entries=st.lists(
        st.tuples(PATHS, st.integers(0, 1500), st.sampled_from("fffhds")), min_size=0, max_size=6
    ),
)
def test_the_same_members_as_tarfile(format, entries):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for number, (name, size, kind) in enumerate(entries):
            info = tarfile.TarInfo(name)
            types = {"f": tarfile.REGTYPE, "h": tarfile.LNKTYPE, "d": tarfile.DIRTYPE, "s": tarfile.SYMTYPE}
            info.type, info.mtime = types[kind], number + 0.5
            info.size = size if kind == "f" else 0
            info.linkname = entries[0][0] if kind in "hs" else ""
            with suppress(ValueError):  # too long for ustar
                tar.addfile(info, io.BytesIO(bytes([number + 1]) * info.size))
    assert ours(file.getvalue()) == oracle(file.getvalue())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_or_changes_content_only(data):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a" * 150, "é", "c"):
            info = tarfile.TarInfo(name)
            info.size = 10
            tar.addfile(info, io.BytesIO(b"x" * 10))
    content = bytearray(file.getvalue())
    whole = ours(bytes(content))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with suppress(tarfile.ReadError):
        assert len(ours(bytes(content))) <= len(whole)
    cut = data.draw(st.integers(1, 5 * 512 - 1))
    with pytest.raises(tarfile.ReadError):
        ours(file.getvalue()[: cut if cut % 512 else cut + 1])


def test_what_gnu_tar_writes(tmp_path):
    (tmp_path / ("long" * 50)).write_bytes(b"1")
    (tmp_path / "sparse").touch()
    with (tmp_path / "sparse").open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / "b").hardlink_to(tmp_path / ("long" * 50))
    for form, options, names in [
        ("gnu", ["-S"], ["sparse", "long" * 50, "b"]),
        ("posix", ["-S"], ["sparse", "long" * 50, "b"]),
        ("ustar", [], ["sparse", "b"]),
        ("v7", [], ["sparse", "b"]),
    ]:
        command = ["tar", f"--format={form}", *options, "-cf", "x.tar", *names]
        subprocess.run(command, cwd=tmp_path, check=True)
        content = (tmp_path / "x.tar").read_bytes()
        found = list(members(io.BytesIO(content)))
        assert [m.name.decode() for m in found] == names
        assert [m.sparse for m in found] == [bool(options), *[False] * (len(names) - 1)]
        if len(found) == 3:
            assert found[2].link == b"long" * 50
        assert content[found[1].offset :][: found[1].size] == b"1"


def test_large_sizes_and_what_follows_the_end():
    head = bytearray(tarfile.TarInfo("big").tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\x80" + (1 << 40).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    found = members(io.BytesIO(bytes(head)))
    assert next(found) == Member(b"big", 512, 1 << 40)
    with pytest.raises(tarfile.ReadError, match="unexpected end of data"):
        next(found)
    with pytest.raises(tarfile.ReadError, match="something follows the end"):
        list(members(io.BytesIO(bytes(512) + bytes(head))))
    assert list(members(io.BytesIO(b""))) == []
