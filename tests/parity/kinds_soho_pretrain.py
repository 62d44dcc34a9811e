"""Kinds `pretrain_full` and `pretrain_losses` of SOHO: the whole model for a step, and its heads alone."""

from collections.abc import Mapping
from typing import Any

import torch
from tests.parity.runner import Case, Comparison, exact, gradient, loss, output
from tests.parity.soho_common import buffers, fill, gradients, model_config
from torch import Tensor, nn

from diptych.data.text import Tokenizer
from diptych.objectives.matching import IGNORED, itm_accuracy, itm_loss
from diptych.objectives.mlm import mlm_accuracy, mlm_loss
from diptych.objectives.mvm import mvm_accuracy, mvm_loss, word_scores
from diptych.systems.soho.masking import Shown, same_word
from diptych.systems.soho.model import SohoModel
from diptych.systems.soho.pretrain import SohoPretrainTask
from diptych.systems.soho.pretrain_config import SohoPretrainConfig

PERCENT = 100.0


def check_full(case: Case) -> list[Comparison]:
    """Make one training step, CNN and dictionary once a picture, and compare everything that was recorded."""
    meta, given = case.meta["config"], case.tensors
    tokenizer = Tokenizer.train(["some words"] * 2, 32)
    task = SohoPretrainTask(SohoModel(model_config(meta)), SohoPretrainConfig(), tokenizer)
    fill(task, case.under("w."), "", "")
    task.train()
    G = given["in.language_tokens"].shape[1]
    rows = torch.arange(len(given["in.img_u8"])).repeat_interleave(G)
    texts = [
        given[f"in.{name}"].flatten(0, 1) for name in ("language_tokens", "language_attention", "mask_labels")
    ]
    shown = Shown(rows, texts[0], texts[1].bool(), texts[2], given["in.next_label"].flatten())
    chosen = given["in.bernoulli"].bool()[:, None]

    def hide(words: Tensor) -> Tensor:
        return same_word(words[rows], int(given["in.mask_position"])) & chosen

    images = (given["in.img_u8"].float() - 128) / 50
    read = task.read(images, given["in.img_shape"], shown, hide)
    scores = task.score(read, shown)
    found = task.losses(scores, shown)
    done = [
        output("fusion", torch.cat([read.fused.text, read.fused.visual], 1), given["out.fusion"]),
        exact("attention", read.fused.visual_mask.long(), given["out.visual_attention"].long()),
        exact("mvm labels", read.words.masked_fill(~read.hidden, IGNORED), given["out.mvm_labels"]),
        loss("mlm", found.parts["mlm"], given["out.loss_mlm"]),
        loss("mvm", found.parts["mvm"], given["out.loss_mvm"]),
        loss("itm", found.parts["itm"], given["out.loss_match"].mean()),
        loss("total", found.total, given["out.total_loss"]),
        output(
            "match",
            torch.nn.functional.cross_entropy(scores.match, shown.matching, reduction="none"),
            given["out.loss_match"],
        ),
    ]
    for recorded, mine in {"acc_v": "mvm", "acc_match": "itm", "acc_l": "mlm"}.items():
        if f"out.{recorded}" in given:
            value = PERCENT * found.metrics[f"{mine}_accuracy"]
            done.append(loss(recorded, value, given[f"out.{recorded}"].squeeze()))
    done.append(loss("select", found.metrics["masked_share"], given["out.select"].squeeze()))
    found.total.backward()
    return done + gradients(case, task, "", "") + buffers(case, task, "", "")


def check_losses(case: Case) -> list[Comparison]:
    """Compare the heads on a given sequence; without tensors: what they say when nothing is hidden."""
    if "in.fusion" not in case.tensors:
        return _check_nothing_hidden(case.meta["out"])
    given, config = case.tensors, case.meta["config"]
    fusion, words = (given[f"in.{n}"].clone().requires_grad_() for n in ("fusion", "word_embedding"))
    itm = nn.Linear(config["hidden"], 2, bias=False)
    itm.load_state_dict({"weight": case.under("w.")["match_class.weight"]})
    text, visual = fusion[:, : config["text_len"]], fusion[:, config["text_len"] :]
    texts, places = given["in.mlm_labels"] != IGNORED, given["in.mvm_labels"] != IGNORED
    word_logits = text[texts] @ words.t()
    scores = word_scores(visual[places], given["in.codebook"])
    match = itm(fusion[:, 0])
    mlm = mlm_loss(word_logits, given["in.mlm_labels"][texts])
    mvm = mvm_loss(scores, given["in.mvm_labels"][places])
    itm_value = itm_loss(match, given["in.itm_labels"])
    total = mlm + mvm + itm_value
    every = word_scores(visual.flatten(0, 1), given["in.codebook"]).view_as(given["out.mvm_scores"])
    done = [
        output("match logits", match, given["out.itm_logits"]),
        output("visual scores", every, given["out.mvm_scores"]),
        loss("mlm", mlm, given["out.loss_mlm"]),
        loss("mvm", mvm, given["out.loss_mvm"]),
        loss("itm", itm_value, given["out.loss_match"].mean()),
        loss("total", total, given["out.total"]),
        loss(
            "acc_v",
            PERCENT * mvm_accuracy(scores, given["in.mvm_labels"][places]),
            given["out.acc_v"].squeeze(),
        ),
        loss(
            "acc_match",
            PERCENT * itm_accuracy(match, given["in.itm_labels"]),
            given["out.acc_match"].squeeze(),
        ),
        loss("select", texts.float().mean(), given["out.select"].squeeze()),
    ]
    if "out.acc_l" in given:
        value = PERCENT * mlm_accuracy(word_logits, given["in.mlm_labels"][texts])
        done.append(loss("acc_l", value, given["out.acc_l"].squeeze()))
    total.backward()
    done += [
        gradient("grad.fusion", fusion.grad, given["grad.fusion"]),
        gradient("grad.word_embedding", words.grad, given["grad.word_embedding"]),
        gradient("grad.match_class", itm.weight.grad, given["grad.match_class.weight"]),
    ]
    return done


def _check_nothing_hidden(recorded: Mapping[str, Any]) -> list[Comparison]:
    """The inputs were not recorded: whatever they are, these values are theirs when nothing is hidden."""
    none = torch.zeros(0, dtype=torch.int64)
    scores, words = torch.zeros(0, 12, requires_grad=True), torch.zeros(0, 40, requires_grad=True)
    found = {
        "loss_mlm": mlm_loss(words, none),
        "loss_mvm": mvm_loss(scores, none),
        "acc_v": mvm_accuracy(scores, none),
        "select": torch.zeros(()),
    }
    done = [loss(name, value, recorded[name][0]) for name, value in found.items()]
    (found["loss_mlm"] + found["loss_mvm"]).backward()  # an empty batch must not break the step
    # Losses of single rows belong to logits whose right class leads exactly where they are below ln 2.
    rows = torch.tensor(recorded["loss_match"])
    share = (rows < torch.tensor(2.0).log()).float().mean() * PERCENT
    return [*done, loss("acc_match", share, recorded["acc_match"][0])]
