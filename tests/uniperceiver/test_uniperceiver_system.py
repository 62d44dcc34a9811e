"""Uni-Perceiver as a system: capabilities, exact packing of targets, the tokenizer."""

import pickle

import pytest
import torch
import torch.nn.functional as F

from diptych.data.text import Tokenizer
from diptych.errors import DataError
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.systems.protocol import TargetRows
from diptych.systems.uniperceiver.attributes import TARGETS
from diptych.systems.uniperceiver.collate import pad_rows
from diptych.systems.uniperceiver.config import ConditionalConfig, PromptConfig
from diptych.systems.uniperceiver.model import UniPerceiverModel

ROWS = [[5, 9, 2], [7, 2], [11, 12, 13, 14, 2], [8, 2], [30, 31, 2]]
KINDS = {
    "plain": {},
    "experts": {"experts": ConditionalConfig(layers="odd", noise=0.0)},
    "prompts": {"prompts": PromptConfig(deep=3, deep_targets=2, labels=len(ROWS), classes=len(ROWS))},
}


def model_of(kind: str) -> UniPerceiverModel:
    torch.manual_seed(1)
    system = look_up(SYSTEMS, "uniperceiver", "system")
    model = system.build(system.toy_config().with_(**KINDS[kind])).eval()
    assert isinstance(model, UniPerceiverModel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def rows_of(rows: list[list[int]]) -> TargetRows:
    return TargetRows(
        torch.tensor([i for row in rows for i in row]), torch.tensor([len(row) for row in rows])
    )


def padded_features(model: UniPerceiverModel) -> torch.Tensor:
    ids, padding = pad_rows(ROWS)
    states = model.encode_targets(ids, padding, model.segments(TARGETS["classes"]))
    return model.likelihood.features(states[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_targets_packed_exactly_are_those_padded(kind: str) -> None:
    model = model_of(kind)
    expected = padded_features(model)
    found = model.target_features(rows_of(ROWS), "classes")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(expected)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    ours, theirs = (
        torch.autograd.grad((x * weights).sum(), list(model.parameters()), allow_unused=True)
        for x in (found, expected)
    )
    for name, a, b in zip(names, ours, theirs, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


def test_sublayers_are_dropped_by_target() -> None:
    model = model_of("plain").train()
    for layer in model.layers:
        layer.drop_path.rate = 0.5
    torch.manual_seed(0)
    found = model.target_features(rows_of([[5, 2], [5, 2, 2], *[[5, 2]] * 30]), "classes")
    same = (found[2:] - found[0]).abs().amax(1)
    assert (same < 1e-5).any(), "equal rows that keep the same branches are equal"
    assert (same > 1e-2).any(), "and others lose some"


def test_some_rows_in_another_order() -> None:
    rows = rows_of(ROWS).take(torch.tensor([3, 0, 3]))
    assert rows.ids.tolist() == [8, 2, 5, 9, 2, 8, 2]
    assert rows.lengths.tolist() == [2, 3, 2]
    assert len(rows) == 3


def test_pictures_and_texts_have_features_in_one_space() -> None:
    model = model_of("plain")
    assert model.aligned
    ids, padding = pad_rows(ROWS)
    texts = model.encode_text(ids, ~padding)
    torch.testing.assert_close(
        texts.pooled, F.normalize(padded_features(model), dim=-1), rtol=1e-4, atol=1e-5
    )
    seen = model.encode_visual(torch.randn(2, 3, 16, 16))
    assert seen.parts is not None
    assert seen.pooled_raw is not None
    torch.testing.assert_close(seen.parts[:, 0].norm(dim=-1), torch.ones(2))
    logits = model.compare(seen.pooled_raw, padded_features(model), "img_cls")
    torch.testing.assert_close(logits, seen.pooled @ texts.pooled.T / 0.07, rtol=0.5, atol=3.0)
    factor = model.likelihood.factor("img_cls")
    torch.testing.assert_close(logits, factor * (seen.pooled @ texts.pooled.T), rtol=1e-4, atol=1e-4)


def test_experts_are_asked_for_every_kind_of_input() -> None:
    model = model_of("experts")
    ids, padding = pad_rows(ROWS[:2])
    pictures = torch.randn(2, 3, 16, 16)
    read, told = model.read_text(ids, ~padding), model.encode_text(ids, ~padding)
    assert not torch.allclose(read.pooled, told.pooled)
    fused = model.fuse(pictures, ids, ~padding)
    assert fused.text.shape == (2, 3, 32)
    assert fused.visual.shape == (2, 4, 32)


def test_packaged_tokenizer() -> None:
    tokenizer = Tokenizer.from_file("uniperceiver")
    assert tokenizer.vocab_size == 49411
    assert (tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id) == (49407, 49410, 0)
    assert not tokenizer.opens
    assert tokenizer.sequence("A &amp; b.", 10) == [*tokenizer.tokens("a & b."), 49407]
    assert tokenizer.tokens("left .") == [1823, 269]
    assert tokenizer.tokens("it is <|spe|>")[-1] == 49410
    assert tokenizer.sequence("left right left", 3) == [1823, 1155, 49407]
    again = Tokenizer.from_bytes(tokenizer.to_json().encode())
    assert again.sequence("A &amp; b.", 10) == tokenizer.sequence("A & b.", 10)
    assert tokenizer.decode(tokenizer.sequence("a red fox", 9)).strip() == "a red fox"


def test_trained_tokenizer_without_a_start() -> None:
    tokenizer = Tokenizer.train(["a red cat", "a red dog"] * 3, 60, "uniperceiver")
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.sep_id, tokenizer.mask_id) == (0, 1, 2, 3)
    assert not tokenizer.opens
    ids, mask = tokenizer.encode(["a red cat", "dog"], 8)
    assert ids[0, int(mask[0].sum()) - 1] == 2
    assert tokenizer.decode(ids[0]) == "a red cat"
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.sequence("a dog", 8) == tokenizer.sequence("a dog", 8)
    assert Tokenizer.train(["a red cat"] * 3, 60).opens


def test_a_slot_without_an_end_is_refused() -> None:
    raw = Tokenizer.train(["a b"] * 3, 60, "uniperceiver").to_json().replace("<|endoftext|>", "<|stop|>")
    with pytest.raises(DataError, match=r"no <.endoftext.>"):
        Tokenizer.from_bytes(raw.encode(), "mine.json")
