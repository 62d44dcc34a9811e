"""What to evaluate on, and with how much of the machine (no torch import)."""

from typing import Literal

from pydantic import Field

from diptych.config.schema import Section


class EvaluateConfig(Section):
    """Settings of `diptych eval` and of evaluations at the end of training."""

    path: str = Field("", description="Prepared dataset to evaluate on; empty: `data.path`.")
    split: str | None = Field("test", description="Named split of the dataset; null: all samples.")
    where: str | None = Field(None, description="SQL condition over the index that narrows the split down.")
    batch_size: int = Field(128, ge=1, description="Pictures or texts encoded at once.")
    threads: int = Field(0, ge=0, description="CPU threads; 0: torch's default.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to run; auto: a GPU if there is one."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: autocast, for machines where it is faster."
    )
