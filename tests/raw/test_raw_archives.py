"""Archives read in place: nested, compressed, large, hostile, oddly named."""

import gzip
import io
import pickle
import struct
import tarfile
import threading
import unicodedata
import zipfile
from pathlib import Path

import pytest

from diptych.data.raw import archives, folder, refs
from diptych.data.raw.folder import RawFolder
from diptych.data.raw.refs import MediumError, open_ref
from diptych.errors import DataError


def tar_of(members: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


FILES = {"a/1.jpg": b"one", "a/2.jpg": b"two" * 500, "b/3.jpg": b""}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.tar", tar_of(FILES)),
        ("x.zip", zip_of(FILES)),
        ("x.zip", zip_of(FILES, zipfile.ZIP_DEFLATED)),
        ("x.zip", zip_of(FILES, zipfile.ZIP_BZIP2)),
        ("x.tar.gz", tar_of(FILES, "w:gz")),
        ("x.tgz", tar_of(FILES, "w:gz")),
        ("x.tar.bz2", tar_of(FILES, "w:bz2")),
        ("x.tar.xz", tar_of(FILES, "w:xz")),
        ("x.tar.gz", tar_of(FILES)),  # one part of Kinetics was published like this
        ("x.tar", tar_of(FILES, "w:gz")),
        ("x.zip", tar_of(FILES)),
    ],
)
def test_every_kind_reads_alike(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    raw = RawFolder(tmp_path)
    media = raw.media(f"{name}@/a", name)
    assert list(media.names()) == ["1.jpg", "2.jpg", "a/1.jpg", "a/2.jpg", "b/3.jpg"]
    for member, data in FILES.items():
        ref = pickle.loads(pickle.dumps(raw.need(f"{name}@/{member}")))
        assert ref.size == len(data)
        assert ref.read() == data
        with open_ref(ref) as stream:
            assert stream.read() == data
    assert media.get("4.jpg") is None
    assert raw.find("other.zip@/a") is None


def test_archives_inside_archives(tmp_path):
    inner = tar_of({"n01_1.JPEG": b"fish", "n01_2.JPEG": b"shark"})
    deep = zip_of({"n02_7.JPEG": b"bird"})
    (tmp_path / "train.tar").write_bytes(
        tar_of({"n01.tar": inner, "more.tar": tar_of({"n02.zip": deep}), "n00.tar": tar_of({})})
    )
    (tmp_path / "all.zip").write_bytes(zip_of({"n01.tar": inner}))
    raw = RawFolder(tmp_path)
    assert list(raw.media("train.tar").names()) == ["more.tar", "n00.tar", "n01.tar"]
    assert list(raw.media("train.tar@/n01.tar").names()) == ["n01_1.JPEG", "n01_2.JPEG"]
    assert list(raw.media("train.tar@/n00.tar", "train.tar@/n99.tar").names()) == []
    assert raw.need("train.tar@/n01.tar@/n01_2.JPEG").read() == b"shark"
    assert raw.media("train.tar@/n01.tar").get("n01_1.JPEG").read() == b"fish"
    assert raw.need("train.tar@/more.tar@/n02.zip@/n02_7.JPEG").read() == b"bird"
    assert raw.need("all.zip@/n01.tar@/n01_1.JPEG").read() == b"fish"
    assert raw.find("train.tar@/n99.tar@/x") is None


def test_an_archive_compressed_inside_another(tmp_path):
    inner = tar_of({"x": b"1" * 5000})
    (tmp_path / "all.zip").write_bytes(zip_of({"in.tar": inner}, zipfile.ZIP_DEFLATED))
    (tmp_path / "all.tar").write_bytes(tar_of({"in.tar.gz": gzip.compress(inner)}))
    raw = RawFolder(tmp_path)
    with pytest.raises(DataError, match="unpack the outer one"):
        raw.find("all.zip@/in.tar@/x")
    with pytest.raises(DataError, match="is gzip, which is not read in place here; unpack it"):
        raw.find("all.tar@/in.tar.gz@/x")


def test_a_compressed_tar_is_copied_once_and_again_when_it_changes(tmp_path):
    path = tmp_path / "part_0.tar.gz"
    path.write_bytes(tar_of({"1.mp4": b"old"}, "w:gz"))
    assert RawFolder(tmp_path).need("part_0.tar.gz@/1.mp4").read() == b"old"
    (copy,) = (tmp_path / ".diptych").glob("*.tar")
    before = copy.stat().st_mtime_ns
    assert RawFolder(tmp_path).need("part_0.tar.gz@/1.mp4").read() == b"old"
    assert copy.stat().st_mtime_ns == before
    killed = tmp_path / ".diptych" / "parts-x" / "half.tar"
    killed.parent.mkdir()
    killed.touch()
    path.write_bytes(tar_of({"1.mp4": b"newer"}, "w:gz"))
    assert RawFolder(tmp_path).need("part_0.tar.gz@/1.mp4").read() == b"newer"
    assert len(list((tmp_path / ".diptych").glob("*.tar"))) == 1
    assert not killed.parent.exists()
    # The copy is no part of the raw files.
    assert list(RawFolder(tmp_path).media("").names()) == ["part_0.tar.gz"]


def test_a_copy_where_the_raw_folder_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "x.tgz").write_bytes(tar_of(FILES, "w:gz"))
    (raw / ".diptych").write_bytes(b"")  # a file in its place: also root cannot write there
    assert RawFolder(raw).need("x.tgz@/a/1.jpg").read() == b"one"


