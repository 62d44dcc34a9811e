"""The YAML that recipes are written in: values only, with the line of each.

Scalars follow YAML 1.2's core schema instead of PyYAML's 1.1: `3e-5` is a number, only `true` and `false` are
booleans, dates and `1:30` are text. Anchors, aliases, tags and duplicate keys are refused.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from diptych.errors import ConfigError

SCALAR_PATTERNS: tuple[tuple[str, str, str], ...] = (
    ("null", r"^(?:null|Null|NULL|~|)$", "nN~"),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9][0-9_]*$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
)


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalar rules of this module."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own table, replaced as a whole

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases: a recipe says each value where it stands."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported", mark)
        return super().compose_node(parent, index)


class Dumper(yaml.SafeDumper):
    """Quotes exactly what `Loader` would not read as text."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: object) -> bool:
        """Write equal values out each time."""
        return True


for _tag, _pattern, _first in SCALAR_PATTERNS:
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), [*_first, ""])


def _construct_int(loader: Loader, node: yaml.ScalarNode) -> int:
    return int(node.value.replace("_", ""))  # PyYAML would read 010 as octal


def _represent_float(dumper: Dumper, value: float) -> yaml.ScalarNode:
    text = (
        repr(value) if math.isfinite(value) else {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}[repr(value)]
    )
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)  # PyYAML would write 3e-05 as 3.0e-05


def _represent_text(dumper: Dumper, value: str) -> yaml.ScalarNode:
    # Only double quotes escape: PyYAML's other styles lose some line breaks (U+0085).
    style = None if value.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _represent_list(dumper: Dumper, value: list[Any]) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
Dumper.add_representer(float, _represent_float)
Dumper.add_representer(str, _represent_text)
Dumper.add_representer(list, _represent_list)


@dataclass(frozen=True)
class Given:
    """A value with the place it comes from. A mapping's value is a dict of name -> Given."""

    value: Any
    source: str
    text: str | None = None
    """The characters as typed, where it comes from an argument."""

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {name: given.plain() for name, given in self.value.items()}
        return self.value


def read(text: str, label: str) -> dict[str, Given]:
    """Parse the text of a recipe; the source of each value is "<label>:<line>".

    Raises:
        ConfigError: no valid YAML, no mapping at the top, a duplicate key, an alias; with the line.
    """
    given = _parse(text, label, lambda line: f"{label}:{line}")
    if given is None or given.value is None:
        return {}
    if not isinstance(given.value, dict):
        raise ConfigError(f"{label}: expected 'key: value' lines, got {given.value!r}")
    return given.value


def read_argument(text: str, source: str) -> Given:
    """Parse the right-hand side of `key=value`; what is no valid YAML is text."""
    try:
        given = _parse(text, source, lambda line: source)
    except ConfigError:
        given = Given(text, source)
    value = given.value if given is not None else None
    return Given(value, source, text)


def from_mapping(values: Mapping[str, Any], source: str) -> dict[str, Given]:
    """Give every value of a nested mapping the same source."""
    return {
        str(name): Given(from_mapping(value, source) if isinstance(value, Mapping) else value, source)
        for name, value in values.items()
    }


def _parse(text: str, label: str, place: Callable[[int], str]) -> Given | None:
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        return None if node is None else _convert(loader, node, label, place)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{label}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{label}: not valid YAML: {' '.join(str(error).split())}") from None


def _convert(loader: Loader, node: yaml.Node, label: str, place: Callable[[int], str]) -> Given:
    source = place(node.start_mark.line + 1)
    if not isinstance(node, yaml.MappingNode):
        return Given(loader.construct_object(node, deep=True), source)
    entries: dict[str, Given] = {}
    for name, key, value in _entries(node):
        if name in entries:
            line = key.start_mark.line + 1
            first = entries[name].source
            raise ConfigError(
                f"{label}:{line}: '{name}' is given twice (first at {first}); remove one of them"
            )
        found = _convert(loader, value, label, place)
        # A value's line is its key's line, also where the value is a block that begins on the next one.
        entries[name] = Given(found.value, place(key.start_mark.line + 1))
    return Given(entries, source)


def _entries(node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a plain word", key.start_mark)
        yield key.value, key, value
