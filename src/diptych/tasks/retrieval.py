"""Image-text retrieval: find the text of a picture and the picture of a text.

Training is the published recipe of EVE: contrastive loss with soft labels by match id, matching loss on hard
negatives, routing balance loss. Any system that encodes both modalities can do it; matching needs `fuse` too.

Legend: B samples of this rank, M texts of them (M = B, or the distinct ones), P image tokens, L text tokens,
D width.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from diptych.blocks.collective import ALONE, Joiner, World
from diptych.data.batch import Batch
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.objectives.contrastive import ContrastiveHead, contrast, contrast_pictures
from diptych.objectives.matching import (
    MatchingHead,
    Pairs,
    draw_hard_negatives,
    itm_accuracy,
    itm_loss,
    matching_passes,
)
from diptych.systems.protocol import Encoded, Fused, VisionLanguageModel
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, TaskConfig
from diptych.tasks.fused import visible_text
from diptych.tasks.retrieval_base import RankingTask
from diptych.tasks.retrieval_batch import BatchTexts, batch_texts, join_texts
from diptych.tasks.retrieval_config import RetrievalConfig
from diptych.tasks.retrieval_ranking import evaluate_retrieval


class LikelihoodPairs:
    """What a contrastive head is for other models: pictures and texts have features in one space already."""

    def __init__(self, model: VisionLanguageModel) -> None:
        self._model = model

    def project_visual(self, pooled: Tensor) -> Tensor:
        """Return unit vectors [N, D] as they are."""
        return pooled

    def project_text(self, pooled: Tensor) -> Tensor:
        """Return unit vectors [N, D] as they are."""
        return pooled

    def current_temperature(self) -> Tensor:
        """Return the model's own temperature of retrieval (scalar)."""
        return self._model.temperature("retrieve")


