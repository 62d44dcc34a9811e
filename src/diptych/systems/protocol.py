"""What a system offers to tasks and to the engine.

Legend: B batch, L text tokens, P image tokens (class token first), D width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from diptych.config.schema import Section
from diptych.data.text import Tokenizer


class SystemConfig(Section):
    """Base of every system's configuration; subclasses declare `name: Literal["..."]`."""

    name: str

    def own_tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer that comes with the system; None: `data.text.tokenizer` says which."""
        return None

    def portable(self) -> Self:
        """Return settings that build the same model without files that its parts were taken from."""
        return self


@dataclass(frozen=True)
class Encoded:
    """Output of `encode_text` or `encode_visual`."""

    tokens: Tensor
    """[B, L or P, D] after the final normalisation."""
    pooled: Tensor
    """[B, D]: what contrastive heads project (the first token of EVE)."""
    mask: Tensor
    """[B, L or P] bool, True at real tokens."""
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    """Auxiliary scalars to be added to the loss under their names (the routing balance loss)."""
    pooled_raw: Tensor | None = None
    """[B, D]: `pooled` before the final normalisation, which the published evaluation of EVE reads."""
    parts: Tensor | None = None
    """[B, n, D] float32: unit vectors of the parts of a picture (clips of a video), to be compared with
    `pooled` of texts; from models that are `aligned`."""


@dataclass(frozen=True)
class Fused:
    """Output of `fuse`: both modalities read together."""

    visual: Tensor
    """[B, P, D]"""
    text: Tensor
    """[B, L, D]"""
    pooled: Tensor
    """[B, D]: what matching and classification heads read (EVE: the first text token)."""
    visual_mask: Tensor
    text_mask: Tensor
    aux: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Visual:
    """Pictures of several sizes as input tokens; `visual[rows]` are some of them."""

    tokens: Tensor
    """[B, P, D]"""
    mask: Tensor
    """[B, P] bool, True at tokens that are picture."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        return type(self)(self.tokens[rows], self.mask[rows])


def tokens_of(visual: Tensor | Visual) -> Tensor:
    """Return pictures [B, 3, H, W] or tokens [B, P, D] for a model all of whose pictures have one size."""
    return visual.tokens if isinstance(visual, Visual) else visual


def join_visuals(parts: Sequence[Tensor | Visual]) -> Tensor | Visual:
    """Return pictures behind each other as one batch; all have the same number of tokens."""
    tokens = torch.cat([part.tokens if isinstance(part, Visual) else part for part in parts])
    masks = [part.mask for part in parts if isinstance(part, Visual)]
    return Visual(tokens, torch.cat(masks)) if masks else tokens


@dataclass(frozen=True)
class ImageSpec:
    """How a system wants its pictures: side in pixels and per-channel normalisation of values in 0..1."""

    size: int
    """Side of the square; 0 where pictures may have any size."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tokens: int = 0
    """Tokens that a picture becomes, the class token included (for the figures); 0: it has none, or their
    number depends on the picture."""
    sizes: Literal["square", "any"] = "square"
    """Whether all pictures are `size` x `size`, or of any size (`Batch.image_sizes` in a padded frame)."""
    multiple: int = 1
    """Frames of pictures of any size are multiples of so many pixels."""
    frames: int = 0
    """Reads clips [B, N, 3, H, W] of at most so many frames, a picture as a clip of one; 0: pictures only."""
    of_clips: "ImageSpec | None" = None
    """What frames of clips are normalised with, where that is not what pictures are."""


TargetKind = Literal["classes", "captions", "vocabulary", "answers", "glue"]
"""What a set of targets is: names of classes, texts of pictures, all words of the vocabulary, answers to
questions, words that GLUE's slots stand for. Only experts ask."""


@dataclass(frozen=True)
class TargetRows:
    """Texts that a model chooses among, as tokens: C rows, N tokens."""

    ids: Tensor
    """[N] int64, all rows behind each other, each with its end token."""
    lengths: Tensor
    """[C] int64 on the CPU."""
    numbers: Tensor | None = None
    """[C] int64 on the CPU: which target of the set each row stands for; None: row i for target i."""

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Tensor) -> Self:
        """Return some rows [n] int64 (on the CPU), in the order that is asked for."""
        starts = self.lengths.cumsum(0) - self.lengths
        lengths = self.lengths[rows]
        first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        inside = torch.arange(int(lengths.sum())) - first
        where = starts[rows].repeat_interleave(lengths) + inside
        numbers = rows if self.numbers is None else self.numbers[rows]
        return type(self)(self.ids[where.to(self.ids.device)], lengths, numbers)

    def to(self, device: torch.device) -> Self:
        """Return the rows with their ids on a device."""
        return type(self)(self.ids.to(device), self.lengths, self.numbers)


