"""Partial LoRA: where it acts, what it learns, and how layers are wrapped."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.blocks.plora import PartialLora, PicturePositions, add_plora, as_wrapped, split_plora
from diptych.errors import ConfigError

MASK = torch.tensor([[True, False, True], [False, False, True]])


def layer(dropout: float = 0.0, fresh: bool = False) -> tuple[PartialLora, PicturePositions]:
    positions = PicturePositions()
    made = PartialLora(nn.Linear(4, 3), positions, rank=2, alpha=6, dropout=dropout)
    if not fresh:
        nn.init.normal_(made.up.weight)
    return made, positions


class Block(nn.Module):
    """Layers under the names of a decoder block."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(4, 4), nn.Linear(4, 2)
        self.down_proj = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.norm(x) + self.q_proj(x)) + self.k_proj(x).sum(-1, keepdim=True)
        return out


def test_by_hand_at_picture_positions_only() -> None:
    net, positions = layer()
    x = torch.randn(2, 3, 4)
    positions.set(MASK)
    extra = 3.0 * (x @ net.down.weight.T @ net.up.weight.T)  # alpha / rank = 3
    base = x @ net.base.weight.T + net.base.bias
    assert torch.allclose(net(x), torch.where(MASK[..., None], base + extra, base), atol=1e-6)


def test_a_fresh_branch_changes_nothing() -> None:
    net, positions = layer(fresh=True)
    x = torch.randn(2, 3, 4)
    positions.set(MASK)
    assert torch.equal(net(x), net.base(x))
    assert net.down.weight.abs().max() > 0


@pytest.mark.parametrize("mask", [None, torch.zeros(2, 3, dtype=torch.bool)])
def test_without_pictures_the_branch_gets_gradients_of_zero(mask: Tensor | None) -> None:
    net, positions = layer(dropout=0.5)
    positions.set(mask)
    x = torch.randn(2, 3, 4)
    y = net.train()(x)
    assert torch.equal(y, net.base(x))
    y.sum().backward()
    for weight in (net.down.weight, net.up.weight):
        assert weight.grad is not None
        assert not weight.grad.any()


def test_only_picture_positions_teach_the_branch() -> None:
    net, positions = layer()
    x = torch.randn(2, 3, 4)
    positions.set(MASK)
    (net(x) * (~MASK)[..., None]).sum().backward()
    assert not net.up.weight.grad.any()
    net.zero_grad()
    (net(x) * MASK[..., None]).sum().backward()
    expected = 3.0 * torch.ones(3, 1) * (x[MASK] @ net.down.weight.T).sum(0)
    assert torch.allclose(net.up.weight.grad, expected, atol=1e-5)


def test_dropout_is_of_the_branch_alone() -> None:
    net, positions = layer(dropout=0.9)
    x = torch.randn(2, 3, 4)
    positions.set(MASK)
    one, two = net.train()(x), net(x)
    assert torch.equal(one[~MASK], two[~MASK])
    assert torch.equal(net.eval()(x), net(x))


def test_positions_of_another_forward_are_refused() -> None:
    net, positions = layer()
    positions.set(MASK)
    with pytest.raises(ValueError, match=r"told for \[2, 3\], but the layer sees \[2, 1\]"):
        net(torch.randn(2, 1, 4))


def test_positions_hold_for_a_block_of_code() -> None:
    positions = PicturePositions()
    positions.set(MASK)
    with positions.at(None):
        assert positions.mask is None
        assert positions.places is None
    assert positions.mask is MASK
    assert positions.places is not None
    assert positions.places.tolist() == [0, 2, 5]


def test_what_is_computed_again_sees_the_positions_of_its_own_forward() -> None:
    net, positions = layer()
    x = torch.randn(2, 3, 4)

    def gradient(again: bool) -> Tensor:
        net.zero_grad()
        positions.set(MASK)
        if again:
            y = checkpoint(net, x, use_reentrant=False, context_fn=positions.checkpoint_contexts)
        else:
            y = net(x)
        positions.set(torch.ones(2, 3, dtype=torch.bool))  # another forward before the way back
        y.square().sum().backward()
        assert net.down.weight.grad is not None
        return net.down.weight.grad.clone()

    assert torch.equal(gradient(again=True), gradient(again=False))


