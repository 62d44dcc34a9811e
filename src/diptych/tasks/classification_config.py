"""Settings of classification."""

from typing import Literal

from pydantic import Field, field_validator

from diptych.systems.task import TaskConfig


class ClassificationConfig(TaskConfig):
    """Choosing the class of a picture or clip, by the names of the classes or by a linear layer."""

    name: Literal["classification"] = "classification"
    target: str = Field(
        "auto",
        description="What to choose from: a list of Diptych (`imagenet-1k`), a file of names (`.txt`: a "
        "class a line, synonyms behind tabs; `.json`), a target set (`diptych targets build`), a prepared "
        "dataset with a list of its own, what a column of one says (`data/mine:train#name`), or `auto`: the "
        "classes of `init_from`, else what the label column of the training data says.",
    )
    label: str = Field(
        "label",
        min_length=1,
        description="Column of the dataset with the class: its number in `target`, or a name of it.",
    )
    prompts: tuple[str, ...] = Field(
        ("{}",), min_length=1, description="Texts with `{}` for the name; published: the name alone."
    )
    head: Literal["auto", "likelihood", "contrastive", "linear"] = Field(
        "auto",
        description="`likelihood`: names are targets of the model (Uni-Perceiver); `contrastive`: they are "
        "compared as texts are in retrieval; `linear`: a layer with a row for each class, which knows no "
        "names; `auto`: the first that the model can.",
    )
    temperature: Literal["auto", "img_cls", "video_cls", "retrieve", "caption"] = Field(
        "auto",
        description="`likelihood`: name of the factor on cosines; `auto`: `img_cls` for pictures, "
        "`video_cls` for clips (published).",
    )
    synonyms: Literal["first", "random", "mean"] = Field(
        "random",
        description="Which name of a class is taken in training: its first, a random one in each step "
        "(published), or the mean of all.",
    )
    eval_synonyms: Literal["first", "random", "mean"] = Field(
        "first",
        description="The same in an evaluation; published: `random`, which makes results differ by chance.",
    )
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Share of the target spread over all classes."
    )
    candidates: int = Field(
        0,
        ge=0,
        description="Ours: in training choose among so many random classes, and those of the batch, in place "
        "of all of them; 0: all.",
    )
    mixup: float = Field(
        0.0, ge=0, description="Pictures are blended in pairs by Beta(mixup, mixup); 0: off. Published: 0.8."
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        description="A rectangle of one picture is put into another, its area by Beta(cutmix, cutmix); 0: "
        "off. Published: 1.0, half of all batches each.",
    )
    mix_probability: float = Field(1.0, ge=0, le=1, description="Share of the batches that are mixed at all.")
    top: int = Field(5, ge=1, description="Classes listed for each picture in predictions.jsonl.")
    blind: Literal["none", "image"] = Field("none", description="`image`: a control that sees no picture.")

    @field_validator("prompts")
    @classmethod
    def _places(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [value for value in values if value.count("{}") != 1]
        if wrong:
            raise ValueError(f"expected one '{{}}' for the name in each prompt, got {wrong[0]!r}")
        return values