@dataclass(frozen=True)
class Writing:
    """How a model is to write texts."""

    beams: int = 2
    """Texts of each picture that are followed at a time."""
    steps: int = 21
    """Tokens of a text at most, the end token included."""
    penalty: float = 0.0
    """Scores are divided by (tokens before the end + 1) to this power; 0: not."""
    temperature: str = "caption"
    """Name of the temperature, where models have several."""
    cache: Literal["keys", "inputs", "none"] = "keys"
    """What is remembered from token to token: keys and values of attention, inputs of layers, or nothing,
    which gives the same texts and takes longest."""


@dataclass(frozen=True)
class Written:
    """Texts about pictures, N of each, the best first."""

    ids: Tensor
    """[B, N, steps] int64; behind the end token there are only end tokens."""
    log_probs: Tensor
    """[B, N, steps] of each token, 0 behind the end."""


@dataclass(frozen=True)
class TextSpec:
    """How a system wants its text: longest sequence with special tokens, and the size of its word table."""

    max_tokens: int
    vocab_size: int


class VisionLanguageModel(nn.Module):
    """Base of the systems' models. A capability a system lacks stays undefined and out of `capabilities`.

    Capabilities and their methods:

    - `embed_visual(images [B, 3, H, W] float, normalised) -> Tensor [B, P, D]`: patch embedding alone, so
      that a picture used in several passes is embedded once. Systems with `image_spec.frames` take clips
      [B, N, 3, H, W] too. Systems that take pictures of any size get
      `sizes` [B, 2] too, and return a `Visual`, which knows what is padding
    - `encode_visual(visual) -> Encoded`; `visual` is pictures [B, 3, H, W] or what `embed_visual` returned
    - `encode_text(ids [B, L] int64, mask [B, L] bool) -> Encoded`
    - `fuse(visual, ids, mask) -> Fused`, `visual` as above
    - `likelihood`: inputs and targets (texts) are encoded by the same network, and a task is to choose among
      targets. `target_features(rows, kind) -> [C, D]`; `compare(states [B, D], targets [C, D], temperature)
      -> logits [B, C]`; `read_text(ids, mask) -> Encoded` for texts that are inputs, where `encode_text` is
      for those that are targets; `temperature(name)`. The states of inputs are `Encoded.pooled_raw` and
      tokens of `Fused.text`
    - `converse`: reads and continues conversations with pictures and videos in them; methods and tokenizer
      (`data.chat.ChatTokenizer`) are those of `systems.mllm`
    - `generate`: writes texts about pictures. `caption_logits(visual, ids, mask, words, temperature)` for
      training, `generate(visual, words, options) -> Written`. `words` is what models that have `likelihood`
      compare with: `target_features` of each token of the vocabulary with the end token behind it (kind
      `vocabulary`), row i of token i; None for others
    """

    capabilities: ClassVar[frozenset[str]]
    width: int
    image_spec: ImageSpec
    text_spec: TextSpec
    heads: int = 0
    """Attention heads, which heads of tasks may copy; 0: no such number."""
    aligned: ClassVar[bool] = False
    """Whether pictures and texts have features in one space without a head: `Encoded.parts` of pictures and
    `pooled` of texts."""

    def embed_visual(self, images: Tensor, sizes: Tensor | None = None) -> Tensor | Visual:
        """Turn normalised pictures [B, 3, H, W] into input tokens [B, P, D].

        Args:
            images: smaller pictures are padded at the bottom and on the right with zeros.
            sizes: [B, 2] int64, height and width of each picture; None: all fill the frame.
        """
        raise AttributeError(f"{type(self).__name__} has no capability 'embed_visual'")

    def encode_visual(self, visual: Tensor | Visual) -> Encoded:
        """Encode pictures [B, 3, H, W] or what `embed_visual` returned."""
        raise AttributeError(f"{type(self).__name__} has no capability 'encode_visual'")

    def encode_text(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Encode token ids [B, L] with their mask [B, L]."""
        raise AttributeError(f"{type(self).__name__} has no capability 'encode_text'")

    def fuse(self, visual: Tensor | Visual, ids: Tensor, mask: Tensor) -> Fused:
        """Read pictures and texts together, pair by pair."""
        raise AttributeError(f"{type(self).__name__} has no capability 'fuse'")

    def read_text(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Encode token ids [B, L] with their mask [B, L] as inputs, not as targets."""
        raise AttributeError(f"{type(self).__name__} has no capability 'likelihood'")

    def target_features(self, rows: TargetRows, kind: TargetKind) -> Tensor:
        """Encode targets; return what inputs are compared with, [C, D]. Gradients flow."""
        raise AttributeError(f"{type(self).__name__} has no capability 'likelihood'")

    def compare(self, states: Tensor, targets: Tensor, temperature: str) -> Tensor:
        """Return logits [B, C] float32 of states of inputs [B, D] and features of targets [C, D].

        Args:
            states: `Encoded.pooled_raw`, or tokens of `Encoded.tokens` and `Fused.text`.
            targets: what `target_features` returned.
            temperature: name of the factor on cosines.
        """
        raise AttributeError(f"{type(self).__name__} has no capability 'likelihood'")

    def caption_logits(
        self, visual: Tensor | Visual, ids: Tensor, mask: Tensor, words: Tensor | None, temperature: str
    ) -> Tensor:
        """Return logits of each word of texts about pictures, given the words in front of it; [M, V].

        Args:
            visual: pictures, as those of `encode_visual`.
            ids: [B, L] texts that end with the end token, without a start token.
            mask: [B, L] bool, True at their M words (end token included), which the rows are about in their
                order.
            words: [V, D] features of the vocabulary, from models that have `likelihood`.
            temperature: name of the factor on cosines of such models.
        """
        raise AttributeError(f"{type(self).__name__} has no capability 'generate'")

    def generate(self, visual: Tensor | Visual, words: Tensor | None, options: Writing) -> Written:
        """Write texts about pictures in eval mode, without gradients; `words` as in `caption_logits`."""
        raise AttributeError(f"{type(self).__name__} has no capability 'generate'")

    def temperature(self, name: str) -> Tensor:
        """Return the temperature (scalar) of a task by its name: 1 / the factor on cosines."""
        raise AttributeError(f"{type(self).__name__} has no capability 'likelihood'")

    def fsdp_units(self) -> list[nn.Module]:
        """Return the blocks that sharded training wraps one by one."""
        return []

    def depths(self) -> dict[str, int]:
        """Return how deep each parameter lies, for rates that fall with depth (`optim.layer_decay`).

        0: in front of the blocks, i + 1: in block i; parameters behind the blocks have no entry. Here blocks
        are `fsdp_units` in their order, and what the model registers before the first is in front of them.
        """
        prefixes = {module: f"{name}." for name, module in self.named_modules()}
        blocks = [prefixes[unit] for unit in self.fsdp_units() if unit in prefixes]
        found: dict[str, int] = {}
        met = False
        for name, _ in self.named_parameters():
            depth = next((i + 1 for i, block in enumerate(blocks) if name.startswith(block)), 0)
            met = met or depth > 0
            if depth or (blocks and not met):
                found[name] = depth
        return found

    def undecayed(self) -> set[str]:
        """Return parameters without weight decay, beyond the engine's rule (biases and norm weights)."""
        return set()

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return another instance's weights fitted to this one's picture size (position tables resized)."""
        return dict(state)

    def routing(self) -> list["RoutingStats"]:
        """Return which experts served which tokens in eval mode since `reset_routing`."""
        return []

    def reset_routing(self) -> None:
        """Forget the counts that `routing` returns."""

    def expert_load(self) -> dict[int, Tensor]:
        """Return layer -> [E] int64: first choices of this rank's tokens in training since the reset."""
        return {}

    def reset_expert_load(self) -> None:
        """Forget the counts that `expert_load` returns."""


@dataclass(frozen=True)
class RoutingStats:
    """First-choice counts of one mixture layer since `reset`."""

    layer: int
    image: list[int]
    """Tokens of image positions per expert."""
    text: list[int]
    """Tokens of text positions per expert, padding excluded."""


class System(Protocol):
    """One published system: what its folder exports as `SYSTEM`."""

    name: str
    config_class: type[SystemConfig]
    supports: frozenset[str]
    """Names of the tasks it can do."""

    def build(self, config: SystemConfig) -> VisionLanguageModel:
        """Build the model with fresh weights (drawn from torch's global generator)."""
        ...

    def toy_config(self) -> SystemConfig:
        """Return a configuration that trains in a moment, for tests."""
        ...

    def state_to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename (and reshape) our weights to the published checkpoint's keys."""
        ...

    def state_from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename (and reshape) a published checkpoint's weights to ours."""
        ...

    def published_names(self, names: Iterable[str]) -> dict[str, str]:
        """Return parameter name -> published name, for those that have one (of experts the first one's).

        Raises:
            UsageError: the system was never published.
        """
        ...