def test_layers_are_wrapped_by_name_and_share_what_they_are_told_to() -> None:
    model = nn.ModuleList([Block(), Block()])
    before = sum(p.numel() for p in model.parameters())
    positions = add_plora(model, ["q_proj", "k_*"], rank=2, alpha=2, share=[("q_proj", "k_proj")])
    names = {n for n, m in model.named_modules() if isinstance(m, PartialLora)}
    assert names == {"0.q_proj", "0.k_proj", "1.q_proj", "1.k_proj"}
    q, k = model[0].q_proj, model[0].k_proj
    assert k.reader is q.down
    assert "0.k_proj.down.weight" not in model.state_dict()
    # One `down` of 4 x 2 and two `up` of 2 x 4 and 2 x 2 a block.
    assert sum(p.numel() for p in model.parameters()) - before == 2 * (8 + 8 + 4)
    x = torch.randn(1, 3, 4)
    positions.set(torch.tensor([[True, True, False]]))
    nn.init.ones_(k.up.weight)
    assert torch.allclose(k(x)[0, :2], k.base(x)[0, :2] + q.down(x)[0, :2].sum(-1, keepdim=True), atol=1e-6)


def test_a_copy_of_the_model_has_positions_of_its_own() -> None:
    model = Block()
    positions = add_plora(model, ["q_proj", "k_proj"], rank=2, alpha=2, share=[("q_proj", "k_proj")])
    twin = copy.deepcopy(model)
    positions.set(MASK)
    assert twin.q_proj.positions is not positions
    assert twin.q_proj.positions is twin.k_proj.positions
    assert twin.q_proj.positions.mask is None
    assert twin.k_proj.reader is twin.q_proj.down


def test_names_that_fit_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no layer is called wqkv.*down_proj, k_proj, q_proj"):
        add_plora(Block(), ["wqkv"], rank=2, alpha=2)
    with pytest.raises(ConfigError, match="norm is a LayerNorm, expected a linear layer"):
        add_plora(Block(), ["norm"], rank=2, alpha=2)
    with pytest.raises(ConfigError, match="k_proj, which is no layer before it"):
        add_plora(Block(), ["q_proj", "k_proj"], rank=2, alpha=2, share=[("k_proj", "q_proj")])


def test_lora_of_peft_lies_inside() -> None:
    import peft

    model = nn.ModuleList([Block()])
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["q_proj"]), model)
    positions = add_plora(model, ["q_proj"], rank=3, alpha=3)
    wrapped = model[0].q_proj
    assert isinstance(wrapped, PartialLora)
    assert isinstance(wrapped.base, peft.tuners.lora.Linear)
    nn.init.ones_(wrapped.up.weight)
    x = torch.randn(2, 3, 4)
    positions.set(MASK)
    assert torch.equal(wrapped(x)[~MASK], wrapped.base(x)[~MASK])
    assert not torch.allclose(wrapped(x)[MASK], wrapped.base(x)[MASK])


def test_weights_without_the_wrapping() -> None:
    plain = Block()
    model = copy.deepcopy(plain)
    add_plora(model, ["q_proj", "down_proj"], rank=2, alpha=2)
    layers, branches = split_plora(model.state_dict())
    plain.load_state_dict(layers)  # strict: all names are those of the plain model
    assert sorted(branches) == [
        "down_proj.down.weight",
        "down_proj.up.weight",
        "q_proj.down.weight",
        "q_proj.up.weight",
    ]


def test_weights_find_their_place_under_other_adapters() -> None:
    import peft

    plain = Block()
    branched = copy.deepcopy(plain)
    add_plora(branched, ["q_proj", "k_proj"], rank=2, alpha=2)
    both = copy.deepcopy(plain)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["q_proj"]), both)
    add_plora(both, ["q_proj", "k_proj"], rank=2, alpha=2)
    own = both.state_dict()
    assert "q_proj.base.base_layer.weight" in own
    # From a plain model: adapters are what is missing; from one with branches: LoRA is.
    for source, missing in ((plain, ("lora_", ".down.", ".up.")), (branched, ("lora_",))):
        found = as_wrapped(source.state_dict(), own)
        assert found.keys() <= own.keys()
        assert all(any(part in name for part in missing) for name in own.keys() - found.keys())
    # And back: what has no place keeps its name.
    back = as_wrapped(own, plain.state_dict())
    assert torch.equal(back["q_proj.weight"], plain.q_proj.weight)
    assert "q_proj.up.weight" in back
