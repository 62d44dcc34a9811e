"""Exports: the model card, tensors that share memory, and building models to be filled from them."""

from pathlib import Path

import torch
import yaml
from published_layout import SMALL
from safetensors.torch import load_file

from diptych.data.text import Tokenizer
from diptych.systems import SYSTEMS
from diptych.systems.eve.model import EveModel
from diptych.train.card import CARD, model_card
from diptych.train.export import write_export
from diptych.train.undrawn import Undrawn

SETTINGS = {
    "name": "my run",
    "system": {"name": "eve"},
    "task": {"name": "vqa"},
    "data": {"image": {"size": 32}, "text": {"max_tokens": 16}, "path": "/home/me/data/toy"},
}


def test_card_holds_what_a_user_needs(tmp_path: Path) -> None:
    state = {"model.a": torch.zeros(3, 4), "model.layers.1.ffn.moe.experts.fc1_weight": torch.zeros(2, 5)}
    words = Tokenizer.train(["red cat", "red cat"], 30)
    card = (write_export(tmp_path / "export", state, words, SETTINGS, step=1500) / CARD).read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "diptych",
        "tags": ["eve", "vqa"],
        "pipeline_tag": "visual-question-answering",
    }
    assert body.startswith("\n# my run\n")
    for row in (
        "| weights | 22, of which 10 in experts |",
        "| pictures | 32 x 32 pixels |",
        "| texts | up to 16 tokens |",
        f"| tokenizer | {words.vocab_size} tokens |",
        "| trained on | toy |",
        "| steps | 1,500 |",
        "model.answer(",
    ):
        assert row in body, row
    assert "/home/me" not in card


def test_card_without_task_or_tokenizer_says_so() -> None:
    for name in SYSTEMS:
        card = model_card({"system": {"name": name}}, {"model.a": torch.zeros(3)}, step=0, tokens=None)
        assert "heads are missing" in card
        assert "init_from.path" in card
        assert "| tokenizer | not included |" in card
        assert "| steps" not in card
        assert f"# {name}\n" in card
    assert "## About" in model_card({"system": {"name": "eve"}}, {}, step=0, tokens=None)


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    state = {"a": whole, "b": whole, "row": whole[1], "turned": whole.T, "empty": torch.empty(0)}
    folder = write_export(tmp_path / "export", state, None, {"system": {"name": "eve"}})
    found = load_file(folder / "model.safetensors")
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor), name


def test_models_for_loading_draw_nothing() -> None:
    layer = torch.nn.Linear(3, 4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(5.0)
    before = torch.random.get_rng_state()
    with Undrawn():
        layer.reset_parameters()
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(tensor=layer.weight)
        torch.nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.02, b=0.02)
        torch.nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.001, b=0.001)
        fresh = EveModel(SMALL)
    assert not layer.weight.any()
    assert not layer.bias.any()
    assert torch.equal(torch.random.get_rng_state(), before)
    fresh.load_state_dict({n: torch.ones_like(t) for n, t in fresh.state_dict().items()})
    assert all((p == 1).all() for p in fresh.parameters())
    torch.nn.init.normal_(layer.weight)
    assert layer.weight.all()
