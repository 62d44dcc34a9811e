"""How well a pre-trained SNP-S3 finds hidden words in a split, and tells which texts belong to its clips."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from diptych.blocks.collective import ALONE
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.errors import DataError
from diptych.objectives.matching import IGNORED as UNMATCHED
from diptych.objectives.mlm import mlm_loss
from diptych.systems.snps3.objectives import IGNORED, Parts, Wanted, pretraining_losses
from diptych.systems.task import EvalData, Evaluation

if TYPE_CHECKING:
    from diptych.systems.snps3.pretrain import SnpS3PretrainTask

SEED = 0
"""Decides what is hidden, so that figures of one model repeat."""
_WORDS = {"mlm": "masked_token", "text_mlm": "text_only_token"}
"""Loss -> how its figures begin."""


class _Tally:
    """What was found so far."""

    def __init__(self) -> None:
        self.words: Counter[int] = Counter()
        self.right: Counter[str] = Counter()
        self.nats: dict[str, float] = {}
        self.labels: Counter[int] = Counter()
        self.matched = 0
        self.rows: list[dict[str, Any]] = []

    def add(self, keys: list[str], parts: Parts) -> None:
        assert parts.targets is not None
        asked = parts.targets != IGNORED
        targets = parts.targets[asked]
        self.words.update(targets.tolist())
        rows: list[dict[str, Any]] = [{"key": key} for key in keys]
        for row, number in zip(rows, asked.sum(1).tolist(), strict=True):
            row["masked_tokens"] = number
        for name, figure in _WORDS.items():
            if name in parts.logits:
                right = torch.zeros_like(asked)
                right[asked] = parts.logits[name].argmax(1) == targets
                self.right[name] += int(right.sum())
                nats = float(mlm_loss(parts.logits[name], targets)) * len(targets)
                self.nats[name] = self.nats.get(name, 0.0) + nats
                for row, number in zip(rows, right.sum(1).tolist(), strict=True):
                    row[f"right_{figure}s"] = number
        if parts.labels is not None:
            self._match(rows, parts)
        self.rows += rows

    def _match(self, rows: list[dict[str, Any]], parts: Parts) -> None:
        assert parts.labels is not None
        right = parts.logits["itm"].argmax(1) == parts.labels
        counted = parts.labels != UNMATCHED
        self.labels.update(parts.labels[counted].tolist())
        self.matched += int((right & counted).sum())
        pairs = zip(*(part.view(2, -1).t().tolist() for part in (right, counted)), strict=True)
        for row, ((own, other), (_, there)) in zip(rows, pairs, strict=True):
            row |= {"own_text_matched": own, "wrong_text_refused": other if there else None}

    def metrics(self) -> dict[str, Any]:
        hidden, pairs = sum(self.words.values()), sum(self.labels.values())
        found: dict[str, Any] = {"samples": len(self.rows), "masked_tokens": hidden}
        blind: dict[str, float] = {}
        for name, figure in _WORDS.items():
            if name in self.nats:
                found[f"{figure}_accuracy"] = self.right[name] / max(hidden, 1)
                found[f"{figure}_loss"] = self.nats[name] / max(hidden, 1)
        if self.words:
            blind["masked_token_accuracy"] = max(self.words.values()) / hidden
        if pairs:
            found["matching_pairs"] = pairs
            found["matching_accuracy"] = self.matched / pairs
            blind["matching_accuracy"] = max(self.labels.values()) / pairs
        return {**found, "baseline": blind}


@torch.no_grad()
def evaluate_pretraining(
    task: "SnpS3PretrainTask", data: EvalData, progress: Callable[[str, int, int], None]
) -> Evaluation:
    """Return accuracies on hidden words and matching, with blind guesses beside them.

    Every clip is read with its first caption, words hidden as `task.masking` says, and with a caption of
    another clip of its batch. `masked_token_*`: words found with the clip; `text_only_token_*`: by the text
    network alone, from the same texts (with `task.text_mlm` = published from texts that show them).
    `matching_accuracy`: of right and wrong pairs. What is hidden depends on a fixed seed and the sample's
    position. Blind guesses: always the most frequent hidden word; always the more frequent verdict.

    Raises:
        DataError: samples without captions.
        UsageError: the task was trained without these losses.
    """
    training = task.training
    task.eval()
    on = task.wanted
    wanted = Wanted(on.losses & {"mlm", "text_mlm", "itm"}, 0, on.text_hidden)
    tally = _Tally()
    for batch in data.batches():
        whole = _with_texts(task, batch)
        assert whole.text_ids is not None
        assert whole.text_mask is not None
        draws = Draws(SEED, batch.positions)
        texts = task.hider.hide(whole.text_ids, whole.text_mask, draws, training=False)
        given = task.give(whole, texts, None, draws, ALONE)
        tally.add(batch.keys, pretraining_losses(task.model, task.heads, given, wanted, training=False))
        progress("read", len(tally.rows), data.size)
    task.train(training)
    metrics = {"task": task.name, "dataset": data.dataset, "split": data.split} | tally.metrics()
    return Evaluation(metrics, tally.rows)


def _with_texts(task: "SnpS3PretrainTask", batch: Batch) -> Batch:
    """Return a batch on the model's device with the first caption of each clip as its text."""
    device = task.model.text.words.weight.device
    if batch.captions is None or not all(batch.captions):
        raise DataError("SNP-S3's pre-training is evaluated on clips with captions, but some have none")
    first = [captions[0] for captions in batch.captions]
    longest = max(len(task.tokenizer.sequence(text, task.model.text_spec.max_tokens)) for text in first)
    ids, mask = task.tokenizer.encode(first, longest)
    return replace(batch.to(device), text_ids=ids.to(device), text_mask=mask.to(device))
