"""Settings of SNP-S3's pre-training."""

from typing import Literal, Self

from pydantic import Field, model_validator

from diptych.blocks.queue import Wrap
from diptych.systems.task import TaskConfig


class SnpS3PretrainConfig(TaskConfig):
    """Hidden words (with the video, and in the text alone), matching, contrast on two levels and of words.

    Significant words come from a file that `diptych words mine` writes (`words`); without one words are
    hidden at random and not compared with clips.
    """

    name: Literal["snps3_pretrain"] = "snps3_pretrain"
    words: str = Field(
        "",
        description="Significant words: `words.json` of `diptych words mine` (or a published "
        "`count_reprocess_*.json`), for the tokenizer it was made with; or its `counts.json`, ranked for the "
        "tokenizer of the run. Kept with the run and its exports; empty: those of `init_from`, if any.",
    )
    forms: str = Field(
        "",
        description="Other forms of words: a JSON list with a list for each word of the tokenizer (published "
        "`vocab_simi_list_new.json`); empty: a word stands for itself.",
    )
    words_top: int = Field(3000, ge=0, description="Words up to this rank are significant.")
    masking: Literal["random", "significant", "published"] = Field(
        "random",
        description="Which words are hidden: any; significant ones first (MSSM); `published`: that with its "
        "two faults (wrong places where significant words are too few; first letters of words without other "
        "forms).",
    )
    text_mask_ratio: float = Field(0.15, ge=0, le=1, description="Share of a text's words that is hidden.")
    window: int = Field(
        0,
        ge=0,
        description="Longer texts are cut to a random window of so many tokens in training, start and end "
        "token included (published: 30); set `data.text.max_tokens` well above. 0: their beginning counts.",
    )
    windows: Literal["shared", "published"] = Field(
        "shared",
        description="`published`: the text with hidden words and the text without have windows of their own.",
    )
    guided: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Chance to hide, for the word losses and matching, the words that get most attention "
        "instead.",
    )
    guided_by: Literal["sample", "step"] = Field(
        "sample", description="Whether that is drawn for each sample, or for a whole step (published)."
    )
    text_mlm: Literal["hidden", "published"] = Field(
        "hidden",
        description="What the text network reads to find hidden words in texts alone. `published`: texts "
        "with nothing hidden, which it can copy.",
    )
    itm_texts: Literal["hidden", "published"] = Field(
        "hidden",
        description="Wrong texts of matching. `hidden`: they have words hidden as the right ones have; "
        "`published`: they have not, so that a hidden word gives right ones away.",
    )
    level1: Literal["queue", "batch"] = Field(
        "queue",
        description="What the first level compares with: queues of earlier batches, made by slowly following "
        "copies of the encoders; or the samples of the batch alone.",
    )
    queue: int = Field(16384, ge=1, description="Places of each queue.")
    queue_wrap: Wrap = Field(
        "ring",
        description="A batch that reaches beyond the end of a queue goes on at the front; or, `published`, "
        "it is put into the last places.",
    )
    momentum: float = Field(0.9999, ge=0, le=1, description="How slowly the copies follow.")
    temperature: float = Field(0.05, gt=0, description="Of the first level with queues.")
    level2_group: int = Field(
        16,
        ge=0,
        description="Samples of a rank among which every text is read with every video (published: those of "
        "a GPU, 16); 0: all of the rank.",
    )
    lvwm: Literal["off", "before", "after", "both"] = Field(
        "off",
        description="Whether significant words are compared with clips (LVWM), and which of their vectors: "
        "embedded words, states of the text network (published: `after`), or both.",
    )
    lvwm_words: int = Field(3, ge=1, description="Words of each text that are compared.")
    head_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of the head of the second level.")
    mlm_weight: float = Field(1.0, ge=0, description="Weight of hidden words in texts with videos; 0: off.")
    text_mlm_weight: float = Field(1.0, ge=0, description="Weight of hidden words in texts alone; 0: off.")
    itm_weight: float = Field(1.0, ge=0, description="Weight of matching (VTM); 0: off.")
    level1_weight: float = Field(1.0, ge=0, description="Weight of the contrast of features; 0: off.")
    level2_weight: float = Field(
        1.0, ge=0, description="Weight of the contrast of texts and videos read together; 0: off."
    )
    lvwm_weight: float = Field(1.0, ge=0, description="Weight of each comparison of words; 0: off.")

    @property
    def weights(self) -> dict[str, float]:
        """Loss -> weight, for those that are on."""
        levels = {"off": (), "both": ("before", "after")}.get(self.lvwm, (self.lvwm,))
        names = {
            "level1": self.level1_weight,
            "level2": self.level2_weight,
            "mlm": self.mlm_weight,
            "text_mlm": self.text_mlm_weight,
            "itm": self.itm_weight,
            **{f"lvwm_{level}": self.lvwm_weight for level in levels},
        }
        return {name: weight for name, weight in names.items() if weight}

    @property
    def needs_words(self) -> bool:
        """Whether it must know which words are significant."""
        return self.masking != "random" or (self.lvwm != "off" and self.lvwm_weight > 0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.weights:
            raise ValueError("every weight is 0: nothing is left to train; raise one of them")
        if 0 < self.window < 3:
            raise ValueError(f"window {self.window}: expected at least 3 (start token, a word, end token)")
        return self
