"""Settings of EVE's masked pre-training."""

from typing import Literal

from pydantic import Field, model_validator

from diptych.blocks.init import Init
from diptych.systems.task import TaskConfig


class EvePretrainConfig(TaskConfig):
    """Masked signal modelling. The paper leaves the details open that are marked "ours"."""

    name: Literal["eve_pretrain"] = "eve_pretrain"
    image_mask_ratio: float = Field(0.75, ge=0, lt=1, description="Share of patches that is hidden.")
    image_mask: Literal["random", "blockwise"] = Field(
        "random",
        description="Hidden patches anywhere, or in blocks as BEiT has them (masked_tokens replace).",
    )
    masked_tokens: Literal["drop", "replace"] = Field(
        "drop",
        description="drop: the model reads visible patches only. replace: a learned vector for hidden ones.",
    )
    text_mask_ratio: float = Field(
        0.5, ge=0, le=1, description="Share of ordinary text tokens that is hidden."
    )
    text_mask: Literal["mask", "bert"] = Field(
        "mask", description="What stands for a hidden token: [MASK], or the 80/10/10 rule of BERT."
    )
    passes: Literal[1, 2] = Field(
        1,
        description="Ours: 1: words and patches are hidden at once. 2: words are found with the whole "
        "picture, patches with the whole text, in a pass each.",
    )
    masked_batch: int = Field(
        0,
        ge=0,
        description="Ours: masked modelling on this many samples of the batch (of all ranks), drawn at "
        "random; 0: all.",
    )
    decoder_width: int = Field(512, ge=1, description="Ours: width of the image decoder.")
    decoder_layers: int = Field(
        2, ge=0, description="Ours: its layers; 0 (masked_tokens replace): a perceptron."
    )
    decoder_heads: int = Field(8, ge=1, description="Ours: its attention heads.")
    decoder_text: bool = Field(False, description="Ours: the image decoder looks at the encoded text too.")
    normalise_targets: bool = Field(
        True, description="Ours: patches to paint have mean 0 and variance 1 each."
    )
    mlm_weight: float = Field(1.0, ge=0, description="Weight of the hidden-words loss.")
    mim_weight: float = Field(1.0, ge=0, description="Weight of the hidden-patches loss.")
    routing_weight: float = Field(0.001, ge=0, description="Weight of the balance loss of the experts.")
    itc_weight: float = Field(
        0.0, ge=0, description="Ours: weight of a contrastive loss of unmasked pairs; 0: none."
    )
    itc_dim: int = Field(0, ge=0, description="Width of the contrastive space; 0: the model's width.")
    itc_init: Init = Field(
        "published", description="Start of the contrastive projections: normal 0.02, or by fan-in (ours)."
    )
    itc_chunk: int = Field(
        512,
        ge=0,
        description="Ours: pictures whose similarities to all texts are held at once in contrastive losses; "
        "the loss is the same, with less memory for large batches; 0: all.",
    )
    temperature: float = Field(0.07, gt=0, description="Initial temperature of the contrastive loss.")
    temperature_bounds: tuple[float, float] = Field((0.001, 0.5), description="Limits of the temperature.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the contrastive target spread over all."
    )
    image_contrast: float = Field(
        0.0, ge=0, description="Ours: weight of a contrastive loss among pictures of equal match id."
    )
    itm_weight: float = Field(
        0.0, ge=0, description="Ours: weight of a matching loss on hard negatives; 0: none."
    )
    itm_batch: int = Field(
        0, ge=0, description="Matching on this many samples of the batch (of all ranks); 0: all."
    )
    itm_negative_floor: float = Field(
        1e-5, ge=0, description="Added to each candidate's probability when negatives are drawn."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "EvePretrainConfig":
        if self.masked_tokens == "drop" and self.decoder_layers == 0 and self.mim_weight:
            raise ValueError(
                "decoder_layers 0 needs masked_tokens=replace: nothing else tells it about its patch"
            )
        if self.masked_tokens == "drop" and self.image_mask == "blockwise":
            raise ValueError(
                "image_mask=blockwise hides unequal numbers of patches, so it needs masked_tokens=replace"
            )
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width {self.decoder_width} is not a multiple of decoder_heads {self.decoder_heads}"
            )
        if not self.itc_weight and (self.itm_weight or self.image_contrast):
            raise ValueError("itm_weight and image_contrast need the features of itc_weight: set it above 0")
        return self
