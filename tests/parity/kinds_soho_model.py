"""Kinds `backbone`, `joint_encoder`, `neck_pretrain`, `neck_vqa` and `vqa_full` of SOHO."""

from dataclasses import replace

import torch
from tests.parity.runner import Case, Comparison, exact, gradient, loss, output
from tests.parity.soho_common import (
    backbone_config,
    buffers,
    fill,
    gradients,
    model_config,
    neck_options,
    sizes_of,
)
from torch import nn

from diptych.blocks.resnet import ResNet, ResNetConfig
from diptych.objectives.answers import DropoutAnswerHead, answer_loss
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.masking import same_word
from diptych.systems.soho.model import SohoModel
from diptych.systems.soho.neck import Neck, Seen


def check_backbone(case: Case) -> list[Comparison]:
    """Run the CNN in eval mode, then a training step of it."""
    net = ResNet(backbone_config(case.meta["config"]["backbone"]))
    fill(net, case.under("w."), "backbone.", "model.backbone.")
    given = case.tensors
    with torch.no_grad():
        done = [output("eval", net.eval()(given["in.img"]), given["out.eval"])]
    image = given["in.img"].clone().requires_grad_("grad.img" in given)
    found = net.train()(image)
    done.append(output("train", found, given["out.train"]))
    (found * given["in.cotangent"]).sum().backward()
    if "grad.img" in given:
        done.append(gradient("grad.img", image.grad, given["grad.img"]))
    still = case.meta.get("notes", {}).get("params_without_grad")
    if still is not None:
        mine = [name for name, parameter in net.named_parameters() if parameter.grad is None]
        done.append(exact("parameters without a gradient", sorted(mine), sorted(still)))
    done += gradients(case, net, "backbone.", "model.backbone.")
    return done + buffers(case, net, "backbone.", "model.backbone.")


class Joint(nn.Module):
    """The transformer of a model by itself."""

    def __init__(self, model: SohoModel) -> None:
        super().__init__()
        self.text, self.layers = model.text, model.layers

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, visual: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        x = torch.cat([self.text(ids), visual], 1)
        for layer in self.layers:
            x = layer(x, torch.cat([mask.bool(), seen.bool()], 1))
        return x


def check_joint(case: Case) -> list[Comparison]:
    """Run the transformer on given texts and visual tokens."""
    language, dropout = case.meta["config"]["language"], case.meta["config"].get("dropout", 0.0)
    model = SohoModel(
        SohoConfig(
            backbone=ResNetConfig(stem_channels=4, base_channels=4),
            width=language["hidden_size"],
            layers=language["num_hidden_layers"],
            heads=language["num_attention_heads"],
            hidden=language["intermediate_size"],
            vocab_size=language["vocab_size"],
            max_text_tokens=language.get("max_position_embeddings", 512),
            dropout=dropout,
            attention_dropout=dropout,
        )
    )
    joint = Joint(model)
    fill(joint, case.under("w."), "language.", "model.")
    given = case.tensors
    visual = given["in.visual_tokens"].clone().requires_grad_()
    hidden = joint(given["in.input_ids"], given["in.attention_mask"], visual, given["in.visual_attention"])
    done = [output("hidden", hidden, given["out.hidden"])]
    (hidden * given["in.cotangent"]).sum().backward()
    if "grad.visual_tokens" in given:
        done.append(gradient("grad.visual_tokens", visual.grad, given["grad.visual_tokens"]))
    return done + gradients(case, joint, "language.", "model.")


def check_neck_vqa(case: Case) -> list[Comparison]:
    """Run the neck without a dictionary."""
    neck, maps = _neck(case)
    seen = neck(maps, *sizes_of(case))
    return _neck_results(case, neck, maps, seen)


def check_neck_pretrain(case: Case) -> list[Comparison]:
    """Run the neck with a dictionary.

    Every recorded row has a map of its own, so here each one counts as a picture; that one map for several
    rows gives the same is shown by whole models.
    """
    neck, maps = _neck(case)
    sizes, frame = sizes_of(case)
    seen = neck(maps, sizes.repeat_interleave(case.meta["config"].get("sentence_group", 1), 0), frame)
    assert seen.indices is not None
    given = case.tensors
    words = seen.indices.masked_fill(~seen.mask, -100)
    hidden = same_word(words, int(given["in.mask_position"])) & given["in.bernoulli"].bool()[:, None]
    # Some cases may record the words of padding, too.
    indices = words if (given["out.indices"] < 0).any() else seen.indices
    done = [
        exact("labels", words.masked_fill(~hidden, -100), given["out.labels"]),
        exact("indices", indices, given["out.indices"]),
    ]
    tokens = neck.hide(seen, torch.arange(len(maps)), hidden)
    return done + _neck_results(case, neck, maps, replace(seen, tokens=tokens))


