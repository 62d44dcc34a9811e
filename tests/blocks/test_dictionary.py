"""The visual dictionary: golden steps, updates by hand, several ranks, and codes that come back to life."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.parity.kinds_dictionary import DICTIONARY, build
from tests.parity.runner import Case, Tolerances, run_case
from tests.ranks import run_ranks
from torch import Tensor

from diptych.blocks.collective import World
from diptych.blocks.dictionary import DictionaryConfig, VisualDictionary

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "soho"
REVIVING = DictionaryConfig(codes=6, decay=0.4, revive=0.3)


@pytest.mark.parametrize("name", ["vd_eval", "vd_train", "vd_train_decay09", "vd_train_2ranks"])
def test_golden_cases(name: str) -> None:
    verdict = run_case(Case.load(GOLDEN / f"{name}.json"))
    assert verdict.passed(Tolerances()), verdict.line(Tolerances())


def small(config: DictionaryConfig, codes: list[list[float]]) -> VisualDictionary:
    dictionary = VisualDictionary(2, config.with_(codes=len(codes)))
    dictionary.codes.copy_(torch.tensor(codes))
    if config.start == "counted":
        dictionary.sums.copy_(dictionary.codes)
    return dictionary


def test_an_update_by_hand() -> None:
    dictionary = small(DictionaryConfig(decay=0.5, eps=1e-9), [[0, 0], [4, 0], [0, 9]])
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]], requires_grad=True)
    found = dictionary(x)
    assert found.indices.tolist() == [0, 1, 0]
    # Counts: (1 + 2) / 2, (1 + 1) / 2, 1 / 2; sums: (0,0) and (1,1), (4,0) and (3,0), (0,9) and nothing.
    torch.testing.assert_close(dictionary.sizes, torch.tensor([1.5, 1.0, 0.5]))
    torch.testing.assert_close(dictionary.sums, torch.tensor([[0.5, 0.5], [3.5, 0.0], [0.0, 4.5]]))
    torch.testing.assert_close(dictionary.codes, torch.tensor([[1 / 3, 1 / 3], [3.5, 0.0], [0.0, 9.0]]))
    assert dictionary.totals.tolist() == [2, 1, 0]
    torch.testing.assert_close(found.vectors, dictionary.codes[found.indices])
    (found.vectors * torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_evaluation_changes_nothing_and_ties_go_to_the_first() -> None:
    dictionary = small(DictionaryConfig(), [[1, 0], [-1, 0], [1, 0]]).eval()
    before = {name: buffer.clone() for name, buffer in dictionary.named_buffers()}
    assert dictionary(torch.tensor([[0.0, 1.0], [2.0, 0.0]])).indices.tolist() == [0, 0]
    for name, buffer in dictionary.named_buffers():
        assert torch.equal(buffer, before[name])


def test_published_start_loses_unused_codes() -> None:
    codes = [[0.0, 0.0], [50.0, 50.0]]
    x = torch.ones(3, 2)
    published = small(DictionaryConfig().published(), codes)
    published(x)
    assert published.codes[1].tolist() == [0, 0]
    ours = small(DictionaryConfig(), codes)
    ours(x)
    torch.testing.assert_close(ours.codes[1], torch.tensor([50.0, 50.0]), atol=0.01, rtol=0)


def test_padding_teaches_nothing() -> None:
    real = torch.tensor([True, False, True])
    x = torch.tensor([[1.0, 0.0], [9.0, 9.0], [0.0, 1.0]])
    config = DictionaryConfig()
    masked, without = (small(config, [[0, 1], [1, 0], [9, 8]]) for _ in range(2))
    found = masked(x, real)
    without(x[real])
    assert found.indices.tolist() == [1, 2, 0]
    for name, buffer in without.named_buffers():
        assert torch.equal(masked.get_buffer(name), buffer)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary, x = VisualDictionary(4, DictionaryConfig(codes=9)), torch.randn(23, 4)
    whole = dictionary.nearest(x)
    monkeypatch.setattr("diptych.blocks.dictionary.CHUNK", 5)
    assert torch.equal(dictionary.nearest(x), whole)


def test_bfloat16_is_quantised_in_float32() -> None:
    dictionary = VisualDictionary(4, DictionaryConfig(codes=9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = dictionary(torch.randn(5, 4).bfloat16())
    assert found.vectors.dtype == torch.bfloat16
    assert dictionary.codes.dtype == torch.float32


def test_dead_codes_become_vectors_of_the_batch() -> None:
    torch.manual_seed(0)
    dictionary = small(REVIVING, [[0, 0], [90, 90], [80, 80]])
    x = torch.tensor([[0.5, 0.0], [0.0, 0.25]])
    dictionary(x)
    assert (dictionary.codes[1:] > 50).all()  # counted as one vector, and 0.4 is enough
    dictionary(x)
    rows = {tuple(row) for row in x.tolist()}
    for code in dictionary.codes[1:]:
        assert tuple(round(float(value), 3) for value in code) in rows
    assert dictionary.sizes[1:].tolist() == [1, 1]
    with pytest.raises(ValidationError, match=r"revive 0.6 must be below 1 - decay = 0.6"):
        DictionaryConfig(decay=0.4, revive=0.6)


def reviving_steps(world: World) -> dict[str, Tensor]:
    """Run five steps on this rank's uneven part of each batch; return the buffers."""
    torch.manual_seed(3)
    dictionary = VisualDictionary(5, REVIVING)
    dictionary.world = world
    for step in range(5):
        x = torch.randn(7, 5, generator=torch.Generator().manual_seed(step)) * 0.1
        rows = (slice(0, 7), slice(0, 5), slice(5, 7))[0 if world.size == 1 else 1 + world.rank]
        dictionary(x[rows])
    return dict(dictionary.named_buffers())


def golden_steps(world: World) -> list[dict[str, Any]]:
    """Run the golden case of two ranks; return what this rank sees."""
    case = Case.load(GOLDEN / "vd_train_2ranks.json")
    dictionary = build(case)
    dictionary.world = world
    seen = []
    for step in range(case.meta["config"]["steps"]):
        found = dictionary(case.tensors[f"in.step{step}.rank{world.rank}.x"])
        buffers = {theirs: dictionary.get_buffer(ours).clone() for theirs, ours in DICTIONARY.items()}
        seen.append({"quantize": found.vectors, "indices": found.indices, **buffers})
    return seen


def both(world: World) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    return reviving_steps(world), golden_steps(world)


@pytest.mark.slow
def test_two_ranks_share_a_dictionary() -> None:
    case = Case.load(GOLDEN / "vd_train_2ranks.json")
    alone = reviving_steps(World())
    ranks = run_ranks(both)
    for rank, (buffers, steps) in enumerate(ranks):
        torch.testing.assert_close(buffers, alone, atol=1e-6, rtol=1e-5)
        for name, buffer in buffers.items():
            assert torch.equal(buffer, ranks[0][0][name])
        for step, seen in enumerate(steps):
            expected = case.under(f"out.step{step}.") | case.under(f"out.step{step}.rank{rank}.")
            for name, tensor in seen.items():
                torch.testing.assert_close(tensor, expected[name], atol=2e-5, rtol=0, msg=name)
