"""Uni-Perceiver's pre-training on text: hidden words are found by the likelihood of every word.

Legend: B sequences, L tokens, V words of the vocabulary.
"""

import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.text import Tokenizer
from diptych.errors import DataError
from diptych.systems.protocol import VisionLanguageModel
from diptych.systems.target_sets import Targets
from diptych.systems.task import EvalData, Evaluation, Loss, StepContext, Task, TaskConfig
from diptych.systems.uniperceiver.collate import pad_rows
from diptych.systems.uniperceiver.words import IGNORED, cut_words, fit_words, gather_words, mask_words

_TEMPERATURE = "text_mlm"
_SEED = 0
"""Of what is hidden in an evaluation."""


class WordsConfig(TaskConfig):
    """Hidden words of texts, as published for Uni-Perceiver."""

    name: Literal["uniperceiver_words"] = "uniperceiver_words"
    ratio: float = Field(0.15, gt=0, le=1, description="Share of the words that are hidden.")
    words: int = Field(128, ge=1, description="Lines are put together until they have so many words.")
    tokens: int = Field(128, ge=2, description="Length of a sequence, without the token that starts it.")
    lines: Literal["follow", "once"] = Field(
        "follow",
        description="`follow` (published): every sample starts a sequence, which those behind it in the "
        "batch fill up; `once` (ours): every sample is in one sequence only, for datasets of short texts.",
    )


class WordsTask(Task):
    """Trains and measures the prediction of hidden words."""

    name: ClassVar[str] = "uniperceiver_words"
    config_class: ClassVar[type[TaskConfig]] = WordsConfig
    batch_fields: ClassVar[frozenset[str]] = frozenset({"texts"})
    config: WordsConfig

    def __init__(self, model: VisionLanguageModel, config: WordsConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.vocabulary = Targets.of_vocabulary(tokenizer)

    @classmethod
    def needs(cls, config: TaskConfig) -> frozenset[str]:
        """Return `likelihood`."""
        return frozenset({"likelihood"})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def hide(self, texts: Sequence[str], draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Return sequences with hidden words: ids [B, L], mask [B, L] bool, labels [B, L] (-1: not asked).

        Args:
            texts: of the samples, one or several lines each; an end token stands behind each line.
            draws: of these samples; a sequence has those of its first one.
        """
        config, end = self.config, self.tokenizer.sep_id
        lines = [self._lines(text) for text in texts]
        seeds = draws.integers(2**53).tolist()
        if config.lines == "once":
            gathered = cut_words(lines, end, config.words)
        else:
            gathered = [gather_words(lines, i, end, config.words) for i in range(len(lines))]
        shown: list[list[int]] = []
        labels: list[list[int]] = []
        for words, seed in zip(gathered, seeds, strict=False):
            ids, asked = mask_words(
                words,
                Random(seed),
                slot=self.tokenizer.mask_id,
                vocabulary=self.tokenizer.vocab_size,
                ratio=config.ratio,
            )
            if len(ids) > config.tokens:
                ids, asked = fit_words(ids, asked, config.tokens)
            shown.append(ids)
            labels.append(asked)
        together, padding = pad_rows(shown)
        return together, ~padding, pad_rows(labels, IGNORED)[0]

    def _lines(self, text: str) -> list[Sequence[int]]:
        """Return the words of a text; between its lines stands the end token."""
        found: list[Sequence[int]] = []
        for number, line in enumerate(filter(None, map(str.strip, text.split("\n")))):
            found += [(self.tokenizer.sep_id,)] if number else []
            found += self.tokenizer.words(line)
        return found

    def logits(self, batch: Batch, context: StepContext) -> tuple[Tensor, Tensor]:
        """Return logits [n, V] of the hidden words, and which words they are [n]."""
        assert batch.texts is not None  # the engine checks `batch_fields`
        ids, mask, labels = (t.to(self.device) for t in self.hide(batch.texts, context.draws))
        states = self.model.read_text(ids, mask).tokens[:, -ids.shape[1] :]
        asked = labels != IGNORED
        words = self.vocabulary.features(self.model, context.world)
        return self.model.compare(states[asked], words, _TEMPERATURE), labels[asked]

    def compute_loss(self, batch: Batch, context: StepContext) -> Loss:
        """Return the cross-entropy of the hidden words; part `words`, metric `accuracy`."""
        logits, labels = self.logits(batch, context)
        total = F.cross_entropy(logits, labels, reduction="sum")
        loss = context.world.mean(total, len(labels))
        right = (logits.detach().argmax(1) == labels).float().sum()
        metrics = {"accuracy": context.world.mean(right, len(labels))}
        return Loss(loss, {"words": loss}, metrics)

    @torch.no_grad()
    def evaluate(self, data: EvalData, progress: Callable[[str, int, int], None]) -> Evaluation:
        """Hide words of a split, always the same ones, and find them.

        Raises:
            DataError: there is no word.
        """
        started, training = time.process_time(), self.training
        self.eval()
        found: list[tuple[int, float, int, int]] = []
        done = 0
        try:
            for batch in data.mine.batches():
                if len(batch):
                    draws = Draws(_SEED, batch.positions)
                    logits, labels = self.logits(batch, StepContext(0, 1.0, draws))
                    found += _judged(logits.cpu(), labels.cpu())
                done += len(batch)
                progress("texts", done, data.mine.size)
        finally:
            self.train(training)
        found = data.world.collect(found)
        if not found:
            raise DataError(f"{data.dataset}/{data.split}: no word was hidden; set a larger task.ratio")
        seconds = round(sum(data.world.collect([time.process_time() - started])), 3)
        metrics = {
            "task": self.name,
            "dataset": data.dataset,
            "split": data.split,
            **self._figures(found),
            "cpu_seconds": seconds,
        }
        return Evaluation(metrics, [self._row(row) for row in found])

    def _figures(self, found: Sequence[tuple[int, float, int, int]]) -> dict[str, Any]:
        labels = torch.tensor([row[0] for row in found])
        right = sum(row[2] == row[0] for row in found)
        loss = sum(row[1] for row in found) / len(found)
        return {
            "words": len(found),
            "scored": len(found),
            "headline": "accuracy",
            "accuracy": right / len(found),
            "loss": loss,
            "perplexity": float(torch.tensor(loss, dtype=torch.float64).exp()),
            "chance": {
                "most_frequent": int(labels.bincount().max()) / len(found),
                "random": 1 / self.tokenizer.vocab_size,
            },
        }

    def _row(self, row: tuple[int, float, int, int]) -> dict[str, Any]:
        right, loss, said, rank = row
        names = [self.tokenizer.decode([token]) or str(token) for token in (right, said)]
        return {"right": names[0], "answer": names[1], "rank": rank, "loss": loss}


def _judged(logits: Tensor, labels: Tensor) -> list[tuple[int, float, int, int]]:
    """Return word, loss, best guess and rank (1 = first) of each of [n] hidden words."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1) + 1
    columns = (labels, losses, logits.argmax(1), ranks)
    return list(zip(*(column.tolist() for column in columns), strict=True))
