"""From a recipe and arguments to one typed configuration that remembers where each value came from.

Layers, the later wins: defaults < recipe (what it extends first) < script arguments < command line arguments.
Arguments before `--` are the script's, those after it the command line's, so that a shell script that ends in
`-- "$@"` hands control to whoever calls it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from diptych.config.keys import suggestion
from diptych.config.plain_yaml import Dumper, Given, from_mapping, read_argument
from diptych.config.recipes import find_recipe, read_recipe
from diptych.config.schema import Section, Variants, entry_of, section_of, variants_of
from diptych.config.values import ValueMisfitError, fit, show, takes_mapping
from diptych.errors import ConfigError, UsageError

__all__ = ["Resolved", "dump_yaml", "find_recipe", "parse_arguments", "resolve"]

S = TypeVar("S", bound=Section)
Layer = Mapping[str, Given]

DEFAULT, SCRIPT, COMMAND_LINE = "default", "script", "command line"


@dataclass(frozen=True)
class Resolved(Generic[S]):
    """A configuration and, for each of its values, the layer that set it."""

    config: S
    sources: Mapping[str, str]
    """Dotted key -> "default", "<file>:<line>", "script" or "command line"; every value is there."""


def parse_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments at the first `--` into those of the script and those of the command line."""
    given = list(arguments)
    cut = given.index("--") if "--" in given else len(given)
    return given[:cut], given[cut + 1 :]


def resolve(
    schema: type[S], recipe: str | Path | Mapping[str, Any] | None = None, arguments: Sequence[str] = ()
) -> Resolved[S]:
    """Merge defaults, a recipe and arguments into a checked configuration.

    A layer that changes the `name` of a section with variants (`system.name`) drops what lower layers said in
    that section: it belongs to another class.

    Args:
        schema: class of the configuration.
        recipe: path or packaged name of a recipe; or values as a nested mapping, which count as the script's.
        arguments: `dotted.key=value`, value in YAML; see `parse_arguments`.

    Raises:
        ConfigError: every wrong key, type and value, one a line.
    """
    layers = _recipe_layers(recipe)
    script, command_line = parse_arguments(arguments)
    merge = _Merge(schema, layers)
    layers += [merge.arguments(script, SCRIPT), merge.arguments(command_line, COMMAND_LINE)]
    config = merge.build(schema, layers, ())
    if merge.errors or config is None:
        raise ConfigError("\n".join(merge.errors))
    return Resolved(config, MappingProxyType(merge.sources))


def dump_yaml(config: Section) -> str:
    """Return the values as a recipe, in the order of the fields; `resolve` gives back an equal one."""
    text: str = yaml.dump(
        config.model_dump(mode="json"),
        Dumper=Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
    )
    return text


def _recipe_layers(recipe: str | Path | Mapping[str, Any] | None) -> list[Layer]:
    if recipe is None:
        return []
    if isinstance(recipe, Mapping):
        return [from_mapping(recipe, SCRIPT)]
    return [*read_recipe(recipe)]


