"""Pickles of other people, read without running anything: plain containers and short rows of whole numbers.

A pickle is a program for a small machine that may call any function. This is a machine of its own that knows
plain values (None, truth values, numbers, texts, bytes, lists, tuples, dictionaries) and the calls that a
pickled 1-D tensor of whole numbers consists of; Python's unpickler is not involved, no name is ever imported.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.errors import DataError

MAX_BYTES = 2**31
"""Bytes of a file, at most."""

_STORAGES = {
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
}
"""Names of torch's storages -> numpy's types."""
_CALLS = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    # Old protocols write empty bytes so.
    ("builtins", "bytes"),
    ("__builtin__", "bytes"),
    ("torch.storage", "_load_from_bytes"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor"),
}
_ALLOWED = frozenset(_CALLS | {("torch", name) for name in _STORAGES})
_UINT2, _INT4, _UINT4 = struct.Struct("<H"), struct.Struct("<i"), struct.Struct("<I")
_UINT8, _FLOAT8 = struct.Struct("<Q"), struct.Struct(">d")
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""First value of what torch wrote before it wrote zip archives; pickled storages still hold it."""


class _RefusedError(Exception):
    """What is wrong with a pickle, without its file."""


@dataclass(frozen=True)
class _Name:
    """A function or class that a pickle names: nothing but its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class _Storage:
    """The numbers behind a tensor; `key` is known before the numbers are."""

    dtype: str
    key: str
    numbers: np.ndarray | None = None


def load_plain(path: Path) -> Any:
    """Return what a pickle file holds; tensors come as int64 arrays of one dimension.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, is damaged, or holds (or calls) anything else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: has more than {MAX_BYTES} bytes, expected a pickle of a list or table")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return loads_plain(data, str(path))


def loads_plain(data: bytes, origin: str = "pickle") -> Any:
    """Return what a pickle holds; see `load_plain`. `origin` names it in errors."""
    try:
        value, end = _Machine(data, 0, _ALLOWED).run()
    except _RefusedError as error:
        raise DataError(f"{origin}: {error}") from error
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error, LookupError) as error:
        raise DataError(f"{origin}: is no pickle, or a damaged one ({error})") from error
    if data[end:].strip(b"\0\r\n"):
        raise DataError(f"{origin}: something follows the end of the pickle; nothing was run")
    return value


