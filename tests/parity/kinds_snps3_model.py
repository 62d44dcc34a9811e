"""Kinds `text_encoder`, `cross_encoder`, `visual` and `loss_units` of SNP-S3."""

import torch
from tests.parity.runner import Case, Comparison, exact, gradient, loss, output
from tests.parity.snps3_common import fill, frames_of, gradients, system_config
from torch import nn

from diptych.objectives.matching import MatchingHead
from diptych.objectives.milnce import (
    mean_cross_entropy,
    mil_nce,
    mil_nce_pairs,
    queue_loss,
    video_scores,
    word_clip_scores,
)
from diptych.objectives.mlm import MaskedTextHead
from diptych.systems.snps3.model import SnpS3Model

TEMPERATURE = 0.05


class Network(nn.Module):
    """A model under the name that it has in tasks."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.model = SnpS3Model(system_config(case.meta["config"]))

    @property
    def encoder(self) -> str:
        return self.model.config.encoder


def check_text(case: Case) -> list[Comparison]:
    """Read texts; weigh their words."""
    net, given = Network(case), case.tensors
    fill(net, case, partly=True)
    ids, mask = given["in.input_ids"].long(), given["in.input_mask"].bool()
    found = net.model.encode_text(ids, mask)
    done = [
        output("sequence", found.tokens, given["out.sequence_output"]),
        output("pooled", found.pooled, given["out.pooled_output_l2norm"]),
        output("importance", net.model.word_importance(ids, mask), given["out.words_importance"]),
    ]
    total = (found.pooled * given["in.grad_pooled"]).sum() + (found.tokens * given["in.grad_sequence"]).sum()
    total.backward()
    return done + gradients(case, net, net.encoder)


def check_cross(case: Case) -> list[Comparison]:
    """Read texts and clip tokens together."""
    net, given = Network(case), case.tensors
    fill(net, case, partly=True)
    model = net.model
    ids, mask = given["in.input_ids"].long(), given["in.input_mask"].bool()
    words, clips = model.text(ids), model.embed_clips(given["in.visual_embed"])
    found = model.join(words, mask, clips)
    done = [
        output("text embedding", words, given["out.text_embedding"]),
        output("visual embedding", clips, given["out.visual_embedding"]),
        exact("visual mask", torch.ones(clips.shape[:2]).long(), given["out.visual_mask"].long()),
        output("text", found.text, given["out.text_sequence"]),
        output("visual", found.visual, given["out.visual_sequence"]),
        output("pooled", found.pooled, given["out.pooled"]),
    ]
    parts = [(found.text, "text"), (found.visual, "visual"), (found.pooled, "pooled")]
    torch.stack([(value * given[f"in.grad_{name}"]).sum() for value, name in parts]).sum().backward()
    return done + gradients(case, net, net.encoder)


def check_visual(case: Case) -> list[Comparison]:
    """See frames as clips of one frame, and as one clip of all."""
    net, given = Network(case), case.tensors
    fill(net, case, partly=True)
    frames, padding = frames_of(case)
    tower = net.model.visual
    grid = tower.grid(frames)
    cells = nn.functional.interpolate(padding.float(), size=grid.shape[-2:]).bool()
    n = int(given.get("in.n_clips", torch.tensor(frames.shape[1])))
    clips = tower(frames, padding, n)
    done = [
        output("grid", grid, given["out.grid_feature"]),
        exact("grid mask", cells.long(), given["out.grid_mask"].long()),
        output("tokens", clips.tokens, given["out.visual_embed"]),
        output("features", clips.features.flatten(0, 1), given["out.clip_feature"]),
    ]
    for name, expected in given.items():
        if name.startswith("out.visual_embed_frames"):
            whole = tower(frames, padding, 1)
            feature = given[name.replace("visual_embed", "clip_feature")]
            done += [
                output(name, whole.tokens, expected),
                output(f"{name} feature", whole.features[:, 0], feature),
            ]
    total = (clips.features.flatten(0, 1) * given["in.grad_clip_feature"]).sum()
    (total + (clips.tokens * given["in.grad_visual_embed"]).sum()).backward()
    return done + gradients(case, net, net.encoder)


def check_losses(case: Case) -> list[Comparison]:
    """Compare every loss on given inputs."""
    given, done = case.tensors, []
    for name in (n.removeprefix("in.") for n in given if n.startswith("in.milnce_b")):
        clips = int(name.rpartition("_n")[2])
        scores = given[f"in.{name}"].clone().requires_grad_()
        value = mil_nce_pairs(scores, clips)
        value.backward()
        done += [loss(name, value, given[f"out.{name}"])]
        if f"grad.{name}" in given:
            done.append(gradient(name, scores.grad, given[f"grad.{name}"]))
    if "in.milnce_weighted" in given:
        value = mil_nce(given["in.milnce_weighted"][..., None], given["in.milnce_weights"])
        done.append(loss("milnce_weighted", value, given["out.milnce_weighted"]))
    if "in.lvwm_words" in given:
        done += _word_clips(case)
    if "in.l1_text" in given:
        done += _first_level(case)
    if "in.moco_pos" in given:
        pair = given["in.moco_pos"], given["in.moco_neg"]
        done.append(loss("moco", queue_loss(*pair, TEMPERATURE), given["out.moco_loss"]))
        for name in (n for n in given if n.startswith("out.moco_loss_top")):
            value = queue_loss(*pair, TEMPERATURE, int(name.rpartition("top")[2]))
            done.append(loss(name, value, given[name]))
    return done + _heads(case)


def _word_clips(case: Case) -> list[Comparison]:
    given = case.tensors
    words, clips = (given[f"in.lvwm_{n}"].clone().requires_grad_() for n in ("words", "clips"))
    scores = word_clip_scores(words, clips.view(len(words), -1, clips.shape[1]))
    value = mil_nce(scores)
    value.backward()
    return [
        output("lvwm scores", video_scores(scores), given["out.lvwm_simi"]),
        loss("lvwm", value, given["out.lvwm_loss"]),
        gradient("lvwm words", words.grad, given["grad.lvwm_words"]),
        gradient("lvwm clips", clips.grad, given["grad.lvwm_clips"]),
    ]


def _first_level(case: Case) -> list[Comparison]:
    given = case.tensors
    text, clips = given["in.l1_text"], given["in.l1_clips"]
    scores = torch.einsum("id,jkd->ijk", text, clips.view(len(text), -1, clips.shape[1]))
    return [
        output("level 1 clips", scores, given["out.l1_clip_level"]),
        output("level 1 videos", video_scores(scores), given["out.l1_video_level"]),
        output("level 1 pairs", scores.diagonal(dim1=0, dim2=1).t(), given["out.l1_paired"]),
    ]


def _heads(case: Case) -> list[Comparison]:
    """Score words and pairs by the heads alone."""
    given, weights, done = case.tensors, case.under("w."), []
    if "in.mlm_hidden" in given:
        table = weights["mlm.cls.predictions.decoder.weight"].float()
        head = MaskedTextHead(table.shape[1], len(table))
        theirs = "mlm.cls.predictions."
        head.load_state_dict(
            {
                "dense.weight": weights[f"{theirs}transform.dense.weight"].float(),
                "dense.bias": weights[f"{theirs}transform.dense.bias"].float(),
                "norm.weight": weights[f"{theirs}transform.LayerNorm.weight"].float(),
                "norm.bias": weights[f"{theirs}transform.LayerNorm.bias"].float(),
                "bias": weights[f"{theirs}bias"].float(),
            }
        )
        hidden, labels = given["in.mlm_hidden"].clone().requires_grad_(), given["in.mlm_labels"].long()
        logits = head(hidden, table)
        value = mean_cross_entropy(logits, labels)
        value.backward()
        right = (logits.argmax(-1) == labels)[labels != -1].float().mean()
        done += [
            output("mlm logits", logits, given["out.mlm_logits"]),
            loss("mlm", value, given["out.mlm_loss"]),
            loss("mlm accuracy", right, given["out.mlm_acc"]),
            gradient("mlm hidden", hidden.grad, given["grad.mlm_hidden"]),
        ]
    if "in.itm_pooled" in given:
        head_pair = MatchingHead(given["in.itm_pooled"].shape[1])
        theirs = "itm.cls.seq_relationship."
        head_pair.classifier.load_state_dict({n: weights[theirs + n].float() for n in ("weight", "bias")})
        pooled, labels = given["in.itm_pooled"].clone().requires_grad_(), given["in.itm_labels"].long()
        logits = head_pair(pooled)
        value = mean_cross_entropy(logits, labels)
        value.backward()
        done += [
            loss("itm", value, given["out.itm_loss"]),
            loss("itm accuracy", (logits.argmax(1) == labels).float().mean(), given["out.itm_acc"]),
            gradient("itm pooled", pooled.grad, given["grad.itm_pooled"]),
        ]
    return done
