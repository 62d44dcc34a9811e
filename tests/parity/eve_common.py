"""What several kinds of EVE cases share: the configuration of a case, and models with its weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.parity.runner import Case, Comparison, Tolerances, gradient
from torch import Tensor, nn

from diptych.blocks.moe import Mixed, Mixture
from diptych.blocks.router import Router, RouterConfig
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.convert import to_published
from diptych.systems.eve.keys import backbone_from_published, backbone_to_published
from diptych.systems.eve.model import EveModel


def config_of(meta: Mapping[str, Any]) -> EveConfig:
    """Translate `vlmo_config` (model JSON) and `config` (task YAML), with the published code's own defaults.

    The router is the published one without noise: recorded noise is put in by `recorded_noise`.
    """
    model, run = meta["vlmo_config"], meta["config"]
    experts = {"num_experts": 8, "type_route": False} | model.get("moe_param", {})
    lower = {"type": "vl"} | (model.get("single_ffn") or {})
    lower_experts = {"num_experts": 2, "type_route": True} | lower.get("moe_param", {})
    upper = model.get("ffn_type", "moe")
    layers = model.get("moeffn_layers", [7, 9, 11]) if upper == "moe" else model.get("vlffn_layers", [10, 11])
    return EveConfig(
        image_size=run["image_res"],
        patch_size=model["patch_size"],
        width=model["vision_width"],
        layers=model["num_hidden_layers"],
        heads=model["num_attention_heads"],
        hidden=model["intermediate_size"],
        activation=model["hidden_act"],
        vocab_size=model["vocab_size"],
        max_text_tokens=run.get("texts", {}).get("max_tokens", 196),
        drop_path=0.0,  # gradients are recorded in training mode without any dropout
        text_dropout=0.0,
        moe_layers=tuple(i for i in layers if i < model["num_hidden_layers"]),
        upper_ffn=upper,
        experts=experts["num_experts"],
        lower_ffn={"vl": "separate", "single": "shared", "moe": "moe"}[lower["type"]],
        lower_experts=lower_experts["num_experts"],
        lower_modality=lower_experts["type_route"],
        lower_ignores_mode=True,
        router=RouterConfig(modality=experts["type_route"]).published().with_(noise="never"),
    )


def load_backbone(config: EveConfig, published: Mapping[str, Tensor]) -> EveModel:
    """Build the model, give it published weights (keys without `backbone.`) and put it in eval mode."""
    model = EveModel(config)
    model.load_state_dict(backbone_from_published(published))
    return model.eval()


def backbone_gradients(model: EveModel) -> dict[str, Tensor]:
    """Return the gradients under the published names (weights without gradient are left out)."""
    return backbone_to_published({n: p.grad for n, p in model.named_parameters() if p.grad is not None})


def task_gradients(task: nn.Module, case: Case) -> list[Comparison]:
    """Compare the gradients of a task (model and heads) with the recorded ones, under the published names.

    Terms that cancel leave rounding of the largest terms behind (of a token with one expert left, the weight
    is 1 whatever the router says: the original records 8e-9 where the gradient is 0). So no gradient is
    compared more closely than float32 resolves the largest gradient of the case: 2e-7 of it, absolute.
    """
    ours = to_published({n: p.grad for n, p in task.named_parameters() if p.grad is not None})
    recorded = case.under("grad.")
    largest = max((g.abs().max().item() for g in recorded.values()), default=0.0)
    floor = max(2e-7 * largest / Tolerances().gradient, 1e-5)
    return [gradient(n, ours.get(n), g, floor) for n, g in sorted(recorded.items())]


@contextmanager
def recorded_noise(model: nn.Module, noises: Sequence[Tensor]) -> Iterator[None]:
    """Make the n-th router call inside use `noises[n]` in place of fresh Gumbel noise."""
    pending = iter(noises)
    routers = [m for m in model.modules() if isinstance(m, Router)]
    before = [(r.config, r.draw_noise) for r in routers]
    for router in routers:
        router.config = router.config.with_(noise="always")
        router.draw_noise = lambda logits: next(pending).to(logits)
    try:
        yield
    finally:
        for router, (config, draw) in zip(routers, before, strict=True):
            router.config, router.draw_noise = config, draw


@contextmanager
def watch_mixtures(model: nn.Module) -> Iterator[list[Mixed]]:
    """Collect the output of every mixture call inside, in the order of the calls."""
    seen: list[Mixed] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        for module in model.modules()
        if isinstance(module, Mixture)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
