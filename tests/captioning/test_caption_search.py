"""Writing captions: what is remembered changes nothing; beams against trying everything; hand-made scores."""

import itertools

import pytest
import torch
from torch import Tensor

from diptych.systems.protocol import TargetRows, Writing, Written
from diptych.systems.uniperceiver.attributes import INPUTS
from diptych.systems.uniperceiver.captions import caption_mask, caption_states
from diptych.systems.uniperceiver.collate import pad_rows
from diptych.systems.uniperceiver.config import ConditionalConfig, PromptConfig, UniPerceiverConfig
from diptych.systems.uniperceiver.model import UniPerceiverModel

END, SLOT, VOCABULARY = 2, 3, 40
KINDS = {
    "dense": {},
    "experts": {"experts": ConditionalConfig(layers="odd", experts=3)},
    "prompts": {"prompts": PromptConfig(deep=3, slot_bias=True)},
    "both": {"experts": ConditionalConfig(layers="all", experts=3), "prompts": PromptConfig(deep=2)},
}


def build(kind: str = "dense", seed: int = 0, vocabulary: int = VOCABULARY) -> UniPerceiverModel:
    """A toy whose layers matter, so that captions differ from picture to picture."""
    torch.manual_seed(seed)
    config = UniPerceiverConfig(
        image_size=16,
        patch_size=8,
        max_frames=2,
        width=32,
        layers=3,
        heads=4,
        hidden=48,
        vocab_size=vocabulary,
        max_text_tokens=16,
        slot=SLOT,
        end=END,
        layer_scale=0.7,
        drop_path=0.0,
        **KINDS[kind],
    )
    model = UniPerceiverModel(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter) * (parameter.dim() > 1)
    if model.text.slot_bias is not None:
        torch.nn.init.normal_(model.text.slot_bias)
    return model


@torch.no_grad()
def vocabulary(model: UniPerceiverModel, visual: Tensor | None = None, share: float = 0.5) -> Tensor:
    """Features of the words; that of the end is near what slots say, so that captions end at many lengths."""
    count = model.config.vocab_size
    ids = torch.stack([torch.arange(count), torch.full((count,), END)], 1).flatten()
    words = model.target_features(TargetRows(ids, torch.full((count,), 2)), "vocabulary")
    if visual is None:
        return words
    written = torch.full((len(visual), 5), 5)
    about = model.segments(INPUTS["image_caption"])
    states = caption_states(model, visual, written, torch.ones_like(written, dtype=torch.bool), about)
    words[END] = share * model.likelihood.features(states).mean(0) + (1 - share) * words[5:9].mean(0)
    return words


def pictures(count: int, seed: int = 5) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_memory_changes_nothing(kind: str, beams: int) -> None:
    ends = set()
    for seed in range(2):
        model = build(kind, seed)
        visual = model.embed_visual(pictures(4))
        words = vocabulary(model, visual)
        found: dict[str, Written] = {}
        for cache in ("none", "inputs", "keys"):
            options = Writing(beams=beams, steps=7, penalty=0.6 * seed, cache=cache)  # type: ignore[arg-type]
            found[cache] = model.generate(visual, words, options)
        for cache in ("inputs", "keys"):
            assert torch.equal(found[cache].ids, found["none"].ids)
            assert torch.allclose(found[cache].log_probs, found["none"].log_probs, atol=1e-4)
        assert found["none"].ids.shape == (4, beams, 7)
        ends |= set((found["none"].ids == END).sum(2).flatten().tolist())
    assert len(ends) > 1 or kind != "dense"  # captions of several lengths


@torch.no_grad()
def scores(model: UniPerceiverModel, visual: Tensor, words: Tensor, captions: list[list[int]]) -> list[float]:
    """Log-probabilities of captions of a picture by the masks of training, their end token counted."""
    ids, padding = pad_rows(captions)
    logits = model.caption_logits(visual.expand(len(ids), -1, -1), ids, ~padding, words, "caption")
    each = torch.zeros(ids.shape)
    each[~padding] = logits.log_softmax(-1).gather(1, ids[~padding][:, None])[:, 0]
    return each.sum(1).tolist()


def cut(ids: list[int]) -> list[int]:
    return ids[: ids.index(END) + 1] if END in ids else ids