def _neck(case: Case) -> tuple[Neck, torch.Tensor]:
    published = case.meta["config"]["neck"]
    neck = Neck(SohoConfig(heads=1, **neck_options(published)), published["in_channels"])
    fill(neck, case.under("w."), "neck.", "model.neck.")
    maps = case.tensors["in.feature_map"].clone().requires_grad_()
    return neck.train(case.meta["config"].get("mode", "train") == "train"), maps


def _neck_results(case: Case, neck: Neck, maps: torch.Tensor, seen: Seen) -> list[Comparison]:
    given = case.tensors
    done = [
        output("tokens", seen.tokens, given["out.tokens"]),
        exact("attention", seen.mask.long(), given["out.attention"].long()),
    ]
    (seen.tokens * given["in.cotangent"]).sum().backward()
    if "grad.feature_map" in given:
        done.append(gradient("grad.feature_map", maps.grad, given["grad.feature_map"]))
    return done + gradients(case, neck, "neck.", "model.neck.") + buffers(case, neck, "neck.", "model.neck.")


class WithHead(nn.Module):
    """A model with the head of question answering, under the names of a task."""

    def __init__(self, model: SohoModel, answers: int) -> None:
        super().__init__()
        self.model = model
        self.vqa = DropoutAnswerHead(model.width, 4 * model.width, answers, dropout=0.0)

    def logits(self, case: Case) -> torch.Tensor:
        given = case.tensors
        images = (given["in.img_u8"].float() - 128) / 50
        visual = self.model.embed_visual(images, given["in.img_shape"])
        fused = self.model.fuse(visual, given["in.language_tokens"], given["in.language_attention"])
        return self.vqa(fused.pooled)


def check_vqa(case: Case) -> list[Comparison]:
    """Answer in eval mode, then make a training step."""
    config, given = case.meta["config"], case.tensors
    head = config["model"]["head"]
    answers = head.get("num_answes", head.get("num_answers", given["in.labels"].shape[1]))
    net = WithHead(SohoModel(model_config(config)), answers)
    fill(net, case.under("w."), "", "")
    with torch.no_grad():
        done = [output("eval logits", net.eval().logits(case), given["out.eval_logits"])]
    logits = net.train().logits(case)
    labels = given["in.labels"].float()
    value = answer_loss(logits, labels, torch.ones(len(labels), dtype=torch.bool))
    chosen = labels.gather(1, logits.argmax(1, keepdim=True))[:, 0]
    done += [
        output("train logits", logits, given["out.train_logits"]),
        loss("loss", value, given["out.loss_cls"]),
        output("score", chosen, given["out.score"].float().flatten()),
    ]
    value.backward()
    return done + gradients(case, net, "", "") + buffers(case, net, "", "")


def check_keys(case: Case) -> list[Comparison]:
    """Build the released models and compare every published key and shape."""
    from diptych.data.text import Tokenizer
    from diptych.systems.soho.convert import to_published
    from diptych.systems.soho.pretrain import SohoPretrainTask
    from diptych.systems.soho.pretrain_config import SohoPretrainConfig
    from diptych.tasks.vqa import VqaTask
    from diptych.tasks.vqa_config import VqaConfig

    tokenizer = Tokenizer.train(["some words"] * 2, 32)
    done = []
    with torch.device("meta"):
        for name, recorded in case.meta.items():
            if name == "pretrain":
                model = SohoModel(SohoConfig(neck="gated"))
                task: nn.Module = SohoPretrainTask(model, SohoPretrainConfig(), tokenizer)
            elif name == "vqa":
                answers = dict(recorded)["head.vqa.3.bias"][0]
                config = VqaConfig(head="dropout")
                task = VqaTask(SohoModel(SohoConfig()), config, tokenizer, [str(i) for i in range(answers)])
            else:
                continue
            ours = {key: list(tensor.shape) for key, tensor in to_published(task.state_dict()).items()}
            done.append(exact(f"{name}: keys", sorted(ours), sorted(key for key, _ in recorded)))
            done += [exact(f"{name}: {key}", ours.get(key), shape) for key, shape in recorded]
    return done