class RetrievalTask(RankingTask):
    """Contrastive and matching fine-tuning, and evaluation with re-ranking."""

    name: ClassVar[str] = "retrieval"
    config_class: ClassVar[type[TaskConfig]] = RetrievalConfig
    config: RetrievalConfig

    def __init__(self, model: VisionLanguageModel, config: RetrievalConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.itc: ContrastiveHead | LikelihoodPairs
        if "likelihood" in model.capabilities:
            self.itc = LikelihoodPairs(model)
        else:
            self.itc = ContrastiveHead(
                model.width, config.itc_dim, config.temperature, config.temperature_bounds, config.itc_init
            )
        self.itm = MatchingHead(model.width) if config.matching else None

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return the capabilities it uses: both encoders, and `fuse` for matching."""
        both = frozenset({"encode_visual", "encode_text"})
        return both | {"fuse"} if isinstance(config, RetrievalConfig) and config.matching else both

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return contrastive + matching + routing loss; parts `itc`, `itm`, `image_contrast`, `routing`.

        Contrastive candidates are those of all ranks.
        """
        config, world = self.config, context.world
        assert batch.images is not None  # the engine checks `batch_fields`
        assert batch.text_ids is not None
        assert batch.text_mask is not None
        texts = batch_texts(batch.text_ids, batch.text_mask, batch.match_ids, distinct=config.distinct_texts)
        ids, mask = visible_text(texts.ids, texts.mask, self.tokenizer, config.blind)
        texts = replace(texts, ids=ids, mask=mask)
        visual = self.embed(batch.images)
        encoded_images = self.model.encode_visual(visual)
        encoded_texts = self.model.encode_text(texts.ids, texts.mask)
        temperature = self.itc.current_temperature()
        seen = self.itc.project_visual(encoded_images.pooled)
        read = self.itc.project_text(encoded_texts.pooled)
        join = Joiner(world, len(batch), seen.device)
        limit = self.model.text_spec.max_tokens
        candidates, relation = join_texts(texts, read, join, limit, soft=config.soft_labels)
        smoothing, chunk = config.label_smoothing, config.itc_chunk
        itc, accuracy = contrast(
            seen, candidates, temperature, relation, world=world, label_smoothing=smoothing, chunk=chunk
        )
        parts = {"itc": itc}
        metrics = {"temperature": temperature.detach().clone(), "itc_accuracy": accuracy}
        if config.image_contrast:
            smooth = temperature.detach().clamp(min=config.image_contrast_temperature)
            among = contrast_pictures(seen, smooth, batch.match_ids, join, chunk)
            parts["image_contrast"] = config.image_contrast * among
        balance = [encoded_images.aux.get("routing"), encoded_texts.aux.get("routing")]
        if self.itm is not None and context.progress >= config.itm_from:
            passes = self.draw_passes((seen, read), temperature, texts, context)
            loss, accuracy, routing = self.matching_step(visual, texts, passes, world)
            parts["itm"], metrics["itm_accuracy"] = config.itm_weight * loss, accuracy
            balance += routing
        routed = [value for value in balance if value is not None]
        if routed:
            parts["routing"] = config.gate_weight * torch.stack(routed).mean()
        return Loss(torch.stack(list(parts.values())).sum(), parts, metrics)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def reads_pairs(self) -> bool:
        """Whether it has a matching head."""
        return self.itm is not None

    @property
    def published_batches(self) -> bool:
        """Whether a query with its candidates is one batch."""
        return self.config.rerank_batching == "queries"

    def draw_passes(
        self, features: tuple[Tensor, Tensor], temperature: Tensor, texts: BatchTexts, context: StepContext
    ) -> list[Pairs]:
        """Draw the samples that matching is trained on and their negatives; the published three passes.

        Everything comes from this rank's part of the batch, whose pictures are there.

        Args:
            features: of its pictures [B, D] and texts [M, D], unit vectors.
            temperature: scalar.
            texts: its texts.
            context: its draws, and the ranks that share `itm_batch`.
        """
        draws, device = context.draws, texts.of_sample.device
        images = torch.arange(len(texts.of_sample), device=device)
        if 0 < context.world.share(self.config.itm_batch) < len(images):
            images, draws = draws.some(context.world.share(self.config.itm_batch))
            images = images.to(device)
        own = texts.of_sample[images]
        negatives = draw_hard_negatives(
            features,
            temperature,
            texts.relation(soft=True),
            draws,
            images=images,
            texts=own,
            floor=self.config.itm_negative_floor,
        )
        return matching_passes(images, own, negatives)

    def matching_step(
        self, visual: Tensor, texts: BatchTexts, passes: list[Pairs], world: World = ALONE
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Return matching loss, accuracy and the balance loss of each published pass.

        A joint pass has one balance loss, over the tokens of all three; it is counted three times so that its
        weight against the single-modality passes stays as published.
        """
        assert self.itm is not None
        if self.config.itm_passes == "joint":
            joined = [torch.cat([getattr(p, name) for p in passes]) for name in ("images", "texts", "labels")]
            repeat, passes = len(passes), [Pairs(*joined)]
        else:
            repeat = 1
        fused = [self.model.fuse(visual[p.images], texts.ids[p.texts], texts.mask[p.texts]) for p in passes]
        logits = torch.cat([self.itm(f.pooled) for f in fused])
        labels = torch.cat([p.labels for p in passes])
        routing = [f.aux.get("routing") for f in fused for _ in range(repeat)]
        return itm_loss(logits, labels, world), itm_accuracy(logits, labels, world), routing

    def evaluation_token(self, encoded: Encoded) -> Tensor:
        """Return the pooled tokens [B, D] that evaluation projects, by `eval_final_norm`."""
        if self.config.eval_final_norm or isinstance(self.itc, LikelihoodPairs):
            return encoded.pooled
        if encoded.pooled_raw is None:
            raise UsageError(
                f"task.eval_final_norm: {type(self.model).__name__} gives no token without final "
                "normalisation; set task.eval_final_norm=true"
            )
        return encoded.pooled_raw

    def picture_features(self, encoded: Encoded) -> Tensor:
        """Project encoded pictures to unit vectors [B, D]."""
        return self.itc.project_visual(self.evaluation_token(encoded))

    def text_features(self, encoded: Encoded) -> Tensor:
        """Project encoded texts to unit vectors [B, D]."""
        return self.itc.project_text(self.evaluation_token(encoded))

    def pair_scores(self, fused: Fused, similarity: Tensor) -> Tensor:
        """Score pairs [K] by the matching head, as `rerank_score` says."""
        assert self.itm is not None
        logits = self.itm(fused.pooled).float()
        score: Tensor = logits[:, 1] if self.config.rerank_score == "itm" else logits[:, 1] - logits[:, 0]
        score = score.cpu()
        if self.config.rerank_score != "sum":
            return score
        return self.config.rerank_weight * score + 1 / self.itc.current_temperature().item() * similarity

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Rank all texts for each picture and all pictures for each text of a split."""
        return evaluate_retrieval(self, data, progress)
