"""The two-tower baseline."""

import pytest
import torch
from pydantic import ValidationError

from diptych.errors import UsageError
from diptych.objectives.contrastive import ContrastiveHead, itc_loss
from diptych.systems.eve.system import SYSTEM as EVE
from diptych.systems.two_tower.model import TwoTowerModel
from diptych.systems.two_tower.system import SYSTEM


def toy(**changes: object) -> TwoTowerModel:
    torch.manual_seed(0)
    return TwoTowerModel(SYSTEM.toy_config().with_(**changes))


def test_shapes_and_what_it_cannot_do() -> None:
    model = toy().eval()
    images, ids = torch.randn(3, 3, 16, 16), torch.randint(0, 120, (3, 7))
    mask = torch.arange(7)[None] < torch.tensor([[7], [4], [1]])
    seen, read = model.encode_visual(images), model.encode_text(ids, mask)
    assert (seen.tokens.shape, seen.pooled.shape, read.tokens.shape) == ((3, 5, 32), (3, 32), (3, 7, 32))
    assert torch.equal(model.encode_visual(model.embed_visual(images)).tokens, seen.tokens)
    assert not seen.aux
    with pytest.raises(AttributeError, match="no capability 'fuse'"):
        model.fuse(images, ids, mask)


def test_padding_changes_nothing() -> None:
    model = toy(class_sum=True).eval()
    ids, mask = torch.randint(0, 120, (1, 9)), torch.arange(9)[None] < 4
    long, short = model.encode_text(ids, mask), model.encode_text(ids[:, :4], mask[:, :4])
    torch.testing.assert_close(long.pooled, short.pooled, atol=1e-5, rtol=1e-5)


def test_it_has_the_stem_of_eve() -> None:
    ours = {n: p.shape for n, p in toy().visual.named_parameters()}
    theirs = {n: p.shape for n, p in EVE.build(EVE.toy_config()).visual.named_parameters()}
    assert ours == theirs


def test_it_learns_to_pair() -> None:
    model = toy()
    head = ContrastiveHead(model.width, 16)
    images, ids = torch.randn(8, 3, 16, 16), torch.arange(8)[:, None] * 5 + torch.arange(6)
    mask = torch.ones(8, 6, dtype=torch.bool)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    losses = []
    for _ in range(30):
        visual = head.project_visual(model.encode_visual(images).pooled)
        text = head.project_text(model.encode_text(ids, mask).pooled)
        loss = itc_loss(visual, text, head.current_temperature())
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_towers_share_nothing() -> None:
    model = toy()
    model.encode_visual(torch.randn(2, 3, 16, 16)).pooled.sum().backward()
    touched = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
    assert touched == {"visual", "image_tower"}


def test_refusals() -> None:
    with pytest.raises(UsageError, match="no published checkpoints"):
        SYSTEM.state_from_published({})
    with pytest.raises(UsageError, match="no published layout"):
        SYSTEM.state_to_published({})
    with pytest.raises(UsageError, match="expected a TwoTowerConfig, got EveConfig"):
        SYSTEM.build(EVE.toy_config())
    with pytest.raises(ValidationError, match="width 32 is not a multiple of heads 3"):
        SYSTEM.toy_config().with_(heads=3)
