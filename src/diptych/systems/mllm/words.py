"""Pictures in the language model's own words: a first stage that does not run the language model. Ours.

Tokens of pictures are pulled to the vectors that the language model has for the words of their captions, so
that the second stage starts from pictures that can be read. A step costs a hundredth of one through the
language model.

Legend: B pictures, P tokens of a picture, W words of a batch, D width of the language model.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.chat import ChatTokenizer
from diptych.data.text import Tokenizer
from diptych.errors import ConfigError, DataError
from diptych.systems.mllm.model import MllmModel
from diptych.systems.protocol import VisionLanguageModel
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig


class WordsConfig(TaskConfig):
    """Settings of the first stage."""

    name: Literal["mllm_words"] = "mllm_words"
    temperature: float = Field(0.05, gt=0, description="Cosines are divided by it.")
    length_weight: float = Field(
        0.1, ge=0, description="Weight of making tokens of pictures as long as those of words."
    )


class WordsTask(Task):
    """Contrast between pictures and words: a word's nearest token of a picture that has it, or has not."""

    name: ClassVar[str] = "mllm_words"
    config_class: ClassVar[type[TaskConfig]] = WordsConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"images"})
    config: WordsConfig
    tokenizer: ChatTokenizer

    def __init__(self, model: VisionLanguageModel, config: WordsConfig, tokenizer: Tokenizer) -> None:
        chat = tokenizer if isinstance(tokenizer, ChatTokenizer) else ChatTokenizer.around(tokenizer)
        super().__init__(model, config, chat)
        self._middle: Tensor | None = None

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return `converse`."""
        return frozenset({"converse"})

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the mean of both directions (part `words`) and the penalty on lengths (part `length`)."""
        assert batch.images is not None  # the engine checks `batch_fields`
        network = cast(MllmModel, self.model)
        if batch.images.ndim != 4 or network.config.tiling.kind != "none":
            raise ConfigError(
                "task mllm_words: takes one picture a sample, uncut (system.tiling.kind = none)"
            )
        views = batch.images
        tokens = network.see(views, [(1, 1)] * len(views)).view(len(views), -1, network.width).float()
        words, there = self._words(batch)
        table = network.language.embed(words).detach().float()
        middle = self._middle_word(network, words.device)
        cosines = F.normalize(tokens - middle, dim=-1) @ F.normalize(table - middle, dim=-1).T
        scores = cosines.amax(1) / self.config.temperature
        usual = (table - middle).norm(dim=-1).mean()
        length = ((tokens - middle).norm(dim=-1) / usual - 1).square().mean()
        parts = {
            "words": (_against(scores, there) + _against(scores.T, there.T)) / 2,
            "length": self.config.length_weight * length,
        }
        found = scores.masked_fill(there, float("-inf")).amax(1, keepdim=True)
        right = ((scores > found) & there).sum() / there.sum().clamp(min=1)
        return Loss(torch.stack(list(parts.values())).sum(), parts, {"words_found": right})

    def _middle_word(self, network: MllmModel, device: torch.device) -> Tensor:
        """Return the mean of all words' vectors, [D]: what they have in common tells none from another."""
        if self._middle is None:
            every = network.language.embed(torch.arange(network.language.vocab_size, device=device))
            self._middle = every.detach().float().mean(0)
        return self._middle

    def _words(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the tokens [W] of words that some captions of the batch have, but not all; which, [B, W]."""
        assert batch.images is not None
        texts = batch.texts or [""] * len(batch)
        sets = [set(self.tokenizer.tokens(f" {text}")) for text in texts]
        every: set[int] = set().union(*sets)
        words = sorted(every.difference(sets[0].intersection(*sets)))
        if not words:
            raise DataError("task mllm_words: the captions of a batch have the same words, or none")
        there = torch.tensor([[word in own for word in words] for own in sets])
        return torch.tensor(words).to(batch.images.device), there.to(batch.images.device)

    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Measure how many words of captions are nearer to their picture than all words that it has not."""
        found: list[float] = []
        none: Any = StepContext(0, 0.0, None)  # type: ignore[arg-type]  # nothing is drawn
        with torch.no_grad():
            for batch in data.batches():
                device = next(self.parameters()).device
                loss = self.compute_loss(batch.to(device), none)
                found += [float(loss.metrics["words_found"])] * len(batch)
                progress("pictures", len(found), data.size)
        share = sum(found) / max(len(found), 1)
        metrics = {
            "task": self.name,
            "dataset": data.dataset,
            "split": data.split,
            "headline": "words_found",
            "words_found": share,
        }
        return Evaluation(metrics, [])


def _against(scores: Tensor, there: Tensor) -> Tensor:
    """Return the mean over pairs that belong together of their loss against all of their row that do not."""
    others = scores.masked_fill(there, float("-inf")).logsumexp(1, keepdim=True)
    losses = torch.logaddexp(scores, others) - scores
    return losses[there & others.isfinite()].mean()
