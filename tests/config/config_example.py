"""A small configuration with every kind of field, for the tests of the configuration package."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from diptych.config.schema import Section, Variants


class Image(Section):
    size: int = Field(224, ge=1, description="Side in pixels.")
    scale: tuple[float, float] = Field((0.5, 1.0), description="Smallest and largest share of the area.")
    colour: str = Field("white", description="Background.")

    @field_validator("colour")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("white", "black"):
            raise ValueError(f"expected a colour, got '{value}'")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> "Image":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: expected smallest <= largest, got {self.scale}")
        return self


class Data(Section):
    path: str = Field(description="Where the data is.")
    split: str | None = Field("train", description="Named split.")
    where: str | None = Field(None, description="SQL condition.")
    image: Image = Field(Image(size=64), description="Pictures.")
    weights: dict[str, float] = Field({}, description="Weight per source.")


class Model(Section):
    name: str


class Big(Model):
    name: Literal["big"] = Field("big", description="Which model.")
    width: int = Field(768, ge=1, description="Width of the tokens.")
    experts: int = Field(4, description="Experts a layer.")


class Pair(Model):
    name: Literal["pair"] = Field("pair", description="Which model.")
    width: int = Field(512, ge=1, description="Width of both towers.")
    towers: tuple[str, ...] = Field(("image", "text"), description="What the towers read.")


class Optim(Section):
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    betas: tuple[float, float] = Field((0.9, 0.98), description="Decay of the two moments.")
    warmup: int | float = Field(0.1, description="Fraction or steps.")
    nesterov: bool = Field(False, description="Look ahead.")


class Train(Section):
    steps: int = Field(1000, ge=1, description="Updates of the weights.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Number format.")


MODELS = {"big": f"{__name__}:Big", "pair": f"{__name__}:Pair"}


class Run(Section):
    name: str = Field("run", description="Name of the run.")
    data: Data = Field(description="Data.")
    system: Annotated[Model, Variants("system", MODELS)] = Field(
        {"name": "big", "width": 96}, description="Model."
    )
    optim: Optim = Field(Optim(), description="Optimizer.")
    train: Train = Field(Train(), description="Loop.")
