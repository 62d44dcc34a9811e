"""Kinds `pretrain_eval`, `pretrain_train`, `retrieval`, `mc_qa` and `qa_classification` of SNP-S3."""

from dataclasses import replace
from typing import Any

import torch
from tests.parity.runner import Case, Comparison, exact, loss, output
from tests.parity.snps3_common import fill, frames_of, gradients, system_config, texts_of
from torch import Tensor, nn

from diptych.blocks.collective import ALONE, Joiner
from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.objectives.matching import MatchingHead
from diptych.objectives.milnce import diagonal_ranks
from diptych.objectives.mlm import MaskedTextHead
from diptych.objectives.pair_scores import PairScorer, hard_weights
from diptych.systems.snps3.heads import (
    Momentum,
    first_level,
    second_level,
)
from diptych.systems.snps3.model import SnpS3Model
from diptych.systems.snps3.objectives import IGNORED, Given, Heads, Parts, Wanted, pretraining_losses
from diptych.systems.task import StepContext
from diptych.tasks.multiple_choice import MultipleChoiceTask
from diptych.tasks.multiple_choice_config import MultipleChoiceConfig
from diptych.tasks.retrieval_levels import RULES, RetrievalLevelsTask, Seen
from diptych.tasks.retrieval_levels_config import RetrievalLevelsConfig
from diptych.tasks.vqa import VqaTask
from diptych.tasks.vqa_config import VqaConfig

MASK = 103
LOSSES = {
    "level1_similarity_loss": "level1",
    "level2_similarity_loss": "level2",
    "masked_lm_loss": "mlm",
    "masked_lm_text_encoder_loss": "text_mlm",
    "itm_loss": "itm",
    "VWM_after_similarity_loss": "lvwm_after",
    "VWM_before_similarity_loss": "lvwm_before",
}
SCORES = {"l1": "level1", "l2": "level2", "VWM_after": "lvwm_after", "VWM_before": "lvwm_before"}


