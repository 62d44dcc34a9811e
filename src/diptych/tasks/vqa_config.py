"""Settings of visual question answering."""

from typing import Literal

from pydantic import Field

from diptych.systems.task import TaskConfig


class VqaConfig(TaskConfig):
    """Question answering by choosing from a list of answers, as published for EVE, SOHO and SNP-S3."""

    name: Literal["vqa"] = "vqa"
    answers: str = Field(
        "auto",
        description="JSON file with the list of answers to choose from, or `auto`: those of `init_from`, "
        "else those that the dataset names, else the most frequent of the training data.",
    )
    answer_count: int = Field(3128, ge=1, description="Answers that `auto` takes from training data at most.")
    answer_bias: float = Field(
        0.0,
        description="Start of the answers' biases (published: 0). A value such as -5 spares a short "
        "training the steps in which it only learns that most answers are wrong.",
    )
    head: Literal["norm", "dropout", "linear", "likelihood"] = Field(
        "norm",
        description="norm: two layers with LayerNorm and GELU (published for EVE); dropout: with ReLU and "
        "dropout 0.5, twice as wide (published for SOHO); linear: one layer (published for SNP-S3); "
        "likelihood: answers are targets, compared with a slot behind the question (published for "
        "Uni-Perceiver).",
    )
    loss: Literal["binary", "softmax"] = Field(
        "binary",
        description="binary (published for EVE and SOHO): every answer is right or wrong by itself; softmax "
        "(published for SNP-S3): they compete.",
    )
    unanswerable: Literal["skip", "count"] = Field(
        "skip",
        description="Questions none of whose answers is in the list. skip: they are left out of the loss; "
        "count: every answer is wrong (published for SOHO).",
    )
    gate_weight: float = Field(0.001, ge=0, description="Weight of the routing balance loss.")
    add_gate_loss: bool = Field(
        False, description="Train the routing balance loss too; the published code only reports it."
    )
    top: int = Field(
        5,
        ge=1,
        description="Answers listed for each question in predictions.jsonl; `top_accuracy` is that of the "
        "best of them.",
    )
    share_pictures: bool = Field(
        False,
        description="Ours: embed a picture that several rows of a batch show once; with "
        "`data.loader.group_size` rows about one picture share a batch.",
    )
    blind: Literal["none", "image", "text"] = Field(
        "none", description="A control that sees no picture (image) or no question (text)."
    )
