"""What several kinds of SOHO cases share: configurations, weights through the converter, comparisons."""

from collections.abc import Mapping
from typing import Any

import torch
from tests.parity.runner import Case, Comparison, exact, gradient, output
from torch import Tensor, nn

from diptych.blocks.dictionary import DictionaryConfig
from diptych.blocks.resnet import ResNetConfig
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.convert import from_published, to_published

NECKS = {"SimpleVDforPreGate": "gated", "SimpleVDforPre": "added", "SimpleVDforVQA": "plain"}


def backbone_config(published: Mapping[str, Any]) -> ResNetConfig:
    """Translate the backbone of a case."""
    if published.get("style", "pytorch") != "pytorch" or published.get("type", "ResNet") != "ResNet":
        raise NotImplementedError(f"backbone {published}")
    stem = published.get("stem_channels", 64)
    return ResNetConfig(
        depth=published["depth"],
        stem_channels=stem,
        base_channels=published.get("base_channels", stem),
        frozen_stages=published.get("frozen_stages", -1),
        recompute=published.get("with_cp", False),
    )


def neck_options(published: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the neck of a case to fields of our configuration."""
    dictionary = DictionaryConfig(
        codes=published.get("num_tokens", 2048),
        decay=published.get("decay", 0.1),
        eps=published.get("eps", 1e-5),
    )
    return {
        "neck": NECKS[published["type"]],
        "width": published["out_channels"],
        "dictionary": dictionary.published(),
        "align_before": published.get("begin_align", False),
        "align": published.get("pos_align", True),
    }


def model_config(meta: Mapping[str, Any]) -> SohoConfig:
    """Translate the configuration of a whole-model case."""
    model, dropout = meta["model"], meta.get("dropout", 0.0)
    language = model["language"]
    return SohoConfig(
        backbone=backbone_config(model["backbone"]),
        layers=language["num_hidden_layers"],
        heads=language["num_attention_heads"],
        hidden=language["intermediate_size"],
        vocab_size=language["vocab_size"],
        max_text_tokens=language.get("max_position_embeddings", 512),
        dropout=dropout,
        attention_dropout=dropout,
        **neck_options(model["neck"]),
    )


def fill(module: nn.Module, weights: Mapping[str, Tensor], published: str, ours: str) -> None:
    """Load weights through the converter: `published` and `ours` come before the names of both sides.

    Every parameter and buffer must be given, counters of batches excepted.
    """
    whole = {published + name: tensor for name, tensor in weights.items()}
    marker = "language.bert.embeddings.LayerNorm.bias"
    imported = from_published(whole | ({} if marker in whole else {marker: torch.zeros(1)}))
    assert not imported.ignored, imported.ignored
    state = {n.removeprefix(ours): t for n, t in imported.state.items() if n.startswith(ours)}
    if marker not in whole:
        state.pop("model.text.norm.bias".removeprefix(ours), None)
    own = module.state_dict()
    lacking = sorted(n for n in own.keys() - state.keys() if not n.endswith("num_batches_tracked"))
    assert not lacking, lacking
    assert not state.keys() - own.keys(), sorted(state.keys() - own.keys())
    module.load_state_dict(own | state)


def gradients(case: Case, module: nn.Module, published: str, ours: str) -> list[Comparison]:
    """Compare the recorded gradients of parameters, under their published names."""
    found = {
        ours + name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in module.named_parameters()
    }
    mine = {name.removeprefix(published): g for name, g in to_published(found).items()}
    skipped = ("feature_map", "visual_tokens", "img")  # inputs, which the kinds compare themselves
    return [gradient(f"grad.{n}", mine[n], t) for n, t in case.under("grad.").items() if n not in skipped]


def buffers(case: Case, module: nn.Module, published: str, ours: str) -> list[Comparison]:
    """Compare the recorded buffers behind the step."""
    state = {ours + name: tensor for name, tensor in module.state_dict().items()}
    mine = {name.removeprefix(published): t for name, t in to_published(state).items()}
    done = []
    for name, expected in case.under("out.buffer.").items():
        compare = output if expected.is_floating_point() else exact
        done.append(compare(f"buffer.{name}", mine[name], expected))
    return done


def sizes_of(case: Case) -> tuple[Tensor, tuple[int, int]]:
    """Return the pictures' sizes [B, 2] and the frame that they are padded to."""
    pads = case.tensors["in.pad_shape"]
    return case.tensors["in.img_shape"], (int(pads[:, 0].max()), int(pads[:, 1].max()))
