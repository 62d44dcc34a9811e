"""Pickles read without running them: what plain ones hold, and what hostile ones do not achieve."""

import collections
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.raw.pickles import load_plain, loads_plain
from diptych.errors import DataError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@pytest.mark.slow
@given(plain, st.sampled_from(PROTOCOLS))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    assert loads_plain(pickle.dumps(value, protocol)) == value


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: b"\x80\x04" + data))
def test_anything_else_is_refused_or_plain(data: bytes) -> None:
    try:
        value = loads_plain(data)
    except DataError:
        return
    assert value is None or isinstance(value, bool | int | float | str | bytes | list | tuple | dict)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_published_tokens(protocol: int, tmp_path: Path) -> None:
    whole = torch.arange(6)
    value = {
        "data": [torch.tensor([320, 49407]), [whole[2:5], torch.tensor([7], dtype=torch.int32)]],
        "modality": "text",
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    found = load_plain(path)
    assert found["modality"] == "text"
    assert found["data"][0].tolist() == [320, 49407]
    assert [row.tolist() for row in found["data"][1]] == [[2, 3, 4], [7]]
    assert all(row.dtype == np.int64 for row in found["data"][1])


def test_ordered_dictionaries_are_dictionaries() -> None:
    for protocol in PROTOCOLS:
        assert loads_plain(pickle.dumps(collections.OrderedDict([("a", 1)]), protocol)) == {"a": 1}


def test_texts_of_python_2() -> None:
    assert loads_plain(b"(lp0\nS'caf\\xc3'\np1\naU\x02\xc3\xa9aI01\naI7\na.") == ["caf\xc3", "é", True, 7]
    assert loads_plain(b"(dp0\nS'a'\np1\nL5L\nsT\x01\x00\x00\x00\xe9F0.5\ns.") == {"a": 5, "\xe9": 0.5}


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


class Plain:
    def __init__(self) -> None:
        self.value = 3


MARK = "/nonexistent-folder/touched"
HOSTILE = {
    "system": Calls(os.system, f"touch {MARK}"),
    "eval": Calls(eval, "1"),
    "open": Calls(open, MARK, "w"),
    "in a list": [1, {"a": Calls(exec, "raise SystemExit")}],
    "object with state": Plain(),
    "counter": collections.Counter("aab"),
    "set": {1, 2},
    "array": np.arange(3),
    "float tensor": torch.tensor([0.5]),
    "matrix": torch.ones(2, 2, dtype=torch.int64),
    "single number": torch.tensor(3),
    "every second": torch.arange(6)[::2],
    "class": Path,
    "path": Path("x"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_else_is_made_or_run(name: str, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(HOSTILE[name], protocol)
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("it ran"))
    with pytest.raises(DataError, match=r"^bad\.pkl: "):
        loads_plain(data, "bad.pkl")


BYTES = {
    "old instance": b"(S'ls'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'ls'\no.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pfile\n.",
    "persistent storage": b"\x80\x04(\x8c\x07storagectorch\nLongStorage\n\x8c\x01a\x8c\x03cpuK\x01tQ.",
    "buffer": b"\x80\x05\x97.",
    "dotted name": b"\x80\x04\x8c\x05torch\x8c\x0f_utils.os.system\x93.",
    "name by value": b"\x80\x04]]\x93.",
    "call of a text": b"\x80\x04\x8c\x01a)R.",
    "call without tuple": b"\x80\x04ccollections\nOrderedDict\n]R.",
    "call with state": b"\x80\x04ccollections\nOrderedDict\n(]tR.",
    "build": b"\x80\x04}}b.",
    "newer format": b"\x80\x06N.",
    "empty": b"",
    "no end": b"\x80\x04N",
    "empty stack": b"\x80\x04.",
    "short text": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fx.",
    "negative length": b"\x80\x02T\xff\xff\xff\xffx.",
    "append to a text": b"\x80\x04\x8c\x01aNa.",
    "item of a list": b"\x80\x04]NNs.",
    "odd items": b"\x80\x04}(NNNu.",
    "unhashable key": b"\x80\x04}]Ns.",
    "unknown memo": b"\x80\x04h\x07.",
    "number of letters": b"Iabc\n.",
    "huge number": b"L" + b"9" * 10_000 + b"\n.",
    "text without quotes": b"Sabc\n.",
    "something behind": b"N.N.",
    "codec": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.",
    "zip archive": b"PK\x03\x04" + bytes(30),
}


@pytest.mark.parametrize("name", BYTES)
def test_damaged_and_hostile_bytes(name: str) -> None:
    with pytest.raises(DataError, match=r"^bad\.pkl: "):
        loads_plain(BYTES[name], "bad.pkl")


def storage(numbers: int, promised: int | None = None, kind: str = "LongStorage") -> bytes:
    """Return what torch pickles for a storage of ones."""
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    name = b"\x80\x02(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\nX\x01\x00\x00\x00k"
    name += b"X\x03\x00\x00\x00cpuK\x01NtQ.\x80\x02]X\x01\x00\x00\x00ka."
    return (
        head
        + name
        + struct.pack("<q", numbers if promised is None else promised)
        + struct.pack("<q", 1) * numbers
    )


def tensor(
    content: bytes, offset: bytes = b"K\x00", size: bytes = b"K\x02", stride: bytes = b"K\x01"
) -> bytes:
    call = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n(ctorch.storage\n_load_from_bytes\n"
    call += b"B" + struct.pack("<I", len(content)) + content + b"\x85R"
    return call + offset + size + b"\x85" + stride + b"\x85" + b"\x89}tR."


def test_tensors_stay_within_their_numbers() -> None:
    assert loads_plain(tensor(storage(2))).tolist() == [1, 1]
    for wrong in (
        tensor(storage(2), size=b"K\x03"),
        tensor(storage(2), offset=b"K\x01"),
        tensor(storage(2), offset=b"J\xff\xff\xff\xff"),
        tensor(storage(2), size=b"J\xff\xff\xff\xff"),
        tensor(storage(2), stride=b"K\x02"),
        tensor(storage(2), size=b"N"),
        tensor(storage(2, promised=2**40)),
        tensor(storage(2, promised=-1)),
        tensor(storage(2, promised=3)),
        tensor(storage(2, kind="FloatStorage")),
        tensor(b"PK\x03\x04"),
        tensor(pickle.dumps([1])),
        tensor(storage(2).replace(b"X\x01\x00\x00\x00ka.", b"X\x01\x00\x00\x00la.")),
    ):
        with pytest.raises(DataError):
            loads_plain(wrong)


def test_a_storage_cannot_hold_a_storage() -> None:
    inner = b"\x80\x04ctorch.storage\n_load_from_bytes\nC\x01x\x85R."
    with pytest.raises(DataError, match="_load_from_bytes"):
        loads_plain(tensor(inner + storage(2)))


def test_bytes_worked_on_again_and_again_are_refused() -> None:
    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000
    bomb = (
        b"\x80\x02c_codecs\nencode\nq\x00"
        + text
        + b"X\x06\x00\x00\x00latin1\x86q\x01"
        + b"h\x00h\x01R" * 50
        + b"."
    )
    with pytest.raises(DataError, match="again and again"):
        loads_plain(bomb)


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"none\.pkl cannot be read"):
        load_plain(tmp_path / "none.pkl")
    path = tmp_path / "big.pkl"
    path.write_bytes(pickle.dumps(list(range(100))))
    monkeypatch.setattr("diptych.data.raw.pickles.MAX_BYTES", 50)
    with pytest.raises(DataError, match="more than 50 bytes"):
        load_plain(path)


def test_a_torch_file_is_named_for_what_it_is() -> None:
    out = io.BytesIO()
    torch.save([torch.tensor([1])], out)
    with pytest.raises(DataError, match="no pickle"):
        loads_plain(out.getvalue(), "x.pt")
