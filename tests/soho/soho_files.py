"""Small SOHO checkpoints in the published layout, with random weights."""

import torch
from torch import Tensor

from diptych.blocks.dictionary import DictionaryConfig
from diptych.blocks.resnet import ResNetConfig
from diptych.systems.soho.config import SohoConfig
from diptych.systems.soho.convert import to_published
from diptych.systems.soho.model import SohoModel

SMALL = SohoConfig(
    backbone=ResNetConfig(depth=18, stem_channels=4, base_channels=6, frozen_stages=1),
    width=64,
    layers=2,
    heads=1,
    hidden=48,
    vocab_size=60,
    max_text_tokens=20,
    neck="gated",
    dictionary=DictionaryConfig(codes=8).published(),
)
ANSWERS = ["yes", "no", "cat", "dog", "two"]


def published_pretraining(config: SohoConfig = SMALL) -> dict[str, Tensor]:
    """Return a state dict of pre-training, the word table twice, with filled statistics."""
    torch.manual_seed(1)
    state = {f"model.{n}": t for n, t in SohoModel(config).state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif tensor.dim() == 1:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    published = to_published(state | {"itm.weight": torch.randn(2, config.width)})
    return {name: tensor.clone() for name, tensor in published.items()}


def published_vqa(config: SohoConfig = SMALL) -> dict[str, Tensor]:
    """Return a state dict of question answering with five answers; as published it has no dictionary."""
    torch.manual_seed(2)
    D = config.width
    state = {f"model.{n}": t for n, t in SohoModel(config.with_(neck="plain")).state_dict().items()}
    state |= {"vqa.hidden.weight": torch.randn(4 * D, D) / 8, "vqa.hidden.bias": torch.randn(4 * D)}
    state |= {
        "vqa.classifier.weight": torch.randn(len(ANSWERS), 4 * D) / 8,
        "vqa.classifier.bias": torch.randn(len(ANSWERS)),
    }
    return {name: tensor.clone() for name, tensor in to_published(state).items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that two state dicts are equal bit for bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
