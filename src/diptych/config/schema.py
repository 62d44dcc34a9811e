"""The base class of every configuration section, and sections whose class is chosen by a name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from diptych.resolve import look_up


class Section(BaseModel):
    """A frozen group of typed settings that lives beside the class that reads it.

    Unknown keys are refused. Give every field a `Field(default, description="...")`: it documents
    the dotted key. A field whose type is a Section is a sub-section, one of type `dict[str, SomeSection]`
    holds any number of sub-sections under names that the user chooses, anything else is a value.
    Cross-field rules are pydantic `model_validator`s that raise `ValueError` and name both keys.

    A section whose fields depend on a name (`system`, `task`) has a base class that declares `name: str`,
    subclasses that declare `name: Literal["..."] = "..."`, and a field annotated with `Variants`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True
    )

    def with_(self, **changes: object) -> Self:
        """Return a validated copy with some fields changed."""
        return type(self).model_validate(
            {**{name: getattr(self, name) for name in type(self).model_fields}, **changes}
        )


@dataclass(frozen=True, eq=False)
class Variants:
    """Marks a field whose class is looked up by its `name`, imported on first use.

    ```python
    class RunConfig(Section):
        system: Annotated[SystemConfig, Variants("system", SYSTEMS)] = Field(description="...")
    ```

    `table` maps a name to "module:object"; the object is a Section subclass or has one as `config_class` (a
    System, a Task). The default, if any, is a mapping with at least `name`. Validation accepts a mapping with
    `name` or an instance of a variant; dumps hold all fields of the chosen class.
    """

    kind: str
    """What the table lists, for error messages ("system")."""
    table: Mapping[str, str]

    def section(self, name: str) -> type[Section]:
        """Return the class of one variant.

        Raises:
            UsageError: unknown name; the message lists the known ones.
        """
        found = look_up(self.table, name, self.kind)
        section: type[Section] = (
            found if isinstance(found, type) and issubclass(found, Section) else found.config_class
        )
        return section

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by the class that `name` chooses instead of by the declared base class."""
        base = source

        def validate(value: object) -> Section:
            if isinstance(value, base):
                return value  # type: ignore[no-any-return]
            name = value.get("name") if isinstance(value, Mapping) else None
            if not isinstance(name, str) or name not in self.table:
                raise ValueError(
                    f"expected a section with a name out of {', '.join(sorted(self.table))}; got {value!r}"
                )
            return self.section(name).model_validate(value)

        return core_schema.no_info_plain_validator_function(validate)


def section_of(field: FieldInfo) -> type[Section] | None:
    """Return the class of a sub-section (the base class where `Variants` chooses it), or None for a value."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def entry_of(field: FieldInfo) -> type[Section] | None:
    """Return the class of the entries of named sub-sections (`dict[str, SomeSection]`), or None."""
    if get_origin(field.annotation) is not dict:
        return None
    entry = get_args(field.annotation)[1]
    if get_origin(entry) is Annotated:
        entry = get_args(entry)[0]
    return entry if isinstance(entry, type) and issubclass(entry, Section) else None


def variants_of(field: FieldInfo) -> Variants | None:
    """Return the `Variants` mark of a field, or of the entries of named sub-sections, if there is one."""
    marks = list(field.metadata)
    if get_origin(field.annotation) is dict:
        marks += getattr(get_args(field.annotation)[1], "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, Variants)), None)
