"""How well a pre-trained SOHO finds what is hidden in a split, and how its dictionary is used."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.errors import DataError
from diptych.objectives.mlm import mlm_loss
from diptych.systems.soho.masking import Shown, hide_visual_words, show
from diptych.systems.soho.patches import NearestPatches, watched
from diptych.systems.task import EvalData, Evaluation

if TYPE_CHECKING:
    from diptych.systems.soho.pretrain import Scores, SohoPretrainTask

SEED = 0
"""Decides what is hidden, so that figures of one model repeat."""


class _Tally:
    """What was found so far."""

    def __init__(self, codes: int) -> None:
        self.words: Counter[int] = Counter()
        self.visual: Counter[int] = Counter()
        self.right_words = self.right_visual = self.right_matches = self.matching = 0
        self.nats = 0.0
        self.usage = torch.zeros(codes, dtype=torch.int64)
        self.rows: list[dict[str, Any]] = []

    def add(self, keys: list[str], scores: "Scores", shown: Shown, words: Tensor) -> None:
        right = scores.text.argmax(1) == scores.text_targets
        matches = scores.match.argmax(1) == shown.matching
        self.words.update(scores.text_targets.tolist())
        self.visual.update(scores.visual_targets.tolist())
        self.nats += float(mlm_loss(scores.text, scores.text_targets)) * len(scores.text_targets)
        self.right_words += int(right.sum())
        self.right_visual += int((scores.visual.argmax(1) == scores.visual_targets).sum())
        self.right_matches += int(matches.sum())
        self.matching += int(shown.matching.sum())
        if len(self.usage):
            self.usage += torch.bincount(words[words >= 0], minlength=len(self.usage)).cpu()
        told = zip(keys, shown.matching.tolist(), matches.tolist(), strict=True)
        self.rows += [{"key": key, "matching": bool(m), "matched_rightly": r} for key, m, r in told]

    def _dictionary(self) -> dict[str, Any]:
        if not len(self.usage):
            return {}
        shares = self.usage.double() / self.usage.sum().clamp(min=1)
        entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
        return {
            "visual_words_used": int((self.usage > 0).sum()),
            "visual_words_perplexity": float(entropy.exp()),
        }

    def metrics(self) -> dict[str, Any]:
        rows, hidden, visual = len(self.rows), sum(self.words.values()), sum(self.visual.values())
        return {
            "samples": rows,
            "masked_tokens": hidden,
            "masked_token_accuracy": self.right_words / max(hidden, 1),
            "masked_token_loss": self.nats / max(hidden, 1),
            "masked_visual_tokens": visual,
            "masked_visual_accuracy": self.right_visual / max(visual, 1),
            "matching_accuracy": self.right_matches / max(rows, 1),
            **self._dictionary(),
            "baseline": {
                "masked_token_accuracy": max(self.words.values(), default=0) / max(hidden, 1),
                "masked_visual_accuracy": max(self.visual.values(), default=0) / max(visual, 1),
                "matching_accuracy": max(self.matching, rows - self.matching) / max(rows, 1),
            },
        }


@torch.no_grad()
def evaluate_pretraining(
    task: "SohoPretrainTask", data: EvalData, progress: Callable[[str, int, int], None]
) -> Evaluation:
    """Return accuracies on hidden words, hidden visual words and matching, with blind guesses beside them.

    Every picture is shown with its first caption, or in half of the cases with that of another picture of its
    batch. What is hidden depends on a fixed seed and the sample's position. `visual_words_perplexity`: how
    many entries of the dictionary the split's pictures use, as e to the entropy of their shares. The file
    visual_words.json has how often each was used, and of the most used ones the patches that are nearest to
    them. Blind guesses: the most frequent hidden word, visual word, and verdict.
    """
    training, model = task.training, task.model
    task.eval()
    codes = 0 if model.config.neck == "plain" else len(model.neck.dictionary.codes)
    tally, nearest = _Tally(codes), NearestPatches(codes, model.config.cell)
    with watched(model) if codes else nullcontext() as seen:
        for batch in data.batches():
            ids, mask = _texts(task, batch)
            draws = Draws(SEED, batch.positions)
            shown = show(ids, mask, batch.match_ids.to(ids.device), task.tokenizer, task.config, draws)

            def hide(words: Tensor, draws: Draws = draws) -> Tensor:
                return hide_visual_words(words, 1, task.config, draws)

            pixels = task.pixels(batch)
            sizes = None if batch.image_sizes is None else batch.image_sizes.to(ids.device)
            read = task.read(pixels, sizes, shown, hide)
            tally.add(batch.keys, task.score(read, shown), shown, read.words)
            if seen is not None:
                every = torch.tensor([pixels.shape[2:]] * len(pixels)) if sizes is None else sizes
                nearest.add(batch.keys, read.words, seen.distances.view_as(read.words), seen.columns, every)
            progress("read", len(tally.rows), data.size)
    task.train(training)
    metrics = {"task": task.name, "dataset": data.dataset, "split": data.split} | tally.metrics()
    if not codes:
        return Evaluation(metrics, tally.rows)
    told = {"cell": nearest.cell, "usage": tally.usage.tolist(), "words": nearest.told(tally.usage)}
    return Evaluation(metrics, tally.rows, {"visual_words": told})


def _texts(task: "SohoPretrainTask", batch: Batch) -> tuple[Tensor, Tensor]:
    """Return ids and mask [B, 1, L] of the first caption of each picture."""
    assert batch.images is not None
    if batch.captions is None or not all(batch.captions):
        raise DataError("SOHO's pre-training is evaluated on pictures with captions, but some have none")
    first = [captions[0] for captions in batch.captions]
    longest = max(len(task.tokenizer.sequence(text, task.model.text_spec.max_tokens)) for text in first)
    ids, mask = task.tokenizer.encode(first, longest)
    device = task.itm.weight.device
    return ids.to(device)[:, None], mask.to(device)[:, None]
