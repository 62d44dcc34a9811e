"""Partial LoRA (InternLM-XComposer2): low-rank additions to linear layers, at picture positions only.

Legend: B sequences, T tokens, n picture positions of all sequences, r rank.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, nn

from diptych.errors import ConfigError


class PicturePositions:
    """Where the tokens of pictures are, told once per forward to all layers that share this object.

    It keeps what it was told last, so that layers which are computed again on the way back (gradient
    checkpointing) find the same; where several forwards come before one way back, `checkpoint_contexts`
    brings each its own.
    """

    def __init__(self) -> None:
        self.mask: Tensor | None = None
        self.places: Tensor | None = None
        """[n] int64: where `mask` is True, in the flattened sequences."""

    def set(self, mask: Tensor | None) -> None:
        """Say which positions of the next forward are of pictures.

        Args:
            mask: [B, T] bool, or None where no position is (decoding steps, texts alone).
        """
        # Found once here: inside the layers each would wait for the device.
        self.places = None if mask is None else mask.flatten().nonzero()[:, 0]
        self.mask = mask

    @contextmanager
    def at(self, mask: Tensor | None) -> Iterator[None]:
        """Say it for a block of code; what was said before holds again afterwards."""
        before = self.mask, self.places
        self.set(mask)
        try:
            yield
        finally:
            self.mask, self.places = before

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return contexts for `torch.utils.checkpoint` (`context_fn`, without reentry).

        What is computed again sees the positions of its own forward.
        """
        mask, places = self.mask, self.places

        @contextmanager
        def again() -> Iterator[None]:
            before = self.mask, self.places
            self.mask, self.places = mask, places
            try:
                yield
            finally:
                self.mask, self.places = before

        return nullcontext(), again()


class PartialLora(nn.Module):
    """A linear layer with a low-rank branch that only picture positions take.

    `y = base(x)`, and where a picture is `+ alpha / r * up(down(dropout(x)))`. The branch starts at zero, so
    that a fresh one changes nothing.
    """

    def __init__(
        self,
        base: nn.Module,
        positions: PicturePositions,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        lender: "PartialLora | None" = None,
    ) -> None:
        """Wrap a layer.

        Args:
            base: `nn.Linear`, or what stands in for one (a LoRA of peft, a quantised layer) and has
                `in_features` and `out_features`.
            positions: shared by all layers of a model.
            rank: r.
            alpha: the branch is scaled by alpha / r.
            dropout: of the branch's input.
            lender: a layer with the same input whose `down` this one uses too: parts of one fused layer.
        """
        super().__init__()
        self.base = base
        self.positions = positions
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        inside, outside = cast(int, base.in_features), cast(int, base.out_features)
        weight = next(base.parameters())
        # A quantised layer's numbers are no type to train in.
        dtype = weight.dtype if weight.is_floating_point() else torch.get_default_dtype()
        made = {"device": weight.device, "dtype": dtype}
        self._lender = None if lender is None else (lender,)  # in a tuple it is no part of this module
        if lender is None:
            self.down = nn.Linear(inside, rank, bias=False, **made)
        elif lender.reader.in_features != inside or lender.reader.out_features != rank:
            raise ValueError(f"a layer of {inside} inputs and rank {rank} cannot share {lender.reader}")
        self.up = nn.Linear(rank, outside, bias=False, **made)
        self.reset_branch()

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return cast(int, self.base.in_features)

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return cast(int, self.base.out_features)

    @property
    def reader(self) -> nn.Linear:
        """`down`, its own or the lender's."""
        return self.down if self._lender is None else self._lender[0].reader

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Return contexts for being computed again, see `PicturePositions`; the engine asks for them."""
        return self.positions.checkpoint_contexts()

    @torch.no_grad()
    def reset_branch(self) -> None:
        """Draw a fresh branch: `down` as a linear layer, `up` zero."""
        if self._lender is None:
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to [B, T, in]; a batch without pictures gives the branch gradients of zero."""
        y: Tensor = self.base(x)
        places = self._places(x)
        if places is None:
            return y
        part = x.reshape(-1, x.shape[-1]).index_select(0, places)  # [n, in]; n may be 0
        more = self.up(self.reader(self.dropout(part))) * self.scale
        flat = y.reshape(-1, y.shape[-1])
        return flat.index_add(0, places, more.to(y.dtype)).view(y.shape)

    def _places(self, x: Tensor) -> Tensor | None:
        mask, places = self.positions.mask, self.positions.places
        if mask is None:
            # With an empty branch every parameter has a gradient on every rank.
            trains = self.training and torch.is_grad_enabled()
            return torch.zeros(0, dtype=torch.int64, device=x.device) if trains else None
        if mask.shape != x.shape[:-1]:
            raise ValueError(
                f"picture positions were told for {list(mask.shape)}, but the layer sees "
                f"{list(x.shape[:-1])} tokens: call PicturePositions.set before every forward"
            )
        return places

    def extra_repr(self) -> str:
        """Return rank and scale."""
        return f"rank={self.up.in_features}, scale={self.scale:g}"


