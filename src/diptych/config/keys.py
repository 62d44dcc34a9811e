"""Walking a schema: every dotted key with its field and default, and the nearest key to a wrong one."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from diptych.config.schema import Section, section_of, variants_of


@dataclass(frozen=True)
class Key:
    """One setting of a schema."""

    path: str
    """Dotted, with the variant in brackets where a name chooses the class: `system[eve].width`."""
    field: FieldInfo
    default: object
    """PydanticUndefined where the setting must be given."""

    @property
    def plain(self) -> str:
        """The path as recipes and arguments write it: `system.width`."""
        return ".".join(part.partition("[")[0] for part in self.path.split("."))


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
        base = section_of(field)
        default = defaults.get(name, field.get_default(call_default_factory=True, validated_data={}))
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


def _as_mapping(default: object) -> Mapping[str, object]:
    if isinstance(default, Section):
        return dict(default)
    return default if isinstance(default, Mapping) else {}


def suggestion(schema: type[Section], key: str, names: Mapping[str, str]) -> str:
    """Return "; did you mean '...'?" for a key that does not exist, or an empty string.

    Args:
        schema: class of the configuration.
        key: the wrong dotted key.
        names: chosen variants, dotted section -> name.
    """
    known = [found.path for found in walk(schema, names)]
    head, _, last = key.rpartition(".")
    holder = next((path for path in known if key.startswith(f"{path}.")), None)
    if holder is not None:
        return f"; '{holder}' is a value without keys below it"
    elsewhere = [path for path in known if path.rpartition(".")[2] == last]
    if elsewhere:  # the right name at the wrong level
        elsewhere.sort(key=lambda path: -difflib.SequenceMatcher(None, path, key).ratio())
        return f"; did you mean {' or '.join(repr(path) for path in elsewhere[:3])}?"
    beside = {
        path[len(head) + 1 if head else 0 :].partition(".")[0] for path in known if path.startswith(head)
    }
    for choices in ([f"{head}.{name}" if head else name for name in sorted(beside)], known):
        found = difflib.get_close_matches(key, choices, n=1, cutoff=0.7)
        if found:
            return f"; did you mean '{found[0]}'?"
    others = [found.path for found in walk(schema) if found.plain == key]
    if others:
        return f"; it belongs to {' and '.join(repr(path) for path in others[:3])}"
    by_last = difflib.get_close_matches(last, {path.rpartition(".")[2] for path in known}, n=1, cutoff=0.75)
    if by_last:
        return f"; did you mean '{next(path for path in known if path.rpartition('.')[2] == by_last[0])}'?"
    return f"; `diptych config keys{f' {head}' if head else ''}` lists the known ones"