def test_a_tar_that_somebody_uncompressed(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_of(FILES))
    assert RawFolder(tmp_path).need("x.tar.gz@/a/1.jpg").read() == b"one"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tar.gz", tar_of(FILES, "w:gz")[:-20], "damaged.*get the file again"),
        ("x.tar.bz2", b"BZh9" + b"garbage" * 100, "damaged.*get the file again"),
        ("x.tar.gz", gzip.compress(b"no tar at all" * 100, mtime=0), "is gzip, but no tar"),
        ("x.tar", tar_of(FILES)[:700], "unreadable archive.*get the file again"),
        ("x.tar", b"", "is empty"),
        ("x.zip", b"<!DOCTYPE html><title>Log in</title>", "is a web page, not an archive"),
        ("x.zip", zip_of(FILES)[:-30], "not a zip file"),
        ("x.tar", b"text " * 500, "is no archive; it starts with b'text"),
        ("x.tar", b"7z\xbc\xaf" + bytes(600), "is 7z, which is not read"),
    ],
)
def test_damaged_archives_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        RawFolder(tmp_path).find(f"{name}@/a/1.jpg")
    assert name in str(caught.value)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    content = bytearray(tar_of(FILES))
    content[1024 + 10] ^= 0xFF  # the name in the second header
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match="the header at byte 1024 is damaged"):
        RawFolder(tmp_path).find("x.tar@/a/1.jpg")


def test_decompression_bombs(tmp_path, monkeypatch):
    (tmp_path / "x.zip").write_bytes(zip_of({"z": bytes(10**7)}, zipfile.ZIP_DEFLATED))
    ref = RawFolder(tmp_path).need("x.zip@/z")
    with pytest.raises(MediumError, match=r"decompression bomb: .* bytes say they become 10000000"):
        ref.read()
    with pytest.raises(MediumError, match="decompression bomb"):
        open_ref(ref)
    monkeypatch.setattr(archives, "_LEAST", 1000)
    (tmp_path / "x.tar.gz").write_bytes(tar_of({"z": bytes(10**7)}, "w:gz"))
    with pytest.raises(DataError, match="decompression bomb"):
        RawFolder(tmp_path).find("x.tar.gz@/z")


def test_a_member_that_lies_about_its_size(tmp_path):
    content = zip_of({"z": b"abcd" * 1000}, zipfile.ZIP_DEFLATED)
    size = struct.pack("<I", 4000)
    assert content.count(size) == 2  # in its header and in the directory
    for claimed in (10, 5000):
        (tmp_path / "x.zip").write_bytes(content.replace(size, struct.pack("<I", claimed)))
        ref = RawFolder(tmp_path).need("x.zip@/z")
        with pytest.raises(MediumError, match=f"unreadable file: .*{claimed} other bytes were promised"):
            ref.read()
        with open_ref(ref) as stream, pytest.raises(OSError, match=f"{claimed}.*promised"):
            stream.read()


