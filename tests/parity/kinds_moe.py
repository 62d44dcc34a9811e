"""Kind `moe_layer`: the mixture layer alone under several settings of router, mode and capacity.

Each setting of a case has inputs `in.<setting>.*`, weights `w.<setting>.moe.*`, outputs and gradients of
`sum(y * probe) + l_aux`. Dispatch and combine tensors [tokens, experts, slots] are rebuilt from the routing.
"""

from collections.abc import Mapping
from typing import Any

import torch
from tests.parity.eve_common import recorded_noise
from tests.parity.runner import Case, Comparison, exact, gradient, loss, output
from torch import Tensor

from diptych.blocks.moe import Mixed, Mixture
from diptych.blocks.router import RouterConfig, Routing
from diptych.systems.eve.keys import mixture_from_published, mixture_to_published


def build(setting: Mapping[str, Any], published: Mapping[str, Tensor]) -> Mixture:
    """Build the layer of a setting with its weights (keys without `moe.`), in the setting's mode."""
    router = RouterConfig(modality="vision_embed" in published).published().with_(noise="never")
    if "cap" in setting:
        train, evaluation, least = setting["cap"]
        router = router.with_(capacity_factor=train, eval_capacity_factor=evaluation, min_capacity=least)
    layer = Mixture(setting["D"], setting["H"], setting["E"], "quick_gelu", router)
    layer.load_state_dict(mixture_from_published(published))
    return layer.train(bool(setting.get("train")))


def visual_tokens(setting: Mapping[str, Any], length: int) -> int:
    """Return how many leading positions the setting's mode takes for image tokens."""
    mode = setting["mode"]
    return {"vision": length, "text": 0}.get(mode, min(setting.get("num_tokens", length), length))


def combine(routing: Routing, experts: int) -> Tensor:
    """Return combine weights [tokens, experts, slots]."""
    assert routing.slots is not None
    assert routing.capacity is not None
    table = torch.zeros(len(routing.experts), experts, routing.capacity)
    for token, choice in routing.kept.nonzero().tolist():
        table[token, routing.experts[token, choice], routing.slots[token, choice]] += routing.weights[
            token, choice
        ]
    return table


def check_setting(name: str, setting: Mapping[str, Any], case: Case) -> list[Comparison]:
    """Compare one setting."""
    inputs, expected = case.under(f"in.{name}."), case.under(f"out.{name}.")
    layer = build(setting, case.under(f"w.{name}.moe."))
    x = inputs["x"].clone().requires_grad_()
    routings: list[Routing] = []
    hook = layer.router.register_forward_hook(lambda _m, _i, routing: routings.append(routing))
    noise = [inputs["gumbel"]] if "gumbel" in inputs else []
    visual = visual_tokens(setting, x.shape[1])
    if noise:
        with recorded_noise(layer, noise):
            mixed: Mixed = layer(x, visual, None)
    else:
        mixed = layer(x, visual, None)
    hook.remove()
    done = [
        output(f"{name}.y", mixed.output, expected["y"]),
        loss(f"{name}.l_aux", mixed.balance, expected["l_aux"]),
        exact(f"{name}.exp_counts", mixed.first_counts, expected["exp_counts"]),
    ]
    if "combine" in expected:
        ours = combine(routings[0], setting["E"])
        done.append(output(f"{name}.combine", ours, expected["combine"]))
        done.append(exact(f"{name}.dispatch", (ours != 0).float(), expected["dispatch"].float()))
    return done + check_gradients(name, layer, x, mixed, case)


def check_gradients(name: str, layer: Mixture, x: Tensor, mixed: Mixed, case: Case) -> list[Comparison]:
    """Compare the gradients that the setting recorded."""
    expected = case.under(f"grad.{name}.")
    if not expected:
        return []
    ((mixed.output * case.tensors[f"in.{name}.probe"]).sum() + mixed.balance).backward()
    ours = {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}
    named = {f"moe.{n}": g for n, g in mixture_to_published(ours).items()} | {"x": x.grad}
    return [gradient(f"{name}.{n}", named.get(n), g) for n, g in sorted(expected.items())]


def check(case: Case) -> list[Comparison]:
    """Run every setting of the case."""
    return [c for name, setting in case.meta["cases"].items() for c in check_setting(name, setting, case)]
