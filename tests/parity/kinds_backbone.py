"""Kind `backbone`: the whole multiway transformer in its three modes, and its training gradients."""

from collections.abc import Mapping

import torch
from tests.parity.eve_common import (
    backbone_gradients,
    config_of,
    load_backbone,
    recorded_noise,
    watch_mixtures,
)
from tests.parity.runner import Case, Comparison, exact, gradient, loss, output
from torch import Tensor

from diptych.systems.eve.model import EveModel

MODES = ("vision", "text", "vl")
AUX_WEIGHT = 0.1
"""Weight of the balance losses in the loss whose gradients a case records."""


def forward(model: EveModel, mode: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return all tokens after the final norm [B, S, D], and their mask [B, S]."""
    if mode == "vision":
        encoded = model.encode_visual(inputs["image"])
        return encoded.tokens, encoded.mask
    ids, mask = inputs["text_ids"], inputs["text_atts"].bool()
    if mode == "text":
        encoded = model.encode_text(ids, mask)
        return encoded.tokens, encoded.mask
    fused = model.fuse(inputs["image"], ids, mask)
    return torch.cat([fused.visual, fused.text], 1), torch.cat([fused.visual_mask, fused.text_mask], 1)


def check_mode(model: EveModel, mode: str, case: Case) -> list[Comparison]:
    """Compare one mode: tokens, mask, embeddings, states after each layer, every mixture call."""
    inputs, expected = case.under("in."), case.under("out.")
    states: dict[str, Tensor] = {}
    hooks = [model.input_norm.register_forward_hook(lambda _m, _i, y: states.update({f"{mode}.pre": y}))]
    for index, layer in enumerate(model.layers):
        key = f"{mode}.layer{index}"
        hooks.append(layer.register_forward_hook(lambda _m, _i, y, key=key: states.update({key: y[0]})))
    with torch.no_grad(), watch_mixtures(model) as mixed:
        states[mode], mask = forward(model, mode, inputs)
    for hook in hooks:
        hook.remove()
    done = [output(name, states[name], expected[name]) for name in sorted(states) if name in expected]
    if f"{mode}.attn_mask" in expected:
        done.append(exact(f"{mode}.attn_mask", mask.float(), expected[f"{mode}.attn_mask"]))
    calls = sum(name.startswith(f"{mode}.moe") and name.endswith(".l_aux") for name in expected)
    if calls:
        done.append(exact(f"{mode}: mixture calls", len(mixed), calls))
    for index, call in enumerate(mixed):
        aux, counts = f"{mode}.moe{index}.l_aux", f"{mode}.moe{index}.exp_counts"
        if aux in expected:
            done.append(loss(aux, call.balance, expected[aux]))
        if counts in expected:
            done.append(exact(counts, call.first_counts, expected[counts]))
    return done


def check_noise(model: EveModel, mode: str, case: Case) -> list[Comparison]:
    """Compare one mode under the recorded router noise."""
    found = case.under(f"in.{mode}_gumbel.noise")
    with torch.no_grad(), recorded_noise(model, [found[str(i)] for i in range(len(found))]):
        tokens, _ = forward(model, mode, case.under("in."))
    return [output(f"{mode}_gumbel", tokens, case.tensors[f"out.{mode}_gumbel"])]


def check_training(model: EveModel, case: Case) -> list[Comparison]:
    """Compare loss and gradients of a vl pass in training mode."""
    model.train()
    model.zero_grad()
    with watch_mixtures(model) as mixed:
        tokens, _ = forward(model, "vl", case.under("in."))
    total = (tokens * case.tensors["in.grad_probe"]).mean() + AUX_WEIGHT * sum(m.balance for m in mixed)
    total.backward()
    model.eval()
    ours = backbone_gradients(model)
    done = [
        gradient(name, ours.get(name), expected) for name, expected in sorted(case.under("grad.").items())
    ]
    return [loss("train_vl_loss", total, case.tensors["out.train_vl_loss"]), *done]


def check(case: Case) -> list[Comparison]:
    """Run every part that the case recorded."""
    model = load_backbone(config_of(case.meta), case.under("w."))
    done: list[Comparison] = []
    for mode in MODES:
        if f"out.{mode}" in case.tensors:
            done += check_mode(model, mode, case)
        if f"out.{mode}_gumbel" in case.tensors:
            done += check_noise(model, mode, case)
    if "out.train_vl_loss" in case.tensors:
        done += check_training(model, case)
    return done