class _Merge:
    """Builds sections from the inside out, each from what the layers say about it, lowest layer first."""

    def __init__(self, schema: type[Section], layers: Sequence[Layer]) -> None:
        self.schema, self.layers = schema, layers
        self.errors: list[str] = []
        self.sources: dict[str, str] = {}

    def arguments(self, arguments: Sequence[str], source: str) -> Layer:
        """Return `dotted.key=value` arguments as a layer; of equal keys the last wins."""
        layer: dict[str, Given] = {}
        for argument in arguments:
            key, equals, text = argument.partition("=")
            names = key.strip().split(".")
            if not equals or not all(names):
                example = "expected key=value, for example optim.lr=1e-4"
                self.errors.append(f"'{argument}': {example} ({source})")
                continue
            within = layer
            for name in names[:-1]:
                if name not in within or not isinstance(within[name].value, dict):
                    within[name] = Given({}, source)
                within = within[name].value
            within[names[-1]] = read_argument(text, source)
        return layer

    def build(self, section: type[S], layers: Sequence[Layer], path: tuple[str, ...]) -> S | None:
        """Return the section at `path`, or None after noting errors."""
        failures = len(self.errors)
        self._refuse_unknown(section, layers, path)
        values: dict[str, Any] = {}
        for name, field in section.model_fields.items():
            given = [layer[name] for layer in layers if name in layer]
            base, entry = section_of(field), entry_of(field)
            if entry is not None:
                values[name] = self._entries(entry, field, given, (*path, name))
            elif base is None:
                values[name] = self._value(field, given, (*path, name))
            else:
                inner = [_default_layer(field), *self._sections(given, (*path, name))]
                marks = variants_of(field)
                if marks is None:
                    values[name] = self.build(base, inner, (*path, name))
                else:
                    values[name] = self._variant(marks, inner, (*path, name))
        if len(self.errors) > failures:
            return None
        try:
            return section.model_validate(values)
        except ValidationError as error:
            self._note_invalid(error, section, path)
            return None

    def _entries(
        self, entry: type[Section], field: FieldInfo, given: Sequence[Given], path: tuple[str, ...]
    ) -> dict[str, Section | None]:
        """Return named sub-sections; a layer takes one of a lower layer away by giving null for it."""
        layers = [_default_layer(field), *self._sections(given, path)]
        named: dict[str, list[Given]] = {}
        for layer in layers:
            for name, item in layer.items():
                if item.value is None:
                    named.pop(name, None)
                else:
                    named.setdefault(name, []).append(item)
        if not named:
            self.sources[".".join(path)] = given[-1].source if given else DEFAULT
        marks = variants_of(field)
        built: dict[str, Section | None] = {}
        for name, items in named.items():
            inner = self._sections(items, (*path, name))
            if marks is None:
                built[name] = self.build(entry, inner, (*path, name))
            else:
                built[name] = self._variant(marks, inner, (*path, name))
        return built

    def _variant(self, marks: Variants, layers: Sequence[Layer], path: tuple[str, ...]) -> Section | None:
        name, kept = _chosen(layers)
        dotted = ".".join(path)
        if name is None or not isinstance(name.value, str):
            got = "" if name is None else f", got {show(name.plain())} ({_place(name.source)})"
            self.errors.append(f"{dotted}.name: expected one of {', '.join(sorted(marks.table))}{got}")
            return None
        try:
            section = marks.section(name.value)
        except UsageError as error:
            self.errors.append(f"{dotted}.name: {error} ({_place(name.source)})")
            return None
        return self.build(section, kept, path)

    def _value(self, field: FieldInfo, given: Sequence[Given], path: tuple[str, ...]) -> Any:
        dotted = ".".join(path)
        if not given:
            self.sources[dotted] = DEFAULT
            if field.is_required():
                self.errors.append(
                    f"{dotted}: no value and no default; set it in the recipe or with {dotted}=..."
                )
            return field.get_default(call_default_factory=True, validated_data={})
        last = given[-1]
        self.sources[dotted] = last.source
        if last.source == DEFAULT:
            return last.plain()
        try:
            return fit(field, last.plain(), last.text)
        except ValueMisfitError as error:
            if isinstance(last.value, dict) and not takes_mapping(field):
                self._note_unknown(path, last)
            else:
                self.errors.append(f"{dotted}: {error} ({_place(last.source)})")
            return None

    def _sections(self, given: Sequence[Given], path: tuple[str, ...]) -> list[Layer]:
        layers: list[Layer] = []
        for item in given:
            if isinstance(item.value, dict):
                layers.append(item.value)
            elif item.value is not None:  # a heading with nothing below it is an empty section
                dotted = ".".join(path)
                wrong = f"expected a section ({dotted}.<key>), got {show(item.value)}"
                self.errors.append(f"{dotted}: {wrong} ({_place(item.source)})")
        return layers

    def _refuse_unknown(self, section: type[Section], layers: Sequence[Layer], path: tuple[str, ...]) -> None:
        for layer in layers:
            for name, given in layer.items():
                if name not in section.model_fields:
                    self._note_unknown((*path, name), given)

    def _note_unknown(self, path: tuple[str, ...], given: Given) -> None:
        names = _variant_names(self.schema, self.layers, ())
        for key, source in _leaves(path, given):
            self.errors.append(f"{key}: unknown key ({_place(source)}){suggestion(self.schema, key, names)}")

    def _note_invalid(self, error: ValidationError, section: type[Section], path: tuple[str, ...]) -> None:
        for item in error.errors():
            cause = str(item["ctx"]["error"]) if item["type"] == "value_error" else item["msg"]
            names = [*path, *(str(part) for part in item["loc"][:1])]
            # A rule over a whole section that names the field it is about gets that field's path.
            head, colon, rest = cause.partition(": ")
            if not item["loc"] and colon and head in section.model_fields:
                names, cause = [*names, head], rest
            dotted = ".".join(names)
            source = self.sources.get(dotted)
            place = f" ({_place(source)})" if source else ""
            self.errors.append(f"{dotted}: {cause}{place}" if dotted else cause)


