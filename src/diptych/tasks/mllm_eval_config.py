"""Settings of evaluating multimodal language models as their benchmarks do."""

from typing import Literal

from pydantic import Field

from diptych.systems.mllm.generation import GenerationConfig
from diptych.tasks.instruct import InstructConfig

MVBENCH_SYSTEM = (
    "Watch the video closely. Mind the order of events and what leads to them, the details and movements of "
    "objects, and what people do and how they hold themselves. Then choose the option that answers the "
    "question best."
)
"""What our evaluation of MVBench says first; the published text says the same in other words."""


class MllmEvalConfig(InstructConfig):
    """Multiple choice as in MVBench, short answers, and captions. It trains as `instruct` does."""

    name: Literal["mllm_eval"] = "mllm_eval"  # type: ignore[assignment]
    kind: Literal["choices", "short", "captions"] = Field(
        "short",
        description="What is asked. `choices`: lettered options, answered by a letter; `short`: questions "
        "with short answers; `captions`: a caption of each picture or clip.",
    )
    prompt: Literal["mvbench", "letters"] = Field(
        "mvbench",
        description="`choices`: `mvbench` has `choice_system` in front and again before the question, a "
        "request for the best option alone, and begins the answer with `begin`; `letters` asks in the words "
        "of `task.choice`.",
    )
    choice_system: str = Field(
        MVBENCH_SYSTEM,
        description="`choices` with `prompt=mvbench`: what the system says, in the place of `system_text`.",
    )
    begin: str = Field(
        "Best option:(", description="`choices` with `prompt=mvbench`: how the answer is made to begin."
    )
    choice_scoring: Literal["strict", "published"] = Field(
        "strict",
        description="`choices`: `strict`: the answer must begin with one letter; `published`: MVBench's "
        "rule, for which an empty answer is right. Both are reported in any case; this one is the headline.",
    )
    score: Literal["vqa", "relaxed", "exact"] = Field(
        "vqa",
        description="`short`: the official accuracy of VQA, ChartQA's relaxed one (numbers within 5%), or "
        "equal texts but for case and spaces.",
    )
    overall: Literal["questions", "kinds"] = Field(
        "questions",
        description="Headline: the mean over all questions, or over the kinds of them (ChartQA: human and "
        "augmented).",
    )
    query_about: Literal["question", "system"] = Field(
        "system",
        description="With `ask_queries`: whether the Q-Former reads the question, too, or the system's text "
        "alone (published for MVBench).",
    )
    meteor: bool = Field(True, description="`captions`: compute METEOR where there is what it takes.")
    answer: GenerationConfig = Field(
        GenerationConfig(max_new_tokens=100), description="How answers are generated."
    )