def add_plora(
    model: nn.Module,
    names: Sequence[str],
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    share: Sequence[Sequence[str]] = (),
) -> PicturePositions:
    """Wrap linear layers of a model in place; return what tells them where pictures are.

    LoRA of peft comes first, this second: peft does not look into wrapped layers.

    Args:
        model: whose layers are wrapped.
        names: patterns of the last parts of layers' names (`q_proj`, `*_proj`).
        rank: r of every branch.
        alpha: the branches are scaled by alpha / r.
        dropout: of the branches' inputs.
        share: groups of names of layers beside each other that share `down`, the first one's, as the parts
            of a fused layer do (`("q_proj", "k_proj", "v_proj")` of InternLM2).

    Raises:
        ConfigError: no layer has such a name, or one that has is not linear.
    """
    positions = PicturePositions()
    found = [name for name, _ in model.named_modules() if _is_meant(name, names)]
    # What lies inside a layer that is wrapped already (peft keeps the name of its adapter) is not meant.
    found = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if not found:
        ends = sorted(
            {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        )
        raise ConfigError(
            f"partial LoRA: no layer is called {', '.join(names)}; linear layers are {', '.join(ends)}"
        )
    wrapped: dict[str, PartialLora] = {}
    for name in found:
        layer = model.get_submodule(name)
        if not hasattr(layer, "in_features") or not hasattr(layer, "out_features"):
            raise ConfigError(f"partial LoRA: {name} is a {type(layer).__name__}, expected a linear layer")
        giver = _lender_of(name, share)
        if giver and giver not in wrapped:
            raise ConfigError(
                f"partial LoRA: {name} is to share `down` of {giver}, which is no layer before it"
            )
        lender = wrapped[giver] if giver else None
        wrapped[name] = PartialLora(layer, positions, rank, alpha, dropout, lender)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, wrapped[name])
    return positions


def split_plora(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a wrapped model's weights as if it were not wrapped, and its branches' weights."""
    ends = (".down.weight", ".up.weight")
    based = {name.rpartition(".base.")[0] for name in state if ".base." in name}
    wrapped = {layer for layer in based if f"{layer}.up.weight" in state}
    plain, branches = {}, {}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".base.")
        if name.endswith(ends) and name.removesuffix(ends[0]).removesuffix(ends[1]) in wrapped:
            branches[name] = tensor
        else:
            plain[f"{layer}.{part}" if layer in wrapped else name] = tensor
    return plain, branches


def as_wrapped(state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Return weights under the names that a model has for them, whatever its layers are wrapped in.

    A layer's own weight lies in `base` under partial LoRA and in `base_layer` under LoRA of peft.

    Args:
        state: of a model with other adapters, or with none.
        own: names of the model's weights.
    """
    places = {_unwrapped(name): name for name in own}
    return {places.get(_unwrapped(name), name): tensor for name, tensor in state.items()}


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in ("base", "base_layer"))


def _is_meant(name: str, patterns: Sequence[str]) -> bool:
    last = name.rpartition(".")[2]
    return any(fnmatchcase(last, pattern) for pattern in patterns)


def _lender_of(name: str, share: Sequence[Sequence[str]]) -> str:
    """Return the name of the layer whose `down` a layer uses; empty: it has its own."""
    parent, _, last = name.rpartition(".")
    for first, *others in share:
        if last in others:
            return f"{parent}.{first}" if parent else first
    return ""
