"""The surface of a configuration: its keys as text, and the differences between two configurations."""

from collections.abc import Iterator, Mapping

from diptych.config.keys import Key, walk
from diptych.config.schema import Section
from diptych.config.values import to_yaml, type_name


def surface(schema: type[Section]) -> list[str]:
    """Return one line a setting: "train.steps: int >= 1 = 1000", "system[eve].width: int = 9"."""
    return [line(key) for key in walk(schema)]


def line(key: Key) -> str:
    """Return a setting with its type and default, or "(required)"."""
    default = default_text(key)
    return f"{key.path}: {type_name(key.field)} {default if key.is_required else f'= {default}'}"


def default_text(key: Key) -> str:
    """Return the default of a setting as one line of YAML, or "(required)"."""
    return "(required)" if key.is_required else to_yaml(key.default)


def diff(a: Section, b: Section) -> list[str]:
    """Return one line a difference: "optim.lr: 0.001 -> 0.0005"; a key that one side lacks is "(none)"."""
    left, right = dict(flatten(a)), dict(flatten(b))
    keys = list(left | right)
    order = list(dict.fromkeys(key.rpartition(".")[0] for key in keys))
    # Keys that only the right side has stand with their section.
    keys.sort(key=lambda key: order.index(key.rpartition(".")[0]))
    return [
        f"{key}: {left.get(key, '(none)')} -> {right.get(key, '(none)')}"
        for key in keys
        if left.get(key) != right.get(key)
    ]


def flatten(config: Section, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, value as one line of YAML), in the order of the fields."""
    for name, value in config:
        if isinstance(value, Section):
            yield from flatten(value, (*path, name))
        elif isinstance(value, dict) and any(isinstance(entry, Section) for entry in value.values()):
            for entry, inner in value.items():
                yield from flatten(inner, (*path, name, entry))
        else:
            yield ".".join((*path, name)), to_yaml(value)


def outline(values: Mapping[str, str], notes: Mapping[str, str]) -> list[str]:
    """Return values as the lines of an indented YAML text, with notes behind them as aligned comments.

    Args:
        values: dotted key -> value as one line of YAML, in the order of the fields.
        notes: dotted key -> comment; keys without one get none.
    """
    lines: list[tuple[str, str]] = []
    above: list[str] = []
    for key, value in values.items():
        *sections, name = key.split(".")
        shared = next((i for i, (a, b) in enumerate(zip(above, sections, strict=False)) if a != b), None)
        start = min(len(above), len(sections)) if shared is None else shared
        lines += [(f"{'  ' * depth}{sections[depth]}:", "") for depth in range(start, len(sections))]
        lines.append((f"{'  ' * len(sections)}{name}: {value}", notes.get(key, "")))
        above = sections
    width = max((len(text) for text, note in lines if note), default=0)
    return [f"{text:<{width}}  # {note}" if note else text for text, note in lines]
