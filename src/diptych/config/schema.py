"""The base class of every configuration section."""

from typing import Self

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of typed settings that lives beside the class that reads it.

    Unknown keys are refused. Give every field a `Field(default, description="...")`: the description is the
    documentation of its dotted key. A section whose fields depend on a name (`system`, `task`) declares
    `name: Literal["..."]`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)

    def with_(self, **changes: object) -> Self:
        """Return a validated copy with some fields changed."""
        return type(self).model_validate({**self.model_dump(), **changes})