def _int_of_line(line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    return int(line.removesuffix(b"L"))


class _Machine:
    """Reads one pickle.

    Args:
        data: bytes with the pickle in them.
        at: where it starts.
        allowed: names it may call.
        persistent: whether it may name storages by their keys.
    """

    def __init__(
        self, data: bytes, at: int, allowed: frozenset[tuple[str, str]], *, persistent: bool = False
    ) -> None:
        self._data, self._at, self._allowed, self._persistent = data, at, allowed, persistent
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._worked = 0

    def run(self) -> tuple[Any, int]:
        """Return the value, and where the pickle ends."""
        data, steps = self._data, _STEPS
        while True:
            code = data[self._at]
            self._at += 1
            if code == _STOP:
                return self._stack.pop(), self._at
            step = steps.get(code)
            if step is None:
                raise _RefusedError(
                    f"operation {bytes([code])!r} at byte {self._at - 1} makes objects of classes, which is "
                    "refused (or the file is no pickle); nothing was run"
                )
            step(self)

    def take(self, size: int) -> bytes:
        """Return the next bytes of the program."""
        if size < 0 or self._at + size > len(self._data):
            raise _RefusedError(f"it ends early: {size} bytes were promised at byte {self._at}")
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def byte(self) -> int:
        """Return the next byte."""
        self._at += 1
        return self._data[self._at - 1]

    def number(self, form: struct.Struct) -> Any:
        """Return a number in one of `struct`'s forms."""
        at = self._at
        self._at = at + form.size
        return form.unpack_from(self._data, at)[0]

    def line(self) -> bytes:
        """Return the bytes up to the next line end."""
        end = self._data.index(b"\n", self._at)
        found = self._data[self._at : end]
        self._at = end + 1
        return found

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def mark(self) -> None:
        """Begin a new part of the stack."""
        self._marks.append(self._stack)
        self._stack = []

    def since_mark(self) -> list[Any]:
        """Return the values since the last mark, and end that part."""
        found, self._stack = self._stack, self._marks.pop()
        return found

    def pop(self, count: int = 1) -> list[Any]:
        """Return the last values of the stack."""
        if len(self._stack) < count:
            raise _RefusedError("it takes values from an empty stack")
        found = self._stack[-count:]
        del self._stack[-count:]
        return found

    def again(self) -> None:
        """Put the last value on the stack once more."""
        self._stack.append(self._stack[-1])

    def discard(self) -> None:
        """Drop the last value, or the last mark."""
        if self._stack:
            self._stack.pop()
        else:
            self.since_mark()

    def keep(self, place: int | None = None) -> None:
        """Remember the last value."""
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def recall(self, place: int) -> None:
        """Put a remembered value on the stack."""
        self._stack.append(self._memo[place])

    def extend(self, values: list[Any]) -> None:
        """Append values to the list that is last on the stack."""
        if not isinstance(self._stack[-1], list):
            raise _RefusedError("it appends to something that is no list")
        self._stack[-1].extend(values)

    def fill(self, values: list[Any]) -> None:
        """Put pairs into the dictionary that is last on the stack."""
        if not isinstance(self._stack[-1], dict) or len(values) % 2:
            raise _RefusedError("it sets items of something that is no dictionary")
        self._stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def name(self, module: Any, name: Any) -> None:
        """Put a name on the stack, if it is one of those that tensors need."""
        if (module, name) not in self._allowed:
            raise _RefusedError(
                f"it names {str(module)[:80]}.{str(name)[:80]}, which plain lists and tables do not need; "
                "nothing was run"
            )
        self._stack.append(_Name(module, name))

    def call(self) -> None:
        """Do what one of the known calls would do."""
        function, arguments = self.pop(2)
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _RefusedError("it calls something that is no function; nothing was run")
        # Who pickles bytes writes them once; the same ones worked on again and again are a bomb.
        if arguments and isinstance(arguments[0], str | bytes):
            self._worked += len(arguments[0])
        # Old protocols write bytes as texts: they are encoded, then read.
        if self._worked > 2 * len(self._data):
            raise _RefusedError("it works on the same bytes again and again")
        self._stack.append(_call(function, arguments))

    def persistent(self) -> None:
        """Put the storage that a key names on the stack."""
        (key,) = self.pop()
        if not self._persistent or not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage":
            raise _RefusedError("it refers to something outside the file; nothing was run")
        kind = key[1]
        if not isinstance(kind, _Name) or kind.name not in _STORAGES:
            raise _RefusedError(f"it holds a tensor of {kind}, expected whole numbers")
        self._stack.append(_Storage(_STORAGES[kind.name], str(key[2])))


def _call(function: _Name, arguments: tuple[Any, ...]) -> Any:
    match function.name:
        case "OrderedDict" if not arguments:
            return {}
        case "bytes" if not arguments:
            return b""
        case "encode" if len(arguments) == 2 and arguments[1] in ("latin1", "latin-1"):
            return str(arguments[0]).encode("latin-1")
        case "_load_from_bytes" if len(arguments) == 1 and isinstance(arguments[0], bytes):
            return _storage(arguments[0])
        case "_rebuild_tensor_v2" | "_rebuild_tensor" if len(arguments) >= 4:
            return _tensor(*arguments[:4])
    raise _RefusedError(f"it calls {function} in a way that no tensor does; nothing was run")


def _storage(data: bytes) -> _Storage:
    """Read a storage as torch pickles it: magic, version, machine, the storage's name, keys, numbers."""
    at, values = 0, []
    for _ in range(5):
        if not data[at:].startswith(b"\x80"):
            raise _RefusedError("it holds a tensor that is stored in an unknown form")
        names = frozenset(pair for pair in _ALLOWED if pair[0] == "torch")
        value, at = _Machine(data, at, names, persistent=True).run()
        values.append(value)
    magic, _, machine, storage, keys = values
    if magic != _TORCH_MAGIC or not isinstance(storage, _Storage) or keys != [storage.key]:
        raise _RefusedError("it holds a tensor that is stored in an unknown form")
    if isinstance(machine, Mapping) and machine.get("little_endian") is False:
        raise _RefusedError("it holds a tensor of a big-endian machine")
    (count,) = struct.unpack_from("<q", data, at)
    if not 0 <= count <= len(data) - at - 8:
        raise _RefusedError(f"it holds a tensor that promises {count} numbers")
    numbers = np.frombuffer(data, storage.dtype, count, at + 8).astype(np.int64)
    return _Storage(storage.dtype, storage.key, numbers)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> np.ndarray:
    if not isinstance(storage, _Storage) or storage.numbers is None or not isinstance(offset, int):
        raise _RefusedError("it holds a tensor without numbers")
    if not isinstance(size, tuple) or len(size) != 1 or not isinstance(size[0], int):
        raise _RefusedError(f"it holds a tensor of size {size}, expected one dimension")
    if stride != (1,) or offset < 0 or not 0 <= size[0] <= len(storage.numbers) - offset:
        raise _RefusedError("it holds a tensor that reaches beyond its numbers")
    return storage.numbers[offset : offset + size[0]]


def _long(machine: _Machine, size: int) -> None:
    machine.push(int.from_bytes(machine.take(size), "little", signed=True))


def _text(machine: _Machine, size: int) -> None:
    machine.push(machine.take(size).decode("utf-8", "surrogatepass"))


def _old_text(machine: _Machine, size: int) -> None:
    """Read a text of Python 2: bytes of any encoding, in practice UTF-8."""
    data = machine.take(size)
    try:
        machine.push(data.decode())
    except UnicodeDecodeError:
        machine.push(data.decode("latin-1"))


def _quoted(machine: _Machine) -> None:
    line = machine.line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise _RefusedError("it holds a text without quotes")
    machine.push(line[1:-1].decode("unicode_escape"))


def _global(machine: _Machine) -> None:
    machine.name(machine.line().decode(), machine.line().decode())


def _version(machine: _Machine) -> None:
    version = machine.take(1)[0]
    if version > 5:
        raise _RefusedError(f"it is of version {version} of the format, expected at most 5")


def _dictionary(machine: _Machine) -> None:
    values = machine.since_mark()
    machine.push({})
    machine.fill(values)


_STOP = ord(".")
_STEPS: dict[int, Callable[[_Machine], Any]] = {
    ord(code): step
    for code, step in {
        "\x80": _version,
        "\x95": lambda m: m.take(8),
        "(": lambda m: m.mark(),
        "0": lambda m: m.discard(),
        "1": lambda m: m.since_mark(),
        "2": lambda m: m.again(),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": lambda m: m.push(_int_of_line(m.line())),
        "L": lambda m: m.push(_int_of_line(m.line())),
        "J": lambda m: m.push(m.number(_INT4)),
        "K": lambda m: m.push(m.byte()),
        "M": lambda m: m.push(m.number(_UINT2)),
        "\x8a": lambda m: _long(m, m.byte()),
        "\x8b": lambda m: _long(m, m.number(_INT4)),
        "F": lambda m: m.push(float(m.line())),
        "G": lambda m: m.push(m.number(_FLOAT8)),
        "S": _quoted,
        "T": lambda m: _old_text(m, m.number(_INT4)),
        "U": lambda m: _old_text(m, m.byte()),
        "V": lambda m: m.push(m.line().decode("raw_unicode_escape")),
        "X": lambda m: _text(m, m.number(_UINT4)),
        "\x8c": lambda m: _text(m, m.byte()),
        "\x8d": lambda m: _text(m, m.number(_UINT8)),
        "B": lambda m: m.push(m.take(m.number(_UINT4))),
        "C": lambda m: m.push(m.take(m.byte())),
        "\x8e": lambda m: m.push(m.take(m.number(_UINT8))),
        "]": lambda m: m.push([]),
        "l": lambda m: m.push(m.since_mark()),
        "a": lambda m: m.extend(m.pop()),
        "e": lambda m: m.extend(m.since_mark()),
        ")": lambda m: m.push(()),
        "t": lambda m: m.push(tuple(m.since_mark())),
        "\x85": lambda m: m.push(tuple(m.pop(1))),
        "\x86": lambda m: m.push(tuple(m.pop(2))),
        "\x87": lambda m: m.push(tuple(m.pop(3))),
        "}": lambda m: m.push({}),
        "d": _dictionary,
        "s": lambda m: m.fill(m.pop(2)),
        "u": lambda m: m.fill(m.since_mark()),
        "g": lambda m: m.recall(int(m.line())),
        "h": lambda m: m.recall(m.byte()),
        "j": lambda m: m.recall(m.number(_UINT4)),
        "p": lambda m: m.keep(int(m.line())),
        "q": lambda m: m.keep(m.byte()),
        "r": lambda m: m.keep(m.number(_UINT4)),
        "\x94": lambda m: m.keep(),
        "c": _global,
        "\x93": lambda m: m.name(*m.pop(2)),
        "R": lambda m: m.call(),
        "Q": lambda m: m.persistent(),
    }.items()
}
"""Operation -> what it does; what is not here is refused."""