def test_wide_beams_find_the_best_of_all_captions() -> None:
    steps, count = 3, 7
    for seed in range(3):
        model = build(seed=seed, vocabulary=count)
        visual = model.embed_visual(pictures(1, seed))
        words = vocabulary(model, visual, 0.4 * seed)
        others = [i for i in range(count) if i != END]
        whole = [c for n in range(steps) for c in itertools.product(others, repeat=n)]
        every = [[*c, END] for c in whole] + [list(c) for c in itertools.product(others, repeat=steps)]
        best = sorted(zip(scores(model, visual, words, every), every, strict=True), reverse=True)
        found = model.generate(visual, words, Writing(beams=count**2, steps=steps))
        for rank in range(5):
            assert cut(found.ids[0, rank].tolist()) == best[rank][1]
            assert float(found.log_probs[0, rank].sum()) == pytest.approx(best[rank][0], abs=1e-4)


def test_slots_of_training_are_those_of_writing() -> None:
    """The log-probabilities that a search reports are those that the masks of training give."""
    model = build("both", 1)
    words, visual = vocabulary(model), model.embed_visual(pictures(3))
    found = model.generate(visual, words, Writing(beams=2, steps=6))
    for picture in range(3):
        captions = [cut(ids) for ids in found.ids[picture].tolist()]
        expected = scores(model, visual[picture : picture + 1], words, captions)
        assert found.log_probs[picture].sum(1).tolist() == pytest.approx(expected, abs=1e-3)


def test_a_length_penalty_turns_the_order() -> None:
    model = build(seed=2)
    visual = model.embed_visual(pictures(6))
    words = vocabulary(model, visual, 0.9)
    plain = model.generate(visual, words, Writing(beams=4, steps=6))
    fair = model.generate(visual, words, Writing(beams=4, steps=6, penalty=2.0))
    totals = plain.log_probs.sum(2)
    assert bool((totals[:, :-1] >= totals[:, 1:]).all())
    lengths = (fair.ids != END).sum(2) + 1
    divided = fair.log_probs.sum(2) / lengths.float() ** 2
    assert bool((divided[:, :-1] >= divided[:, 1:] - 1e-6).all())
    assert not torch.equal(plain.ids, fair.ids)
    # The same captions in another order.
    for before, after in zip(plain.ids.tolist(), fair.ids.tolist(), strict=True):
        assert sorted(before) == sorted(after)


def test_a_search_ends_with_its_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(seed=0)
    visual = model.embed_visual(pictures(2))
    calls = []
    inner = model.text.forward
    monkeypatch.setattr(model.text, "forward", lambda *given: calls.append(given) or inner(*given))
    # Every other word is as unlike as can be: the first word is the end.
    target = model.likelihood.features(_first_state(model, visual))
    calls.clear()
    forced = -target[0].expand(VOCABULARY, -1).clone()
    forced[END] = target[0]
    found = model.generate(visual[:1], forced, Writing(beams=1, steps=9))
    assert len(calls) == 1
    assert found.ids.tolist() == [[[END] * 9]]
    assert found.log_probs[0, 0, 1:].abs().sum() == 0


@torch.no_grad()
def _first_state(model: UniPerceiverModel, visual: Tensor) -> Tensor:
    ids = torch.full((len(visual), 1), END)
    return caption_states(model, visual, ids, torch.ones_like(ids, dtype=torch.bool))


def test_padding_and_what_comes_later_change_no_word() -> None:
    model = build("experts", 3)
    words, visual = vocabulary(model), model.embed_visual(pictures(2))
    ids = torch.tensor([[7, 8, END, 0, 0], [9, 10, 11, 12, END]])
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    both = model.caption_logits(visual, ids, mask, words, "caption")
    assert both.shape == (8, VOCABULARY)
    alone = model.caption_logits(visual[:1], ids[:1, :3], mask[:1, :3], words, "caption")
    assert torch.allclose(both[:3], alone, atol=1e-4)
    # The first words of the second caption, cut after two: later words are not seen.
    early = model.caption_logits(visual[1:], ids[1:, :2], mask[1:, :2], words, "caption")
    assert torch.allclose(both[3:5], early, atol=1e-4)


def test_the_mask_by_hand() -> None:
    rows = ["".join(".x"[int(blocked)] for blocked in row) for row in caption_mask(1, 2).tolist()]
    #      prefix, words 1 2, slots 1 2
    assert rows == [".xxxx", "..xxx", "...xx", ".xx.x", "..xx."]
