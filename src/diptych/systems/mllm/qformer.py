"""VideoChat2's connector: queries read a clip (and the instruction), and become tokens of the language model.

Legend: B media, V visual tokens, C their width, Q queries, L tokens of the instruction, W width of the
language model.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from diptych.blocks.qformer import (
    QFormer,
    QFormerConfig,
    our_qformer_name,
    published_qformer_name,
)
from diptych.data.tiling_config import TilingConfig
from diptych.errors import UsageError

EPS = 1e-12


class QFormerConnector(nn.Module):
    """Norm, Q-Former, projection: every medium becomes Q tokens, however many frames it has."""

    def __init__(
        self,
        config: QFormerConfig,
        visual_width: int,
        llm_width: int,
        tiling: TilingConfig | None = None,
    ) -> None:
        """Build it with fresh weights; `tiling` says into how many tiles a medium is cut (default: one)."""
        super().__init__()
        self.config, self.tiling = config, tiling or TilingConfig()
        self.norm = nn.LayerNorm(visual_width, eps=EPS)
        self.qformer = QFormer(config, visual_width)
        self.projection = nn.Linear(config.width, llm_width)
        nn.init.normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(self.projection.bias)

    @property
    def tokens(self) -> int:
        """Tokens that one medium becomes."""
        return self.qformer.count

    def count(self, rows: int, columns: int) -> int:
        """Return how many tokens a medium of such a grid becomes: each tile, and the whole view, its own."""
        return self.tokens * self.tiling.views(rows, columns)

    def forward(
        self, seen: Tensor, instruction: Tensor | None = None, instruction_mask: Tensor | None = None
    ) -> Tensor:
        """Turn visual tokens into tokens of the language model, [B, Q, W].

        Args:
            seen: [B, V, C] all patches of all frames of a medium; no temporal embedding is added here.
            instruction: [B, L] int64, what the queries should look for, in the Q-Former's words (BERT's).
            instruction_mask: [B, L] bool, True at real tokens.

        Raises:
            UsageError: an instruction for a Q-Former that reads no texts.
        """
        if instruction is not None and not self.config.text:
            raise UsageError(
                "an instruction was given, but this Q-Former reads no texts; set qformer.text=true"
            )
        found = self.qformer(self.norm(seen), instruction, instruction_mask)
        out: Tensor = self.projection(found.queries)
        return out


PROJECTIONS = ("llama_proj", "mistral_proj", "phi_proj")
"""What published checkpoints call the projection, by their language model."""


def our_connector_name(name: str) -> str | None:
    """Return our name of a published weight of this connector; None: it belongs elsewhere."""
    if name in ("query_tokens", "extra_query_tokens"):
        return f"qformer.{name}"
    module, _, kind = name.rpartition(".")
    if module in ("vision_layernorm", "ln_vision"):
        return f"norm.{kind}"
    if module in PROJECTIONS:
        return f"projection.{kind}"
    for prefix in ("qformer.bert.", "Qformer.bert."):
        if name.startswith(prefix):
            found = our_qformer_name(name.removeprefix(prefix))
            return None if found is None else f"qformer.{found}"
    return None


def published_connector_name(name: str, projection: str = "llama_proj") -> str | None:
    """Undo `our_connector_name`.

    Args:
        name: ours.
        projection: one of `PROJECTIONS`.
    """
    module, _, kind = name.rpartition(".")
    if name in ("qformer.query_tokens", "qformer.extra_query_tokens"):
        return kind
    if module == "norm":
        return f"vision_layernorm.{kind}"
    if module == "projection":
        return f"{projection}.{kind}"
    found = published_qformer_name(name.removeprefix("qformer.")) if name.startswith("qformer.") else None
    return None if found is None else f"qformer.bert.{found}"


def connector_from_published(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the connector's weights of a published checkpoint, and the keys that are none of it, sorted."""
    ours: dict[str, Tensor] = {}
    others = []
    for name, tensor in state.items():
        found = our_connector_name(name)
        if found is None:
            others.append(name)
        else:
            ours[found] = tensor
    return ours, sorted(others)