def test_a_damaged_member_does_not_hurt_its_neighbours(tmp_path):
    content = bytearray(zip_of({"good": b"A" * 100, "bad": b"B" * 100}))
    content[content.index(b"BBBB")] ^= 1
    (tmp_path / "x.zip").write_bytes(content)
    raw = RawFolder(tmp_path)
    assert raw.need("x.zip@/good").read() == b"A" * 100
    with pytest.raises(MediumError, match=r"unreadable file: .*x\.zip@/bad: damaged"):
        raw.need("x.zip@/bad").read()


def test_files_too_large(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"12345678901")
    (tmp_path / "x.tar").write_bytes(tar_of({"f": b"12345678901"}))
    (tmp_path / "x.zip").write_bytes(zip_of({"f": b"12345678901"}))
    monkeypatch.setattr(refs, "MAX_BYTES", 10)
    for place in ("f", "x.tar@/f", "x.zip@/f"):
        with pytest.raises(MediumError, match="file too large"):
            RawFolder(tmp_path).need(place).read()


def test_zip64(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, archive.open("big", "w", force_zip64=True) as stream:
        stream.write(b"content")
    (tmp_path / "x.zip").write_bytes(file.getvalue())
    assert RawFolder(tmp_path).need("x.zip@/big").read() == b"content"


def test_encrypted_members(tmp_path):
    content = bytearray(zip_of({"secret": b"x" * 50, "open": b"y"}))
    content[content.index(b"PK\3\4") + 6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    raw = RawFolder(tmp_path)
    assert raw.need("x.zip@/open").read() == b"y"
    with pytest.raises(MediumError, match=r"unreadable file: .*x\.zip@/secret: encrypted"):
        raw.need("x.zip@/secret").read()


def test_unknown_compression(tmp_path):
    (tmp_path / "x.zip").write_bytes(zip_of({"f": b"abc" * 99}, zipfile.ZIP_LZMA))
    with pytest.raises(MediumError, match="compression method 14 is not read; pack it again"):
        RawFolder(tmp_path).need("x.zip@/f").read()


def hostile_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("/etc/passwd", "../up", "a/../../up", "./fine//x.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"!"))
        for name, kind, target in [
            ("soft", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard", tarfile.LNKTYPE, "./fine/x.jpg"),
            ("out", tarfile.LNKTYPE, "/etc/passwd"),
            ("device", tarfile.CHRTYPE, ""),
            ("pipe", tarfile.FIFOTYPE, ""),
            ("folder", tarfile.DIRTYPE, ""),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return file.getvalue()


def test_members_that_lead_outside_are_no_files(tmp_path):
    (tmp_path / "x.tar").write_bytes(hostile_tar())
    (tmp_path / "x.zip").write_bytes(zip_of({"/abs": b"1", "../up": b"2", "./ok": b"3", "d/": b""}))
    raw = RawFolder(tmp_path)
    assert list(raw.media("x.tar").names()) == ["fine/x.jpg", "hard"]
    assert raw.need("x.tar@/hard").read() == b"!"
    assert list(raw.media("x.zip").names()) == ["ok"]
    assert raw.need("x.zip@/./ok").read() == b"3"
    outside = tmp_path.parent / "outside.zip"
    outside.write_bytes(zip_of({"f": b"1"}))
    for place in ("../outside.zip@/f", f"{outside}@/f", str(outside), "../outside.zip", "a\0b"):
        assert raw.find(place) is None


def test_names_in_other_forms(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Café.jpg") for form in ("NFC", "NFD"))
    (tmp_path / "x.tar").write_bytes(tar_of({decomposed: b"tar"}))
    (tmp_path / "x.zip").write_bytes(zip_of({composed: b"zip"}))
    (tmp_path / decomposed).write_bytes(b"file")
    raw = RawFolder(tmp_path)
    for name in (composed, decomposed, composed.replace("jpg", "JPG")):
        assert raw.need(f"x.tar@/{name}").read() == b"tar"
        assert raw.need(f"x.zip@/{name}").read() == b"zip"
        assert raw.need(name).read() == b"file"
    assert raw.find("cafe.jpg") is None
    assert raw.find("café.jpg") is None  # case matters but in the ending
    assert raw.find("x" * 5000) is None
    assert raw.find("lone\ud800.jpg") is None


def test_names_that_are_not_utf8(tmp_path):
    tar = tar_of({"Caf_.jpg": b"old"}).replace(b"Caf_.jpg", "Café.jpg".encode("latin-1"))
    head = bytearray(tar[:512])
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    (tmp_path / "x.tar").write_bytes(bytes(head) + tar[512:])
    # UTF-8 without the mark that says so, as many tools write it.
    content = bytearray(zip_of({"Caf__.jpg": b"unmarked"}).replace(b"Caf__.jpg", "Café.jpg".encode()))
    (tmp_path / "x.zip").write_bytes(content)
    for place in ("x.tar", "x.zip"):
        assert RawFolder(tmp_path).find(f"{place}@/Café.jpg") is not None


def test_backslashes_of_windows(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename, info.create_system = "images\\1.jpg", 0
        archive.writestr(info, b"1")
    (tmp_path / "x.zip").write_bytes(file.getvalue())
    assert RawFolder(tmp_path).need("x.zip@/images/1.jpg").read() == b"1"


def test_what_systems_leave_behind(tmp_path):
    names = ["1.jpg", "__MACOSX/._1.jpg", "._1.jpg", "a/.DS_Store", "a/Thumbs.db", "a/2.jpg"]
    (tmp_path / "x.zip").write_bytes(zip_of(dict.fromkeys(names, b"")))
    assert list(RawFolder(tmp_path).media("x.zip").names()) == ["1.jpg", "a/2.jpg"]


def test_linked_folders_are_entered_once(tmp_path):
    disk, raw = tmp_path / "disk", tmp_path / "raw"
    disk.mkdir()
    raw.mkdir()
    (disk / "1.jpg").write_bytes(b"1")
    (disk / "loop").symlink_to(disk)
    (raw / "images").symlink_to(disk)
    (raw / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert list(RawFolder(raw).media("").names()) == ["images/1.jpg"]
    assert RawFolder(raw).need("images/1.jpg").read() == b"1"


def test_files_in_their_order(tmp_path):
    for number in (10, 2, 1):
        (tmp_path / f"part_{number}.tar.gz").touch()
    (tmp_path / "other").touch()
    assert RawFolder(tmp_path).glob("part_*") == ["part_1.tar.gz", "part_2.tar.gz", "part_10.tar.gz"]


def test_listings_are_forgotten_and_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_MOST_NAMES", 4)
    listed: list[Path] = []
    original = folder.list_archive

    def counting(extent):
        listed.append(extent.path.name)
        return original(extent)

    monkeypatch.setattr(folder, "list_archive", counting)
    for name in ("x", "y"):
        (tmp_path / f"{name}.tar").write_bytes(tar_of(FILES))
    raw = RawFolder(tmp_path)
    for name in ("x", "x", "y", "y", "x"):
        assert raw.need(f"{name}.tar@/a/1.jpg").read() == b"one"
    assert listed == ["x.tar", "y.tar", "x.tar"]


def test_threads_and_forks_do_not_disturb_each_other(tmp_path):
    files = {f"{number}": bytes([number]) * 3000 for number in range(50)}
    (tmp_path / "x.zip").write_bytes(zip_of(files, zipfile.ZIP_DEFLATED))
    raw = RawFolder(tmp_path)
    wrong: list[str] = []

    def read_all():
        wrong.extend(name for name, data in files.items() if raw.need(f"x.zip@/{name}").read() != data)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # Nothing stays open: what is forked shares no position in a file.
    opened = [fd.readlink().name for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert "x.zip" not in opened


def test_files_that_go_away(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of(FILES))
    ref = RawFolder(tmp_path).need("x.tar@/a/2.jpg")
    path.write_bytes(path.read_bytes()[:1100])
    with pytest.raises(MediumError, match=r"truncated archive: .*1500 bytes were promised"):
        ref.read()
    path.unlink()
    with pytest.raises(MediumError, match="missing file") as caught:
        ref.read()
    assert pickle.loads(pickle.dumps(caught.value)).cause == "missing file"
