"""The surface of a configuration: its keys as text, and the differences between two configurations."""

from collections.abc import Iterator

from pydantic_core import PydanticUndefined

from diptych.config.keys import Key, walk
from diptych.config.schema import Section
from diptych.config.values import to_yaml, type_name


def surface(schema: type[Section]) -> list[str]:
    """Return one line a setting: "train.steps: int >= 1 = 1000", with variants "system[eve].width: int = 9"."""
    return [line(key) for key in walk(schema)]


def line(key: Key) -> str:
    """Return a setting with its type and default, or "(required)"."""
    if key.default is PydanticUndefined:
        return f"{key.path}: {type_name(key.field)} (required)"
    return f"{key.path}: {type_name(key.field)} = {to_yaml(key.default)}"


def diff(a: Section, b: Section) -> list[str]:
    """Return one line a difference: "optim.lr: 0.001 -> 0.0005"; a key that one side lacks is "(none)"."""
    left, right = dict(flatten(a)), dict(flatten(b))
    return [
        f"{key}: {left.get(key, '(none)')} -> {right.get(key, '(none)')}"
        for key in [*left, *(key for key in right if key not in left)]
        if left.get(key) != right.get(key)
    ]


def flatten(config: Section, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value as one line of YAML), in the order of the fields."""
    for name, value in config:
        if isinstance(value, Section):
            yield from flatten(value, (*path, name))
        else:
            yield ".".join((*path, name)), to_yaml(value)
