"""The Uni-Perceiver model: one encoder for inputs and targets, and the likelihood of one given the other.

Legend: B batch, P visual tokens, L text tokens, S sequence, C targets, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.errors import UsageError
from diptych.systems.protocol import (
    Encoded,
    Fused,
    ImageSpec,
    TargetKind,
    TargetRows,
    TextSpec,
    VisionLanguageModel,
    Visual,
    Writing,
    Written,
    tokens_of,
)
from diptych.systems.uniperceiver.attributes import INPUTS, TARGETS, attributes
from diptych.systems.uniperceiver.captions import caption_states, write
from diptych.systems.uniperceiver.config import UniPerceiverConfig
from diptych.systems.uniperceiver.embed import PatchEmbedding, WordEmbedding, fit_tables
from diptych.systems.uniperceiver.layers import PLAIN, Layer, Sequences
from diptych.systems.uniperceiver.packed import Packing

TEMPERATURES = (
    "img_cls",
    "video_cls",
    "text_mlm",
    "text_caption",
    "caption",
    "mlm",
    "retrieve",
    "tqa_mlm",
    "tqa_caption",
    "tqa_retrieve",
    "downstream",
)
"""Tasks with a temperature of their own; all published models have all of them."""
HIGHEST = 100.0
"""Largest factor on cosines; above it, it is a constant."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of pictures, in 0..1; clips have 0.5 throughout (published)."""


class Likelihood(nn.Module):
    """Cosines of projected first tokens, times a factor that each task has of its own."""

    def __init__(self, config: UniPerceiverConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.width)
        start = torch.tensor(1 / config.temperature).log()
        self.fixed = None if config.learn_temperatures else 1 / config.temperature
        self.scales = nn.ParameterDict()
        if config.learn_temperatures:
            self.scales = nn.ParameterDict({name: nn.Parameter(start.clone()) for name in TEMPERATURES})

    def features(self, states: Tensor) -> Tensor:
        """Project states [..., D]."""
        out: Tensor = self.projection(self.norm(states))
        return out

    def factor(self, name: str) -> Tensor | float:
        """Return what cosines of a task are multiplied by."""
        if self.fixed is not None:
            return self.fixed
        factor = self.scales[name].exp()
        # Published: above the limit it is a constant, without a gradient to come back by.
        return factor if float(factor.detach()) <= HIGHEST else HIGHEST

    def forward(self, queries: Tensor, targets: Tensor, name: str) -> Tensor:
        """Return logits [B, C] float32 of features [B, D] and [C, D]."""
        cosines = F.normalize(queries.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).t()
        return self.factor(name) * cosines


