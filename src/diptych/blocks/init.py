"""How fresh weights are drawn."""

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

Init = Literal["published", "fan_in"]
"""`published`: normal of std 0.02 cut at one standard deviation, as EVE does at width 768 and above.
`fan_in`: normal of std 0.7 / sqrt(inputs) cut at two, so that signals of small widths survive (ours)."""


def draw_matrix(weight: Tensor, init: Init, fan_in: int) -> None:
    """Fill a weight (of any shape) in place; `fan_in` is the number of inputs that one output sums over."""
    std, cut = (0.02, 1.0) if init == "published" else (0.7 / max(fan_in, 1) ** 0.5, 2.0)
    nn.init.trunc_normal_(weight, std=std, a=-cut * std, b=cut * std)


def draw_vector(table: Tensor, std: float = 0.02) -> None:
    """Fill class, type and position embeddings in place: normal of `std` cut at one standard deviation."""
    nn.init.trunc_normal_(table, std=std, a=-std, b=std)


def draw_linears(modules: Iterable[nn.Module], init: Init) -> None:
    """Fill every `nn.Linear` among `modules` in place; biases become zero."""
    for module in modules:
        if isinstance(module, nn.Linear):
            draw_matrix(module.weight, init, module.in_features)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
