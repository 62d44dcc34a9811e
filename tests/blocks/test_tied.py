"""A table of words that is looked up and multiplied with: torch's gradients, without a second table."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.blocks import products
from diptych.blocks.bert import BertEmbedding
from diptych.blocks.products import Linear, multiplied, product
from diptych.blocks.tied import TiedTable

V, D = 11, 4
IDS = torch.tensor([[3, 0, 3], [10, 7, 0]])


def expected_of(weight: Tensor, above: Tensor, below: Tensor, padding: int | None) -> Tensor:
    """Return torch's gradient of a table that is looked up, and multiplied with what was found."""
    leaf = weight.clone().requires_grad_()
    found = F.embedding(IDS, leaf, padding)
    ((found @ leaf.t() * above).sum() + (found * below).sum()).backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("padding", [None, 0, 3])
def test_gradients_are_those_of_torch(padding: int | None) -> None:
    torch.manual_seed(0)
    weight, above, below = torch.randn(V, D), torch.randn(2, 3, V), torch.randn(2, 3, D)
    leaf = weight.clone().requires_grad_()
    for times in (1, 2):  # gradients add up over steps
        table = TiedTable(leaf, padding)
        found = table.look_up(IDS)
        assert torch.equal(found, weight[IDS])
        ((found @ table.weight.t() * above).sum() + (found * below).sum()).backward()
        torch.testing.assert_close(leaf.grad, times * expected_of(weight, above, below, padding))


def test_a_table_without_a_product_or_a_gradient() -> None:
    leaf = torch.randn(V, D, requires_grad=True)
    table = TiedTable(leaf)
    (table.look_up(IDS).sum() + table.look_up(IDS[0]).sum()).backward()
    counts = torch.bincount(torch.cat([IDS.flatten(), IDS[0]]), minlength=V).float()
    assert torch.equal(leaf.grad, counts[:, None].expand(V, D))
    frozen = TiedTable(leaf.detach())
    assert not frozen.look_up(IDS).requires_grad
    summed = TiedTable(leaf)  # a gradient that is one number everywhere is no memory to add to
    (gradient,) = torch.autograd.grad(summed.look_up(IDS).sum() + summed.weight.sum(), leaf)
    assert torch.equal(gradient, 1 + torch.bincount(IDS.flatten(), minlength=V).float()[:, None].expand(V, D))


class Tables(TorchDispatchMode):
    """Counts gradients as large as the table that are written whole: by products, zeros and sums."""

    made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        names = ("aten::mm", "aten::add.Tensor", "aten::add_.Tensor", "aten::embedding_dense_backward")
        self.made += isinstance(out, Tensor) and out.numel() == V * D and func.name() in names
        return out


def test_one_table_is_written_and_no_second() -> None:
    embedding = BertEmbedding(V, 5, 2, D, 0.0)
    nn.init.normal_(embedding.words.weight)
    written = []
    for table in (embedding.tied(), None):
        x = embedding(IDS, table=table)
        weight = embedding.words.weight if table is None else table.weight
        with Tables() as tables:
            F.linear(x, weight).square().sum().backward()
        embedding.zero_grad()
        written.append(tables.made)
    assert written == [1, 3]  # torch: the product's, the look-up's, their sum


def test_linear_layers_do_what_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x, above = Linear(6, 5), torch.randn(3, 2, 6, requires_grad=True), torch.randn(3, 2, 5)
    parts = (x, layer.weight, layer.bias)
    expected = F.linear(x, layer.weight, layer.bias)
    wanted = torch.autograd.grad(expected, parts, above)
    called = []

    def counted(*given: Tensor) -> Tensor:
        called.append(given)
        return product(*given)

    monkeypatch.setattr(products, "product", counted)
    assert torch.equal(layer(x), expected)
    assert not called  # so small that torch is faster
    monkeypatch.setattr(products, "LEAST", 0)
    found = layer(x)
    assert len(called) == 1
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, parts, above), wanted)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert multiplied(x, layer.weight).dtype == torch.bfloat16
    assert len(called) == 2
