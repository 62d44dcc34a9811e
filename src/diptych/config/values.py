"""Single values: what a field expects, how it reads, and whether a given value fits."""

import json
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as limits
import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from diptych.config.plain_yaml import Dumper

SCALARS: dict[Any, tuple[str, str]] = {
    int: ("int", "an integer"),
    float: ("float", "a number"),
    str: ("str", "text"),
    bool: ("bool", "true or false"),
    type(None): ("null", "null"),
    Any: ("any", "anything"),
}
"""Type -> (short name for lists of keys, name in sentences)."""

BOUNDS = {
    limits.Ge: (">=", "ge"),
    limits.Gt: (">", "gt"),
    limits.Le: ("<=", "le"),
    limits.Lt: ("<", "lt"),
    limits.MinLen: ("length >=", "min_length"),
    limits.MaxLen: ("length <=", "max_length"),
    limits.MultipleOf: ("multiple of", "multiple_of"),
}


class ValueMisfitError(ValueError):
    """A value that does not fit its field; the message says what was expected."""


def type_name(field: FieldInfo) -> str:
    """Return the type of a field as lists of keys show it: "int >= 1", "'adamw'", "str | null"."""
    return _name(field.annotation, 0) + _bounds(field.metadata)


def expectation(field: FieldInfo) -> str:
    """Return what a field takes, for an error message: "an integer >= 1", "one of 'fp32', 'bf16'"."""
    return _name(field.annotation, 1) + _bounds(field.metadata)


def fit(field: FieldInfo, value: object, text: str | None = None) -> Any:
    """Return the value as the field's type.

    Args:
        field: a field that is no section.
        value: what the YAML holds (scalars, lists, mappings).
        text: the characters as typed, if the value comes from an argument: text fields get these, so
            that `name=007` and `where=a = '#1'` need no quotes.

    Raises:
        ValueMisfitError: the value has the wrong type or breaks a bound.
    """
    options = _options(field.annotation)
    if (
        text is not None
        and _is_text(options)
        and not (value is None and text.strip() and type(None) in options)
    ):
        value = text
    # The None stands for "no limits": a type without any mark cannot be annotated.
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, None, *field.metadata])  # type: ignore[arg-type]
    try:
        # JSON's strict rules are YAML's types: lists become tuples, whole numbers pass as floats, and neither
        # '5' nor true passes as a number.
        return adapter.validate_json(json.dumps(to_jsonable_python(value)), strict=True)
    except ValidationError as error:
        causes = [e for e in error.errors() if e["type"] == "value_error"]
        if causes:
            raise ValueMisfitError(f"{causes[0]['ctx']['error']}, got {show(value)}") from None
        quotes = "; write it in quotes" if text is None and _is_text(options) and _is_scalar(value) else ""
        raise ValueMisfitError(f"expected {expectation(field)}, got {show(value)}{quotes}") from None


def show(value: object) -> str:
    """Return a value on one line as YAML writes it, text in single quotes."""
    if isinstance(value, str):
        return f"'{value}'"
    return to_yaml(value)


def to_yaml(value: object) -> str:
    """Return a value on one line such that reading it as YAML gives it back."""
    plain = to_jsonable_python(value, inf_nan_mode="constants")
    text: str = yaml.dump(plain, Dumper=Dumper, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def takes_mapping(field: FieldInfo) -> bool:
    """Return whether the value of a field may be a mapping, so that keys below it are part of the value."""
    return any(_is_mapping(option) for option in _options(field.annotation))


def _is_mapping(annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_text(options: list[Any]) -> bool:
    return all(option is str or option is type(None) or isinstance(option, str) for option in options)


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float)


def _options(annotation: Any) -> list[Any]:
    """Flatten unions, annotations and literals: `str | Literal["a"] | None` -> [str, "a", NoneType]."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _options(get_args(annotation)[0])
    if origin is Literal:
        return list(get_args(annotation))
    if origin in (Union, types.UnionType):
        return [option for part in get_args(annotation) for option in _options(part)]
    return [annotation]


def _name(annotation: Any, style: int) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in SCALARS:
        return SCALARS[annotation][style]
    if origin is Annotated:
        return _name(parts[0], style) + _bounds(parts[1:])
    if origin is Literal:
        values = [show(part) for part in parts]
        if style == 0 or len(values) == 1:
            return " | ".join(values)
        return f"one of {', '.join(values)}"
    if origin in (Union, types.UnionType):
        return (" | ", " or ")[style].join(_name(part, style) for part in parts)
    if origin in (tuple, list, set, frozenset):
        if Ellipsis in parts or origin is not tuple:
            return f"{('', 'a ')[style]}list of {_name(parts[0], 0)}"
        return f"[{', '.join(_name(part, 0) for part in parts)}]"
    if _is_mapping(annotation):
        return f"{('', 'a ')[style]}mapping of {_name(parts[0], 0)} to {_name(parts[1], 0)}"
    return getattr(annotation, "__name__", str(annotation)).lower()


def _bounds(metadata: Any) -> str:
    """Return limits as " >= 0, < 1"."""
    signs = [
        f"{sign} {getattr(mark, attribute)}"
        for mark in metadata
        for kind, (sign, attribute) in BOUNDS.items()
        if isinstance(mark, kind)
    ]
    return f" {', '.join(signs)}" if signs else ""