def _default_layer(field: FieldInfo) -> Layer:
    """Return what a section's field says as a default, beyond the defaults of the section's own class."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined or default is None:
        return {}
    if isinstance(default, Section):
        return _section_layer(default)
    if any(isinstance(entry, Section) for entry in default.values()):
        return _named_layer(default)
    return from_mapping(default, DEFAULT)


def _named_layer(entries: Mapping[str, Section]) -> dict[str, Given]:
    return {name: Given(_section_layer(entry), DEFAULT) for name, entry in entries.items()}


def _section_layer(section: Section) -> dict[str, Given]:
    layer: dict[str, Given] = {}
    for name, value in section:
        if isinstance(value, Section):
            layer[name] = Given(_section_layer(value), DEFAULT)
        elif isinstance(value, dict) and any(isinstance(entry, Section) for entry in value.values()):
            layer[name] = Given(_named_layer(value), DEFAULT)
        else:
            layer |= from_mapping({name: value}, DEFAULT)
    return layer


def _chosen(layers: Sequence[Layer]) -> tuple[Given | None, list[Layer]]:
    """Return the `name` that wins, and the layers from the one that last changed it on."""
    chosen: Given | None = None
    kept: list[Layer] = []
    for layer in layers:
        name = layer.get("name")
        if name is not None:
            if chosen is not None and name.value != chosen.value:
                kept = []
            chosen = name
        kept.append(layer)
    return chosen, kept


def _variant_names(section: type[Section], layers: Sequence[Layer], path: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in section.model_fields.items():
        base = section_of(field)
        if base is None:
            continue
        inner = [_default_layer(field)]
        inner += [
            layer[name].value for layer in layers if name in layer and isinstance(layer[name].value, dict)
        ]
        marks = variants_of(field)
        if marks is not None:
            chosen, inner = _chosen(inner)
            if chosen is None or not isinstance(chosen.value, str) or chosen.value not in marks.table:
                continue
            found[".".join((*path, name))] = chosen.value
            base = marks.section(chosen.value)
        found |= _variant_names(base, inner, (*path, name))
    return found


def _leaves(path: tuple[str, ...], given: Given) -> list[tuple[str, str]]:
    """Return (dotted key, source) of every value below an unknown key."""
    if isinstance(given.value, dict) and given.value:
        return [leaf for name, inner in given.value.items() for leaf in _leaves((*path, name), inner)]
    return [(".".join(path), given.source)]


def _place(source: str) -> str:
    return source if source in (DEFAULT, SCRIPT, COMMAND_LINE) else f"recipe {source}"
