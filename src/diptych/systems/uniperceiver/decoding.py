"""Reading captions word by word: what the model makes of the next slot, with and without memory.

Legend: B pictures, R captions under way, P visual tokens, t words so far, H heads, D width.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.systems.uniperceiver.conditional import ConditionalLinear, Decision
from diptych.systems.uniperceiver.layers import Layer, Sequences, mapped

if TYPE_CHECKING:
    from diptych.systems.uniperceiver.model import UniPerceiverModel


class PlainReader:
    """Reads picture and caption anew for every word; what the others must equal."""

    def __init__(self, model: "UniPerceiverModel", visual: Tensor, steps: int, attributes: Tensor | None):
        """Nothing is read yet.

        Args:
            model: in eval mode.
            visual: [B, P, D] embedded pictures.
            steps: words of a caption at most.
            attributes: [2, 8] of picture and text, where experts ask.
        """
        self.model, self.attributes = model, attributes
        self.start = model.assemble([visual])

    def __call__(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Return the state of the slot behind each caption, [R, D].

        Args:
            ids: [R, t] the words so far.
            rows: [R] int64: which of the captions of the call before each one goes on from; at first, of the
                pictures. Captions of one picture stay where captions of it were.
        """
        # Captions lie picture by picture.
        self.start = self.start[rows] if len(rows) != len(self.start) else self.start
        model, prefix, length = self.model, self.start.shape[1], ids.shape[1] + 1
        text = F.pad(ids, (0, 1), value=model.config.slot)
        blocked = torch.zeros(prefix + length, prefix + length, dtype=torch.bool, device=ids.device)
        blocked[:, prefix:] = True
        blocked[prefix:, prefix:].triu_(1)
        about = Sequences(blocked=blocked, attributes=self.attributes, prefix=prefix)
        states = model.encode(torch.cat([self.start, model.text(text)], 1), about)
        return states[:, -1]


class InputReader:
    """Remembers what went into each layer (published): keys and values are made of it for every word."""

    def __init__(self, model: "UniPerceiverModel", visual: Tensor, steps: int, attributes: Tensor | None):
        """Read the pictures; arguments as those of `PlainReader`."""
        self.model = model
        x = model.assemble([visual])
        about = Sequences(attributes=attributes, prefix=x.shape[1])
        self.history: list[Tensor] = []
        for layer in model.layers:
            self.history.append(x)
            x = layer(x, about)
        self.step = Sequences(attributes=attributes, prefix=about.prefix, decoding=True)

    def __call__(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Read the last word of each caption, then its slot; as `PlainReader`."""
        self.history = [states[rows] for states in self.history]
        place = ids.shape[1]
        if place:
            self._read(ids[:, -1], place - 1, keep=True)
        return self._read(torch.full_like(rows, self.model.config.slot), place, keep=False)

    def _read(self, ids: Tensor, place: int, *, keep: bool) -> Tensor:
        """Read one more token [R] at a place of the captions; return its states [R, D]."""
        x = self.model.text(ids[:, None], torch.tensor([place], device=ids.device))
        for number, layer in enumerate(self.model.layers):
            given = x
            x = layer(given, self.step, self.history[number])
            if keep:
                self.history[number] = torch.cat([self.history[number], given], 1)
        first: Tensor = x[:, 0]
        return first


class KeyReader:
    """Remembers keys and values; word and slot go through the model together.

    Experts are mixed once: what a caption is written with stays the same.
    """

    def __init__(self, model: "UniPerceiverModel", visual: Tensor, steps: int, attributes: Tensor | None):
        """Read the pictures; arguments as those of `PlainReader`."""
        self.model = model
        x = model.assemble([visual])
        about = Sequences(attributes=attributes, prefix=x.shape[1])
        self.parts: list[_Part] = []
        for layer in model.layers:
            assert isinstance(layer, Layer)
            self.parts.append(_Part(layer, x, about, steps))
            x = layer(x, about)

    def __call__(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Read the last word of each caption and its slot; as `PlainReader`."""
        place = ids.shape[1]
        slot = torch.full_like(rows, self.model.config.slot)[:, None]
        new = torch.cat([ids[:, -1:], slot], 1)
        positions = torch.arange(place + 1, device=ids.device)[-new.shape[1] :]
        x = self.model.text(new, positions)
        for part in self.parts:
            part.reorder(rows)
            x = part(x, place)
        last: Tensor = x[:, -1]
        return last


class _Maps(NamedTuple):
    """Weight and bias of the four linear maps of a layer."""

    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]


class _Part:
    """A layer, and the keys and values of what it has read: prompts, picture, words."""

    def __init__(self, layer: Layer, x: Tensor, about: Sequences, steps: int) -> None:
        """Make keys and values of the picture.

        Args:
            layer: the layer.
            x: [B, 1 + P, D] what goes into it.
            about: of that.
            steps: words of a caption at most.
        """
        self.layer = layer
        first, second = layer.decide(about)
        y, prompts = layer.norm1(x), 0
        if layer.prompt is not None:
            prompts = len(layer.prompt)
            y = torch.cat([layer.norm1(layer.prompt).expand(len(x), -1, -1), y], 1)
        self.before = y.shape[1]
        lengths = about.lengths_of(self.before, prompts)
        both = mapped(layer.qkv, y, lengths, first, slice(x.shape[-1], None))
        # Room for all words, and for the slot behind them.
        self.keys, self.values = (
            F.pad(self._split(part), (0, 0, 0, steps)).contiguous() for part in both.chunk(2, -1)
        )
        self.maps = _Maps(
            _weights(layer.qkv, first),
            _weights(layer.out, first),
            _weights(layer.fc1, second),
            _weights(layer.fc2, second),
        )

    def _split(self, x: Tensor) -> Tensor:
        """Turn [R, n, D] into [R, H, n, D / H]."""
        return x.view(x.shape[0], x.shape[1], self.layer.heads, -1).transpose(1, 2)

    def reorder(self, rows: Tensor) -> None:
        """Go on with some of the captions [R]."""
        if len(rows) != len(self.keys):
            self.keys, self.values = self.keys[rows], self.values[rows]
            return
        # The picture is the same, so only words move.
        for memory in (self.keys, self.values):
            memory[:, :, self.before :] = memory[:, :, self.before :][rows]

    def __call__(self, x: Tensor, place: int) -> Tensor:
        """Return the states [R, n, D] of the last n tokens up to a place of the captions."""
        layer, n = self.layer, x.shape[1]
        end = self.before + place + 1
        q, k, v = map(self._split, F.linear(layer.norm1(x), *self.maps.qkv).chunk(3, -1))
        self.keys[:, :, end - n : end], self.values[:, :, end - n : end] = k, v
        # Of two the first must not read the second.
        mask = None if n == 1 else torch.ones(n, end, dtype=torch.bool, device=x.device).tril_(end - n)
        read = F.scaled_dot_product_attention(q, self.keys[:, :, :end], self.values[:, :, :end], mask)
        x = x + F.linear(read.transpose(1, 2).flatten(2), *self.maps.out) * layer.scale1
        inner = F.gelu(F.linear(layer.norm2(x), *self.maps.fc1))
        return x + F.linear(inner, *self.maps.fc2) * layer.scale2


def _weights(module: nn.Module, decision: Decision | None) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a linear map of either kind for text, the last segment."""
    if isinstance(module, ConditionalLinear):
        assert decision is not None
        return module.merged(decision, decision.experts.shape[1] - 1)
    assert isinstance(module, nn.Linear)
    return module.weight, module.bias