class Pretraining(nn.Module):
    """The network and the heads under the names of the task."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.model = SnpS3Model(system_config(case.meta["config"]))
        width, vocab = self.model.width, self.model.text_spec.vocab_size
        self.match = PairScorer(width, dropout=0.0)
        self.mlm, self.text_mlm = MaskedTextHead(width, vocab), MaskedTextHead(width, vocab)
        self.itm = MatchingHead(width)
        self.moco: Momentum | None = None
        if moco := case.meta.get("moco"):
            self.moco = Momentum(self.model, moco["K"], moco["momentum"], moco["T"])

    @property
    def heads(self) -> Heads:
        return Heads(self.match, self.mlm, self.text_mlm, self.itm, self.moco)


def _given(case: Case) -> Given:
    t = case.tensors
    frames, padding = frames_of(case)
    raw, mask = texts_of(case, "caption_raw_input")
    shown, targets = t["in.caption_input_ids"].long(), t["in.caption_lm_label_ids"].long()
    guided = None
    if "out.attentive_positions" in t:
        hidden = _hidden(t["out.attentive_positions"], raw.shape)
        guided = (raw.masked_fill(hidden, MASK), torch.where(hidden, raw, IGNORED))
    clips = int(t["in.image_n_clips"][0])
    return Given(
        frames,
        raw,
        mask,
        shown,
        targets,
        t["in.caption_false_input_ids"].long(),
        t["in.caption_false_input_mask"].bool(),
        t["out.vwm_word_positions"].long(),
        padding,
        clips,
        guided,
    )


def _hidden(positions: Tensor, shape: torch.Size) -> Tensor:
    """Return [B, L] bool of recorded places: a mask already, or places with negative filling."""
    if positions.shape == shape and positions.max() <= 1 and positions.min() >= 0:
        return positions.bool()
    hidden = torch.zeros(shape, dtype=torch.bool)
    for row, places in enumerate(positions.tolist()):
        hidden[row, [p for p in places if p >= 0]] = True
    return hidden


def check_pretraining(case: Case) -> list[Comparison]:
    """Compare all losses, scores and gradients of a batch; in training, what becomes of the queues."""
    net, given = Pretraining(case), case.tensors
    fill(net, case)
    training = case.meta["mode"] != "eval"
    net.train(training)
    stage = case.meta["vwm"]["stage"]
    levels = ("before", "after") if stage == "both" else (stage,)
    names = {"level1", "level2", "mlm", "text_mlm", "itm", *(f"lvwm_{level}" for level in levels)}
    wanted = Wanted(frozenset(names))
    found = pretraining_losses(net.model, net.heads, _given(case), wanted, training=training)
    done = [
        loss(theirs, found.losses[ours], given[f"out.loss.{theirs}"])
        for theirs, ours in LOSSES.items()
        if f"out.loss.{theirs}" in given
    ]
    total = torch.stack(list(found.losses.values())).sum()
    done.append(loss("total", total, given["out.total_loss"]))
    for theirs, ours in SCORES.items():
        if f"out.{theirs}_simi" in given:
            (scores,) = found.scores[ours]
            done.append(output(f"{ours} scores", scores, given[f"out.{theirs}_simi"]))
            done += _recalls(theirs, scores, given)
    done += _words_and_pairs(net, found, given)
    total.backward()
    done += gradients(case, net, net.model.config.encoder)
    return done + _momentum(net, given)


def _recalls(name: str, scores: Tensor, given: dict[str, Tensor]) -> list[Comparison]:
    ranks, done = diagonal_ranks(scores), []
    for k in (1, 5, 10):
        for recorded in (f"out.metric.{name}_r@{k}", f"out.metric.{name}_r_{k}"):
            if recorded in given:
                done.append(loss(recorded, (ranks < k).float().mean(), given[recorded].float()))
    if f"out.metric.{name}_mr" in given:
        done.append(
            loss(f"{name} median", ranks.median().float() + 1, given[f"out.metric.{name}_mr"].float())
        )
    return done


def _words_and_pairs(net: Pretraining, found: Parts, given: dict[str, Tensor]) -> list[Comparison]:
    assert found.targets is not None
    done = []
    asked = found.targets != IGNORED
    table = net.model.text.words.weight
    for ours, theirs in {"mlm": "masked_lm", "text_mlm": "masked_lm_text_encoder"}.items():
        if f"out.logits_{theirs}_loss" in given:  # recorded of all words; ours are of the hidden ones
            every = getattr(net, ours)(found.states[ours], table)
            done.append(output(f"{ours} logits", every, given[f"out.logits_{theirs}_loss"]))
        right = (found.logits[ours].argmax(-1) == found.targets[asked]).float().mean()
        done.append(loss(f"{ours} accuracy", right, given[f"out.metric.{theirs}_acc"]))
    pairs = found.logits["itm"]
    labels = torch.arange(len(pairs)) < len(pairs) // 2
    done.append(loss("itm accuracy", (pairs.argmax(1) == labels).float().mean(), given["out.metric.itm_acc"]))
    return done


def _momentum(net: Pretraining, given: dict[str, Tensor]) -> list[Comparison]:
    if net.moco is None:
        return []
    moco, done = net.moco, []
    for name, queue in (("img", moco.visual_queue), ("txt", moco.text_queue)):
        if f"out.moco_{name}_queue_after" in given:
            done.append(output(f"{name} queue", queue.features.t(), given[f"out.moco_{name}_queue_after"]))
        if f"out.moco_{name}_ptr_after" in given:
            done.append(
                exact(f"{name} pointer", int(queue.pointer), int(given[f"out.moco_{name}_ptr_after"]))
            )
    keys = moco.keys
    recorded = {
        "out.momentum_img_fc_after": keys.visual.fc1.weight,
        "out.momentum_txt_pooler_after": keys.text_pooler.weight,
    }
    return done + [output(name, value, given[name]) for name, value in recorded.items() if name in given]


class RecordedIds:
    """Stands in for a tokenizer where ids are recorded."""


def check_retrieval(case: Case) -> list[Comparison]:
    """Score all pairs on both levels, a block of them, and pairs that were mined, by `retrieval_levels`."""
    model, given = SnpS3Model(system_config(case.meta["config"])), case.tensors
    task = RetrievalLevelsTask(model, RetrievalLevelsConfig(dropout=0.0), RecordedIds())
    fill(task, case)
    frames, padding = frames_of(case)
    ids, mask = texts_of(case, "caption_raw_input")
    clips = model.see(frames, padding, int(given["in.image_n_clips"][0]))
    texts = model.encode_text(ids, mask)
    seen = Seen(clips.tokens, clips.features, task.text_features(texts), ids, mask)
    parts, scores = task.losses(seen, Joiner(ALONE, len(ids), ids.device))
    done = [
        output("level 1", scores["level1"], given["out.l1_simi"]),
        output("level 2", scores["level2"], given["out.l2_simi"]),
        loss("level 1", parts["level1"], given["out.loss.level1_similarity_loss"]),
        loss("level 2", parts["level2"], given["out.loss.level2_similarity_loss"]),
    ]
    if "out.block_l1_simi" in given:
        one = Seen(seen.visual, seen.parts, seen.texts[:1], ids[:1], mask[:1])
        columns = torch.arange(len(ids))[None]
        block = first_level(one.texts, one.parts)
        done += [
            output("block level 1", block.scores, given["out.block_l1_simi"]),
            output("block level 2", task.read_pairs(one, one.visual, columns), given["out.block_l2_simi"]),
            loss("block loss", block.loss, torch.zeros(())),
        ]
    for name in (n for n in given if n.startswith("out.hard_") and n.endswith("_l2_simi")):
        rule = name.removeprefix("out.hard_").removesuffix("_l2_simi")
        ours = next(option for option, published in RULES.items() if published == rule)
        task.config = task.config.with_(hard=ours, hard_weights=True)
        mined = task.losses(seen, Joiner(ALONE, len(ids), ids.device))[1]["level2"]
        # The published code rounds the scores that these weights come from.
        weights = hard_weights(scores["level1"], -100.0 if rule == "top_k" else 0.0)
        done.append(output(f"{rule} scores", mined, given[name]))
        value = second_level(mined, weights).loss
        done.append(loss(f"{rule} loss", value, given[name.replace("_simi", "_loss")]))
    (parts["level1"] + parts["level2"]).backward()
    return done + gradients(case, task, model.config.encoder)


def _rows(case: Case, ids: Tensor, mask: Tensor, extra: dict[str, Any]) -> Batch:
    """Return a batch of the frames of a case as a task takes them."""
    numbers = torch.arange(len(ids))
    return Batch(
        keys=[str(number) for number in numbers.tolist()],
        positions=numbers,
        match_ids=numbers,
        images=frames_of(case)[0],
        text_ids=ids,
        text_mask=mask,
        extra=extra,
    )


class RecordedFrames(SnpS3Model):
    """A model that takes the recorded frames, which are normalised already, with their padding."""

    def __init__(self, case: Case) -> None:
        super().__init__(system_config(case.meta["config"]))
        frames, self.recorded = frames_of(case)
        self.image_spec = replace(
            self.image_spec, size=frames.shape[-1], mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        )

    def embed_visual(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        return self.see(images, self.recorded).tokens


def _context(size: int) -> StepContext:
    return StepContext(1, 0.0, Draws(0, torch.arange(size)))


def check_choice(case: Case) -> list[Comparison]:
    """Choose among options by the task `multiple_choice`."""
    model, given = RecordedFrames(case), case.tensors
    task = MultipleChoiceTask(model, MultipleChoiceConfig(dropout=0.0), RecordedIds())
    fill(task, case)
    ids, mask = given["in.option_input_ids"].long(), given["in.option_input_mask"].bool()
    options = [str(i) for i in range(ids.shape[1])]
    entries = [{"options": options, "answer": answer} for answer in given["in.targets"].tolist()]
    batch = _rows(case, ids, mask, {"choices": entries})
    found = task.compute_loss(batch, _context(len(ids)))
    done = [
        output("logits", task.logits(batch)[0], given["out.logits"]),
        loss("loss", found.total, given["out.loss"]),
        loss("accuracy", found.metrics["accuracy"], given["out.accuracy"]),
    ]
    found.total.backward()
    return done + gradients(case, task, model.config.encoder)


def check_answers(case: Case) -> list[Comparison]:
    """Answer questions by the task `vqa` with the published head and loss."""
    model, given = RecordedFrames(case), case.tensors
    labels = [str(i) for i in range(case.meta["config"]["num_labels"])]
    task = VqaTask(model, VqaConfig(head="linear", loss="softmax"), RecordedIds(), labels)
    fill(task, case)
    ids, mask = texts_of(case, "caption_input")
    entries = [{"question": "", "answer": str(label)} for label in given["in.targets"].tolist()]
    batch = _rows(case, ids, mask, {"questions": entries})
    done = [
        output("feature", task.fuse(batch).pooled, given["out.out_feat"]),
        output("logits", task.logits(batch), given["out.logits"]),
    ]
    found = task.compute_loss(batch, _context(len(ids)))
    done.append(loss("loss", found.total, given["out.loss"]))
    found.total.backward()
    return done + gradients(case, task, model.config.encoder)
