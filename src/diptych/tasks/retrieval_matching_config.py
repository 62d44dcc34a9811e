"""Settings of retrieval by matching alone."""

from typing import Literal

from pydantic import Field, model_validator

from diptych.systems.task import TaskConfig
from diptych.tasks.retrieval_base import DUAL


class RetrievalMatchingConfig(TaskConfig):
    """Retrieval for systems that read pictures and texts together only: every pair gets a score."""

    name: Literal["retrieval_matching"] = "retrieval_matching"
    head: Literal["linear", "unbiased"] = Field(
        "linear",
        description="The classifier of pairs. `unbiased`: without a bias, as in SOHO's pre-training, whose "
        "weights it then takes.",
    )
    wrong_texts: int = Field(1, ge=0, description="Wrong texts of the batch shown with each picture's text.")
    wrong_pictures: int = Field(1, ge=0, description="Wrong pictures of the batch shown with each text.")
    gate_weight: float = Field(0.001, ge=0, description="Weight of the routing balance loss.")
    score: Literal["log_odds", "itm"] = Field(
        "log_odds", description="Score of a pair: the log-odds of matching, or the logit of matching alone."
    )
    pair_batch: int = Field(
        256,
        ge=1,
        description="Pairs scored at once in evaluation; a CPU takes fewer than this if they have more than "
        "4096 tokens.",
    )
    dual_softmax: float = Field(0.0, ge=0, description=DUAL.format(what="scores"))
    eval_texts: Literal["distinct", "each"] = Field(
        "distinct",
        description="distinct: equal captions are one text, right for all their pictures; each: every "
        "caption is a text of its own.",
    )
    blind: Literal["none", "image", "text"] = Field(
        "none",
        description="A control that sees no picture (image) or no text (text), in training and evaluation.",
    )

    @model_validator(mode="after")
    def _something_wrong(self) -> "RetrievalMatchingConfig":
        if not self.wrong_texts and not self.wrong_pictures:
            raise ValueError("wrong_texts and wrong_pictures are both 0: expected at least one wrong pair")
        return self
