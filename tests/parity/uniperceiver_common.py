"""What several kinds of Uni-Perceiver cases share."""

from collections.abc import Mapping
from typing import Any

import torch
from tests.parity.runner import Case, Comparison, exact, gradient, loss
from torch import Tensor, nn

from diptych.objectives.likelihood import smoothed_loss, soft_loss
from diptych.systems.uniperceiver.config import ConditionalConfig, PromptConfig, UniPerceiverConfig
from diptych.systems.uniperceiver.convert import from_published, to_published
from diptych.systems.uniperceiver.model import UniPerceiverModel


def system_config(case: Case) -> UniPerceiverConfig:
    """Translate the configuration of a case; what prompts there are shows in its weights."""
    published, weights = case.meta["config"], case.under("w.")
    ids = published["tokenizer"]["special_ids"]
    moe, experts = published.get("moe"), ConditionalConfig()
    if moe and moe.get("MOE", True):
        experts = ConditionalConfig(
            layers=moe.get("MOE_EXPERT_LOCATION", "odd"),
            experts=moe["NUM_EXPERTS"],
            top=moe["TOP_K"],
            noise=moe.get("NOISE_STD", 1.0),
        )
    positions = weights.get("token_embed.embeddings_pos.position_embeddings.weight")
    return UniPerceiverConfig(
        image_size=published["image"],
        patch_size=published["patch"],
        max_frames=published["max_frames"],
        width=published["hidden"],
        layers=published["layers"],
        heads=published["heads"],
        hidden=published["ffn"],
        vocab_size=published["tokenizer"]["vocab"],
        max_text_tokens=512 if positions is None else len(positions),
        slot=ids["<|spe|>"],
        end=ids["<|endoftext|>"],
        share_norm=published["share_layernorm"],
        random_frames=False,
        drop_path=0.0,
        temperature=published["pred_temperature"],
        learn_temperatures=published["learn_temp"],
        experts=experts,
        prompts=_prompts(weights),
    )


def _prompts(weights: Mapping[str, Tensor]) -> PromptConfig:
    deep = "fused_encoder.layers.0.deep_prompt_embedding."
    labels, classes = weights.get("prompt_embed.target_embedding"), weights.get("fc_prompt.bias")
    return PromptConfig(
        deep=len(weights.get(f"{deep}embedding.weight", ())),
        deep_targets=len(weights.get(f"{deep}target_embedding.weight", ())),
        slot_bias="s_token_bias" in weights,
        labels=0 if labels is None else len(labels),
        classes=0 if classes is None else len(classes),
    )


class Network(nn.Module):
    """A model under the name that it has in tasks."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.model = UniPerceiverModel(system_config(case))


def load(case: Case, *, partly: bool = False) -> Network:
    """Build the model of a case with its weights, which go through the converter."""
    net = Network(case)
    imported = from_published(case.under("w."))
    assert not imported.ignored, imported.ignored
    own = net.state_dict()
    if "model.visual.norm.weight" in own and "model.visual.norm.weight" not in imported.state:
        for part in ("weight", "bias"):  # equal by chance to the words' norm
            imported.state[f"model.visual.norm.{part}"] = imported.state[f"model.text.norm.{part}"]
    unknown = sorted(imported.state.keys() - own.keys())
    assert not unknown, unknown
    lacking = sorted(own.keys() - imported.state.keys())
    assert partly or not lacking, lacking
    net.load_state_dict(own | imported.state)
    return net


def gradients(case: Case, net: Network) -> list[Comparison]:
    """Compare the recorded gradients; what has none recorded may have any."""
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in net.named_parameters()}
    mine = to_published(found)
    done = []
    for name, expected in case.under("grad.").items():
        done.append(gradient(f"grad.{name}", mine[name], expected))
    return done


def temperature_of(case: Case) -> str:
    """Return the name of the factor that the case's task uses."""
    return str(case.meta["task"]["MODEL"]["TEMP_NAME"]).removeprefix("logit_scale_")


def rule_of(case: Case) -> tuple[str, float, float]:
    """Return the loss of the case's task, its label smoothing and its weight."""
    rules = case.meta["task"]["LOSSES"]
    name = next(n for n in rules["NAMES"] if n != "Accuracy")
    smoothing = rules["LABELSMOOTHING"] if name == "LabelSmoothingCrossEntropy" else 0.0
    return name, smoothing, rules["LOSS_WEIGHT"]


def task_loss(case: Case, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the weighted loss of the case's task."""
    name, smoothing, weight = rule_of(case)
    if name == "SoftTargetCrossEntropy":
        return weight * soft_loss(logits, labels)
    return weight * smoothed_loss(logits, labels.long(), smoothing)


def recorded_losses(case: Case, value: Tensor, logits: Tensor, labels: Tensor) -> list[Comparison]:
    """Compare the loss, and accuracy where it is recorded."""
    done = []
    for name, expected in case.under("out.loss.").items():
        if name == "null_loss":
            done.append(exact(name, torch.zeros_like(expected), expected))
        elif name.startswith("Accuracy"):
            right = labels.argmax(-1) if labels.dim() == 2 else labels
            hits = (logits.argmax(-1) == right)[right >= 0].float().mean()
            done.append(loss(name, hits * _scale(expected), expected))
        else:
            done.append(loss(name, value, expected))
    return done


def _scale(expected: Tensor) -> float:
    return 100.0 if float(expected) > 1 else 1.0


def padding_of(case: Case, name: str) -> Tensor | None:
    """Return the padding of a text, [B, L] bool; None: there is none."""
    given = case.tensors.get(f"in.{name}_invalid")
    return None if given is None else given.bool()


def meta_attributes(rows: Any) -> Tensor:
    """Return recorded attributes as [S, 8]."""
    return torch.as_tensor(rows, dtype=torch.float32).view(-1, 8)