class UniPerceiverModel(VisionLanguageModel):
    """Reads pictures, clips and texts, each alone or together, behind one start token."""

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"embed_visual", "encode_visual", "encode_text", "fuse", "generate", "likelihood"}
    )
    aligned: ClassVar[bool] = True

    def __init__(self, config: UniPerceiverConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.heads = config.width, config.heads
        self.image_spec = ImageSpec(
            config.image_size,
            MEAN,
            STD,
            tokens=config.side**2,
            frames=config.max_frames,
            of_clips=ImageSpec(config.image_size),
        )
        self.text_spec = TextSpec(config.max_text_tokens, config.vocab_size)
        self.text = WordEmbedding(config)
        self.visual = PatchEmbedding(config, self.text.norm)
        self.layers = nn.ModuleList(Layer(config, number) for number in range(config.layers))
        self.likelihood = Likelihood(config)
        prompts = config.prompts
        self.shallow_prompt = _learned(prompts.shallow, config.width)
        self.shallow_target_prompt = _learned(prompts.shallow_targets, config.width)
        self.label_prompt: nn.Parameter | None = None
        if prompts.labels:
            self.label_prompt = nn.Parameter(torch.zeros(prompts.labels, 1, config.width))
        self.classifier: nn.Linear | None = None
        if prompts.classes:
            self.classifier = nn.Linear(config.width, prompts.classes)
            nn.init.zeros_(self.classifier.weight)
            nn.init.zeros_(self.classifier.bias)
            self.similarity = nn.Parameter(torch.ones(()))
        for module in (*self.layers.modules(), self.likelihood.projection):
            if isinstance(module, nn.Linear):
                _draw(module)

    def assemble(self, parts: Sequence[Tensor], *, is_target: bool = False) -> Tensor:
        """Join embedded parts [B, ., D] behind a start token, and prompts if any, [B, S, D]."""
        B = len(parts[0])
        front = [prompt.expand(B, -1, -1) for prompt in self._shallow(is_target)]
        return torch.cat([self.text.start(B), *front, *parts], 1)

    def _shallow(self, is_target: bool) -> list[Tensor]:
        """Return the learned tokens [n, D] behind the start token, as a list of one or none."""
        own = self.shallow_target_prompt if is_target else None
        found = self.shallow_prompt if own is None else own
        return [] if found is None else [found]

    def _prompts(self, is_target: bool = False) -> int:
        """Return how many tokens of a sequence are prompts."""
        return sum(map(len, self._shallow(is_target)))

    def _bare(self, states: Tensor, is_target: bool = False) -> Tensor:
        """Take the prompts out of states [B, S, D]."""
        n = self._prompts(is_target)
        return torch.cat([states[:, :1], states[:, 1 + n :]], 1) if n else states

    def encode(self, x: Tensor, about: Sequences = PLAIN) -> Tensor:
        """Run the layers over assembled sequences [B, S, D]."""
        for layer in self.layers:
            x = layer(x, about)
        return x

    def segments(self, rows: tuple[tuple[int, ...], ...]) -> Tensor | None:
        """Return attributes [S, 8] of what a sequence consists of; None: no layer has experts."""
        if self.config.experts.layers == "none":
            return None
        return attributes(rows, self.text.words.weight.device)

    def encode_targets(
        self, ids: Tensor, padding: Tensor | None = None, attributes: Tensor | None = None
    ) -> Tensor:
        """Encode targets, one a row; returns states [C, S, D], the start token first.

        Args:
            ids: [C, L] int64.
            padding: [C, L] bool, True at padding.
            attributes: [1, 8] of the set, where experts ask.
        """
        parts = [self.text(ids)]
        if self.label_prompt is not None:
            parts.insert(0, self.label_prompt)
        x = self.assemble(parts, is_target=True)
        if padding is not None:
            padding = F.pad(padding, (x.shape[1] - ids.shape[1], 0), value=False)
        return self.encode(x, Sequences(padding, attributes=attributes, is_target=True))

    def target_features(self, rows: TargetRows, kind: TargetKind) -> Tensor:
        """Encode targets [C, D] with no padding at all: sequences of equal length lie beside each other."""
        label = self._labels(rows, kind)
        packing = Packing(rows, 1 + self._prompts(is_target=True) + (label is not None))
        words = self.text(packing.ids[None], packing.positions)[0]
        start = self.text.start(1)[0]
        parts = []
        for group, own in zip(packing.groups(), packing.words(words), strict=True):
            front = [p.expand(len(group), -1, -1) for p in (start, *self._shallow(is_target=True))]
            if label is not None:
                front.append(label[group])
            parts.append(torch.cat([*front, own], 1))
        about = Sequences(attributes=self.segments(TARGETS[kind]), is_target=True)
        if self.config.prompts.deep or self.config.prompts.deep_targets:
            states = torch.cat([self.encode(part, about)[:, 0] for part in parts])
        else:
            flat = torch.cat([part.flatten(0, 1) for part in parts])[None]
            states = self.encode(flat, replace(about, groups=packing.shapes))[0, packing.starts]
        return self.likelihood.features(states[packing.back])

    def _labels(self, rows: TargetRows, kind: TargetKind) -> Tensor | None:
        """Return the learned vector of each class, [C, 1, D]; None: there are none."""
        if self.label_prompt is None or kind != "classes":
            return None
        numbers = torch.arange(len(rows)) if rows.numbers is None else rows.numbers
        if len(numbers) and int(numbers.max()) >= len(self.label_prompt):
            raise UsageError(
                f"system.prompts.labels = {len(self.label_prompt)}, but there are {int(numbers.max()) + 1} "
                "classes or more; set it to their number"
            )
        return self.label_prompt[numbers.to(self.label_prompt.device)]

    def compare(self, states: Tensor, targets: Tensor, temperature: str) -> Tensor:
        """Return logits [B, C] of states [B, D] and features of targets [C, D], with any linear layer."""
        features = self.likelihood.features(states)
        logits: Tensor = self.likelihood(features, targets, temperature)
        if self.classifier is None:
            return logits
        if len(self.classifier.weight) != logits.shape[1]:
            raise UsageError(
                f"system.prompts.classes = {len(self.classifier.weight)}, but there are {logits.shape[1]} "
                "targets; set it to their number"
            )
        linear: Tensor = self.classifier(features)
        return self.similarity * logits + linear.float()

    def temperature(self, name: str) -> Tensor:
        """Return 1 / the factor on cosines of a task (scalar)."""
        factor = self.likelihood.factor(name)
        return torch.as_tensor(1 / factor, dtype=torch.float32, device=self.text.words.weight.device)

    def classify(self, queries: Tensor, targets: Tensor, name: str) -> Tensor:
        """Return logits [B, C] of states [B, D] and states of targets [C, D]; see `compare`."""
        return self.compare(queries, self.likelihood.features(targets), name)

    def embed_visual(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Turn normalised pictures [B, 3, H, W] or clips [B, T, 3, H, W] into [B, P, D]."""
        out: Tensor = self.visual(images)
        return out

    def _patches(self, visual: Tensor | Visual) -> Tensor:
        given = tokens_of(visual)
        return given if given.dim() == 3 else self.embed_visual(given)

    def encode_visual(self, visual: Tensor | Visual) -> Encoded:
        """Encode pictures or clips alone; `pooled_raw` is the start token, `pooled` its unit feature."""
        about = Sequences(attributes=self.segments(INPUTS["image_classification"]))
        states = self._bare(self.encode(self.assemble([self._patches(visual)]), about))
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return self._encoded(states, mask)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Encode texts [B, L] alone as targets, to be compared with pictures."""
        return self._text(ids, mask, self.segments(TARGETS["captions"]), is_target=True)

    def read_text(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Encode texts [B, L] alone as inputs."""
        return self._text(ids, mask, self.segments(INPUTS["text_mlm"]), is_target=False)

    def _text(self, ids: Tensor, mask: Tensor, segments: Tensor | None, *, is_target: bool) -> Encoded:
        full = F.pad(mask.bool(), (1 + self._prompts(is_target), 0), value=True)
        about = Sequences(~full, attributes=segments, is_target=is_target)
        states = self.encode(self.assemble([self.text(ids)], is_target=is_target), about)
        return self._encoded(self._bare(states, is_target), F.pad(mask.bool(), (1, 0), value=True))

    def _encoded(self, states: Tensor, mask: Tensor) -> Encoded:
        raw = states[:, 0]
        pooled = F.normalize(self.likelihood.features(raw).float(), dim=-1)
        return Encoded(states, pooled, mask, pooled_raw=raw, parts=pooled[:, None])

    def fuse(self, visual: Tensor | Visual, ids: Tensor, mask: Tensor) -> Fused:
        """Read pictures and texts together; the start token is `pooled`."""
        patches = self._patches(visual)
        P = patches.shape[1]
        front = 1 + self._prompts() + P
        padding = F.pad(~mask.bool(), (front, 0), value=False)
        about = Sequences(padding, attributes=self.segments(INPUTS["vqa"]), prefix=front)
        states = self._bare(self.encode(self.assemble([patches, self.text(ids)]), about))
        full = F.pad(mask.bool(), (1 + P, 0), value=True)
        return Fused(
            states[:, 1 : 1 + P], states[:, 1 + P :], states[:, 0], full[:, 1 : 1 + P], full[:, 1 + P :]
        )

    def caption_logits(
        self, visual: Tensor | Visual, ids: Tensor, mask: Tensor, words: Tensor | None, temperature: str
    ) -> Tensor:
        """Return logits [M, V] of the words of captions; `words` are features of the vocabulary."""
        assert words is not None
        states = caption_states(
            self, self._patches(visual), ids, mask, self.segments(INPUTS["image_caption"])
        )
        logits: Tensor = self.likelihood(self.likelihood.features(states), words, temperature)
        return logits

    def generate(self, visual: Tensor | Visual, words: Tensor | None, options: Writing) -> Written:
        """Write captions by beam search; `words` are features of the vocabulary."""
        assert words is not None
        return write(self, self._patches(visual), words, options, self.segments(INPUTS["image_caption"]))

    def undecayed(self) -> set[str]:
        """Return tables, gates and prompts, beside the rule for biases and norms (published)."""
        kinds = ("words", "positions", "types", "temporal")
        return {
            name
            for name, _ in self.named_parameters()
            if name.rpartition(".")[0].rpartition(".")[2] in kinds or ".gate." in name or "prompt" in name
        }

    def fsdp_units(self) -> list[nn.Module]:
        """Return the layers."""
        return list(self.layers)

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights with the tables of places fitted to this picture size and number of frames.

        Patches with a norm of their own start from that of the words, where weights have only one.
        """
        found = fit_tables(state, self.config.side, self.config.max_frames)
        for name in [n for n in found if n.endswith(("text.norm.weight", "text.norm.bias"))]:
            own = name.replace("text.norm.", "visual.norm.")
            if self.visual.norm is not None and own not in found:
                found[own] = found[name].clone()
        return found


def _learned(count: int, width: int) -> nn.Parameter | None:
    return nn.Parameter(torch.randn(count, width) * 0.02) if count else None


def _draw(module: nn.Linear) -> None:
    """Fill a linear map as published: Xavier's uniform, each third of a packed one by itself; biases 0."""
    outputs, inputs = module.weight.shape
    if outputs == 3 * inputs:
        bound = (6 / (inputs + inputs)) ** 0.5
        nn.init.uniform_(module.weight, -bound, bound)
    else:
        nn.init.xavier_uniform_(module.weight)
    nn.init.zeros_(module.bias)
