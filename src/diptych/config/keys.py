"""Walking a schema: every dotted key with its field and default, and the nearest key to a wrong one."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from diptych.config.schema import Section, Variants, entry_of, section_of, variants_of
from diptych.errors import ConfigError

ANY = "<name>"
"""Stands in a key for a name that the user chooses."""


@dataclass(frozen=True)
class Key:
    """One setting of a schema."""

    path: str
    """Dotted, with the variant in brackets where a name chooses the class: `system[eve].width`.

    `<name>` stands for names that the user chooses: `data.sources.<name>.path`.
    """
    field: FieldInfo
    default: object
    """PydanticUndefined where the setting must be given."""

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is PydanticUndefined

    @property
    def plain(self) -> str:
        """The path as recipes and arguments write it: `system.width`."""
        return _plain(self.path)

    @property
    def condition(self) -> str:
        """The setting that a variant's key needs, `system.name=eve`; empty for other keys."""
        head, bracket, rest = self.path.rpartition("[")  # the innermost
        return f"{_plain(head)}.name={rest.partition(']')[0]}" if bracket else ""


def _plain(path: str) -> str:
    return ".".join(part.partition("[")[0] for part in path.split("."))


def walk(schema: type[Section], names: Mapping[str, str] | None = None) -> Iterator[Key]:
    """Yield every setting, in the order of the fields.

    Args:
        schema: class of the configuration.
        names: dotted section -> variant, to walk only these; default: all variants, one after the other.
    """
    yield from _walk(schema, (), {}, names)


def _walk(
    section: type[Section],
    path: tuple[str, ...],
    defaults: Mapping[str, object],
    names: Mapping[str, str] | None,
) -> Iterator[Key]:
    for name, field in section.model_fields.items():
        base, entry = section_of(field), entry_of(field)
        default = defaults.get(name, field.get_default(call_default_factory=True, validated_data={}))
        if entry is not None:
            yield from _walk_entries(entry, variants_of(field), (*path, name), names)
            continue
        if base is None:
            yield Key(".".join((*path, name)), field, default)
            continue
        within = _as_mapping(default)
        marks = variants_of(field)
        if marks is None:
            yield from _walk(base, (*path, name), within, names)
            continue
        dotted = ".".join((*path, name))
        wanted = list(marks.table) if names is None else [names[dotted]] if dotted in names else []
        for variant in wanted:
            at = (*path, f"{name}[{variant}]" if names is None else name)
            fitting = within if within.get("name") == variant else {}
            yield from _walk(marks.section(variant), at, fitting, names)


def _walk_entries(
    entry: type[Section], marks: Variants | None, path: tuple[str, ...], names: Mapping[str, str] | None
) -> Iterator[Key]:
    if marks is None:
        yield from _walk(entry, (*path, ANY), {}, names)
        return
    for variant in marks.table:
        # Which class an entry has is not asked for: all of them are listed.
        at = f"{ANY}[{variant}]" if names is None else ANY
        yield from _walk(marks.section(variant), (*path, at), {}, names)


def _as_mapping(default: object) -> Mapping[str, object]:
    if isinstance(default, Section):
        return dict(default)
    return default if isinstance(default, Mapping) else {}


def description(key: Key) -> str:
    """Return what a setting means, on one line; empty if its field does not say."""
    if key.condition.startswith(f"{key.plain}="):
        return f"Chooses the class of `{key.plain.rpartition('.')[0]}`."
    return " ".join((key.field.description or "").split())


def suggestion(schema: type[Section], key: str, names: Mapping[str, str]) -> str:
    """Return "; did you mean '...'?" for a key that does not exist, or an empty string.

    Args:
        schema: class of the configuration.
        key: the wrong dotted key.
        names: chosen variants, dotted section -> name.
    """
    known = [_named_like(found.path, key) for found in walk(schema, names)]
    head, _, last = key.rpartition(".")
    holder = next((path for path in known if key.startswith(f"{path}.")), None)
    if holder is not None:
        return f"; '{holder}' is a value without keys below it"
    elsewhere = [path for path in known if path.rpartition(".")[2] == last]
    if elsewhere:  # the right name at the wrong level
        elsewhere.sort(key=lambda path: -difflib.SequenceMatcher(None, path, key).ratio())
        return f"; did you mean {' or '.join(repr(path) for path in elsewhere[:3])}?"
    others = [found for found in walk(schema) if found.plain == key]
    if others:
        return f"; it goes with {' or '.join(found.condition for found in others)}"
    start = len(head) + 1 if head else 0
    beside = sorted(
        {path[start:].partition(".")[0] for path in known if path.startswith(f"{head}.") or not head}
    )
    # Names at the same level are compared without the path they share, which would make all of them alike.
    for wrong, choices, before in ((last, beside, key[:start]), (key, known, "")):
        found = difflib.get_close_matches(wrong, choices, n=1, cutoff=0.65 if before else 0.8)
        if found:
            return f"; did you mean '{before}{found[0]}'?"
    by_last = difflib.get_close_matches(last, {path.rpartition(".")[2] for path in known}, n=1, cutoff=0.75)
    if by_last:
        return f"; did you mean '{next(path for path in known if path.rpartition('.')[2] == by_last[0])}'?"
    within = f" {head}" if head and any(path.startswith(f"{head}.") for path in known) else ""
    return f"; `diptych config keys{within}` lists the known ones"


def _named_like(path: str, key: str) -> str:
    """Return a key of named sub-sections with the names that another key has at these places."""
    parts, given = path.split("."), key.split(".")
    for i, part in enumerate(parts):
        if part == ANY and len(given) > i and parts[:i] == given[:i]:
            parts[i] = given[i]
    return ".".join(parts)


def matching(schema: type[Section], prefix: str) -> list[Key]:
    """Return the settings at or below a dotted prefix; variants match with and without their bracket.

    Raises:
        ConfigError: nothing is there; names the nearest key.
    """
    every = list(walk(schema))
    found = [key for key in every if not prefix or _below(key.path, prefix) or _below(key.plain, prefix)]
    if not found:
        sections = {key.plain[:cut] for key in every for cut, sign in enumerate(key.plain) if sign == "."}
        near = difflib.get_close_matches(prefix, sections, n=1, cutoff=0.6)
        names = {
            key.path.partition("[")[0]: key.condition.partition("=")[2] for key in every if key.condition
        }
        hint = f"; did you mean '{near[0]}'?" if near else suggestion(schema, prefix, names)
        raise ConfigError(f"{prefix}: no such key or section{hint}")
    return found


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith((f"{prefix}.", f"{prefix}["))
