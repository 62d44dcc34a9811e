"""Settings of several sources: what each of them is, and how batches draw from them."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from diptych.config.schema import Section

Examples = Literal["samples", "captions", "questions", "statements", "choices"]
EVALUATED_AS = {"captions": "samples"}
"""What rows of training are for tasks and in an evaluation, where that is not the same."""
OWN_SECTIONS = ("image", "video", "text", "augment", "loader")
"""Sections of `data` that a source may change for itself (`data.mixture.draw`)."""


class SourceConfig(Section):
    """One of several datasets that training mixes. What it does not say, `data` says."""

    path: str = Field("", description="Its dataset; empty: `data.path`.")
    split: str | None = Field(None, description="Its split; none: `data.split`; empty: all samples.")
    where: str | None = Field(None, description="Its SQL condition; none: `data.where`; empty: no condition.")
    share: float | None = Field(
        None, gt=0, le=1, description="Take only so much of what is selected; none: `data.share`."
    )
    weight: float | None = Field(
        None,
        ge=0,
        description="Its share of what is drawn. Sources without one divide what the others leave, by size; "
        "if all have one only their ratios count. 0 leaves the source out.",
    )
    cap: int = Field(
        0, ge=0, description="Count at most so many samples when shares follow from sizes; 0: all of them."
    )
    examples: Examples | None = Field(None, description="What its rows are; none: `data.examples`.")
    task: str = Field("", description="Label of what its samples train; empty: the source's name.")
    batch_size: int = Field(
        0,
        ge=0,
        description="Samples of its batches, where whole batches are drawn (`data.mixture.draw`); 0: "
        "`data.loader.batch_size`.",
    )
    settings: dict[str, Any] = Field(
        {},
        description="Settings of `data` that are its own, where whole batches are drawn: "
        "`{text: {max_tokens: 30}, video: {frames: 8}}`.",
    )

    @field_validator("settings")
    @classmethod
    def _own_sections(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name.partition(".")[0] not in OWN_SECTIONS:
                raise ValueError(
                    f"a source has settings of its own in {', '.join(OWN_SECTIONS)}; got '{name}' "
                    "(path, split, where, examples and batch_size are keys of the source itself)"
                )
        return value


class MixtureConfig(Section):
    """How batches draw from several sources (`data.sources`)."""

    temperature: float = Field(
        1.0,
        gt=0,
        description="Shares that follow from sizes are proportional to size^(1/temperature): 1 by size, "
        "large values make all sources equal.",
    )
    parts: int = Field(
        0,
        ge=0,
        description="A batch consists of so many equal parts, each from one source. 0: every sample draws "
        "its source; 1: a batch, and so every rank, has one source; the number of ranks: each rank draws "
        "its own.",
    )
    cycle: int = Field(
        1000,
        ge=1,
        description="Samples (or parts) in which the shares are met exactly, in whole numbers above 0.",
    )
    draw: Literal["samples", "batches", "rank_batches"] = Field(
        "samples",
        description="What draws a source. `samples`: samples, or `parts` of a batch; all have the same "
        "settings. `batches`: a step takes `draws` batches, each of one source in its own size and with its "
        "own settings; all ranks work on each of them. `rank_batches`: likewise, but a batch is one rank's "
        "alone, so that ranks train different tasks at a time (published Uni-Perceiver).",
    )
    rule: Literal["weights", "turn", "fixed", "shifted"] = Field(
        "weights",
        description="Which source a drawn batch is of. `weights`: at random, by the sources' weights; "
        "`turn`: all batches of a step are of one source, the next step's of the next; `fixed`: batch number "
        "i of a step is of source number i; `shifted`: of source number i + step. With `batches` and "
        "`fixed` every step trains all tasks.",
    )
    draws: int = Field(
        0,
        ge=0,
        description="Batches drawn for a step, all ranks together. 0: one a rank with `rank_batches`, one a "
        "source with `batches` and `fixed`, else one. With one process and `rank_batches`, 2 is what two "
        "ranks do.",
    )

    @model_validator(mode="after")
    def _one_way_to_draw(self) -> Self:
        if self.draw != "samples" and self.parts:
            raise ValueError(
                f"parts = {self.parts} is about batches of several sources, and draw = {self.draw} takes "
                "batches of one; set parts = 0, or draw = samples"
            )
        if self.draw == "samples" and (self.rule != "weights" or self.draws):
            key = f"draws = {self.draws}" if self.draws else f"rule = {self.rule}"
            raise ValueError(f"{key} goes with draw = batches or rank_batches, not with draw = samples")
        return self


def flattened(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of nested settings."""
    for name, value in settings.items():
        key = f"{above}.{name}" if above else name
        if isinstance(value, Mapping):
            yield from flattened(value, key)
        else:
            yield key, value
