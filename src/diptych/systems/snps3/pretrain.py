"""Pre-training of SNP-S3: hidden words, matching, contrast on two levels, words against clips.

Legend: B samples, N frames, L text tokens, W words.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from diptych.blocks.collective import Joiner, World
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.image import normalise
from diptych.data.significant import Words
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.matching import MatchingHead, itm_accuracy
from diptych.objectives.milnce import diagonal_ranks
from diptych.objectives.mlm import MaskedTextHead, mlm_accuracy
from diptych.objectives.pair_scores import PairScorer
from diptych.objectives.pictures import blank_outside
from diptych.systems.protocol import VisionLanguageModel
from diptych.systems.snps3.heads import Momentum
from diptych.systems.snps3.hiding import Hider, Texts, choose_guided, draw_false, hide_attended
from diptych.systems.snps3.model import SnpS3Model
from diptych.systems.snps3.objectives import IGNORED, Given, Heads, Parts, Wanted, pretraining_losses
from diptych.systems.snps3.pretrain_config import SnpS3PretrainConfig
from diptych.systems.snps3.words import ASSET, missing, read_asset, words_of
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig

if TYPE_CHECKING:
    from diptych.data.selection import Selection


class SnpS3PretrainTask(Task):
    """All objectives on every sample, a clip with one text; each can be switched off.

    Copies and queues of the first level are part of the weights: checkpoints and exports hold them.
    """

    name: ClassVar[str] = "snps3_pretrain"
    config_class: ClassVar[type[TaskConfig]] = SnpS3PretrainConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"images", "text_ids", "text_mask"})
    config: SnpS3PretrainConfig
    model: SnpS3Model

    def __init__(
        self,
        model: VisionLanguageModel,
        config: SnpS3PretrainConfig,
        tokenizer: Tokenizer,
        words: Mapping[str, Any] | None = None,
    ) -> None:
        """Build the heads of the losses that are on; `words` is what `words.read_asset` returned."""
        if not isinstance(model, SnpS3Model):
            raise UsageError(f"task snps3_pretrain needs the system snps3, got {type(model).__name__}")
        super().__init__(model, config, tokenizer)
        self._asset = dict(words or {})
        known: Words | None = None
        if config.needs_words:
            if not words:
                raise missing()
            known = words_of(words, tokenizer.vocabulary(), config.words_top)
        self.hider = Hider(config, tokenizer, known)
        on, vocab = config.weights, model.text_spec.vocab_size
        self.match = PairScorer(model.width, config.head_dropout) if "level2" in on else None
        self.mlm = MaskedTextHead(model.width, vocab) if "mlm" in on else None
        self.text_mlm = MaskedTextHead(model.width, vocab) if "text_mlm" in on else None
        self.itm = MatchingHead(model.width) if "itm" in on else None
        self.moco: Momentum | None = None
        if "level1" in on and config.level1 == "queue":
            self.moco = Momentum(model, config.queue, config.momentum, config.temperature, config.queue_wrap)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return the capabilities it uses."""
        return frozenset({"embed_visual", "encode_text", "fuse"})

    @classmethod
    def find_assets(
        cls, config: TaskConfig, sources: "Sequence[tuple[str, Selection]]", init: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the significant words: of the files that are named, or of the model that it starts from.

        Raises:
            DataError: a file cannot be read or has another form.
            UsageError: they are needed, and nothing tells them.
        """
        assert isinstance(config, SnpS3PretrainConfig)
        if config.words:
            return {ASSET: read_asset(config.words, config.forms)}
        if not config.needs_words:
            return {}
        if ASSET not in init:
            raise missing()
        return {ASSET: init[ASSET]}

    @classmethod
    def create(
        cls, model: VisionLanguageModel, config: TaskConfig, tokenizer: Tokenizer, assets: Mapping[str, Any]
    ) -> Self:
        """Build the task with the significant words among `assets`."""
        assert isinstance(config, SnpS3PretrainConfig)
        return cls(model, config, tokenizer, assets.get(ASSET))

    def assets(self) -> dict[str, Any]:
        """Return the significant words."""
        return {ASSET: self._asset} if self._asset else {}

    @property
    def heads(self) -> Heads:
        """The heads that there are."""
        return Heads(self.match, self.mlm, self.text_mlm, self.itm, self.moco)

    @property
    def wanted(self) -> Wanted:
        """The losses that are on."""
        config = self.config
        return Wanted(frozenset(config.weights), config.level2_group, config.text_mlm == "hidden")

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the weighted sum of the parts that are on.

        They are called `level1`, `level2`, `mlm`, `text_mlm`, `itm`, `lvwm_before` and `lvwm_after`.

        Raises:
            UsageError: the ranks hold parts of the weights.
        """
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        if any(isinstance(parameter, DTensor) for parameter in self.parameters()):
            # How often layers run depends on a rank's samples, and ranks that share weights must do the same.
            raise UsageError(
                "task snps3_pretrain needs whole weights on every rank; set train.parallel=ddp (the default)"
            )
        if self.moco is not None and context.step == 0:
            # By now the encoders are what training starts from.
            self.moco.start(self.model)
        texts = self.hider.hide(batch.text_ids, batch.text_mask.bool(), context.draws)
        guided = self._guided(texts, context)
        given = self.give(batch, texts, guided, context.draws, context.world)
        parts = pretraining_losses(
            self.model, self.heads, given, self.wanted, context.world, training=self.training
        )
        weighted = {name: self.config.weights[name] * value for name, value in parts.losses.items()}
        metrics = self._metrics(parts, context.world)
        return Loss(torch.stack(list(weighted.values())).sum(), weighted, metrics)

    def give(
        self,
        batch: Batch,
        texts: Texts,
        guided: tuple[Tensor, Tensor] | None,
        draws: Draws,
        world: World,
    ) -> Given:
        """Put clips, texts and a wrong text for each clip together.

        Args:
            batch: with the clips.
            texts: of the batch, with words hidden.
            guided: ids and targets that take their place for the word losses and matching.
            draws: of the samples.
            world: the ranks, from all of whose texts wrong ones are drawn.
        """
        device = texts.raw.device
        shown = texts.raw
        if self.config.itm_texts == "hidden":
            shown = texts.shown if guided is None else guided[0]
        join = Joiner(world, len(shown), device)
        false, false_mask, there = draw_false(shown, texts.mask, batch.match_ids.to(device), draws, join)
        frames, padding = self.frames(batch)
        return Given(
            frames=frames,
            raw=texts.raw,
            mask=texts.mask,
            shown=texts.shown,
            targets=texts.targets,
            false=false,
            false_mask=false_mask,
            words=texts.words,
            padding=padding,
            guided=guided,
            false_there=there,
        )

    def frames(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return normalised frames [B, N, 3, H, W], and which pixels are padding [B, N, H, W] if any are.

        A picture is a clip of one frame; frames that repeat one count as what they show.

        Raises:
            UsageError: clips of more frames than the model is made for.
        """
        assert batch.images is not None
        images = batch.images if batch.images.dim() == 5 else batch.images[:, None]
        B, N = images.shape[:2]
        if self.model.config.frames < N:
            raise UsageError(
                f"data.video.frames = {N}, but system.frames = {self.model.config.frames}; set them to the "
                "same number"
            )
        pixels = normalise(images.flatten(0, 1), self.model.image_spec)
        pixels = pixels.view(B, N, *pixels.shape[1:])
        if batch.image_sizes is None:
            return pixels, None
        sizes = batch.image_sizes.to(pixels.device)
        each = sizes if sizes.dim() == 3 else sizes[:, None].expand(-1, N, -1)
        return blank_outside(pixels, each), self.model.padded(pixels, each)

    def _guided(self, texts: Texts, context: StepContext) -> tuple[Tensor, Tensor] | None:
        """Hide the words that get most attention, in some samples; None: in none of them."""
        draws = context.draws
        chosen = choose_guided(self.config, draws, context.step).to(texts.raw.device)
        uniform = draws.rand(texts.raw.shape[1]).to(texts.raw.device)
        if not bool(chosen.any()):
            return None
        raw, mask = texts.raw[chosen], texts.mask[chosen]
        tokenizer = self.tokenizer
        specials = torch.tensor([tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id], device=raw.device)
        ids, targets = hide_attended(
            raw,
            mask & ~torch.isin(raw, specials),
            self.model.word_importance(raw, mask),
            tokenizer.mask_id,
            self.config.text_mask_ratio,
            uniform[chosen],
        )
        shown, wanted = texts.shown.clone(), texts.targets.clone()
        shown[chosen], wanted[chosen] = ids, targets
        return shown, wanted

    def _metrics(self, parts: Parts, world: World) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        assert parts.targets is not None
        asked = parts.targets[parts.targets != IGNORED]
        for name in ("mlm", "text_mlm"):
            if name in parts.logits:
                found[f"{name}_accuracy"] = mlm_accuracy(parts.logits[name], asked, world)
        if parts.labels is not None:
            found["itm_accuracy"] = itm_accuracy(parts.logits["itm"], parts.labels, world)
        for name, blocks in parts.scores.items():
            # How many texts find their own clip: among all ranks' clips, or in their group.
            right = torch.cat([diagonal_ranks(block) == 0 for block in blocks]).float()
            found[f"{name}_accuracy"] = world.mean(right.sum(), len(right))
        if self.moco is not None:
            queue = self.moco.text_queue
            found["queue_filled"] = queue.filled.float() / len(queue.ids)
        return found

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Measure how well hidden words are found, and texts matched with clips, on a split."""
        from diptych.systems.snps3.pretrain_evaluation import evaluate_pretraining

        return evaluate_pretraining(self, data, progress)
