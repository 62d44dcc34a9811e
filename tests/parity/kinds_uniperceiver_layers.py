"""Kind `moe_layer` of Uni-Perceiver: gates, maps and layers with experts."""

import torch
from tests.parity.runner import Case, Comparison, exact, output
from tests.parity.uniperceiver_common import gradients, load
from torch import Tensor

from diptych.systems.uniperceiver.conditional import ConditionalLinear
from diptych.systems.uniperceiver.layers import Layer, Sequences


def check(case: Case) -> list[Comparison]:
    """Compare decisions for all attributes, then a layer with one and two segments, and in training."""
    net, given, done = load(case, partly=True).eval(), case.tensors, []
    layer, dense = net.model.layers[0], net.model.layers[1]
    assert isinstance(layer, Layer)
    assert isinstance(layer.qkv, ConditionalLinear)
    for name, rows in case.under("in.attr.").items():
        decision = layer.qkv.gate(rows)
        done.append(exact(f"experts {name}", decision.experts, given[f"out.gate_idx.{name}"].long()))
        done.append(output(f"weights {name}", decision.weights, given[f"out.gate_w.{name}"]))
    x, blocked = given["in.x"], given["in.attn_mask"].bool()
    padding = given["in.key_invalid"].bool()
    names = case.meta["attribute_rows"]
    one = given[f"in.attr.{names.index('image_classification.input')}"]
    two = given[f"in.attr.{names.index('image_caption.input')}"]
    prefix = _prefix(layer, x, two, given["out.qkv.two"])
    with torch.no_grad():
        for key, rows in (("one", one), ("two", two)):
            about = Sequences(padding, blocked, rows, prefix)
            decisions = layer.decide(about)
            lengths = about.lengths_of(x.shape[1])
            qkv = layer.qkv(x, lengths, decisions[0])
            done.append(output(f"qkv {key}", qkv, given[f"out.qkv.{key}"]))
            done.append(output(f"layer {key}", layer(x, about), given[f"out.layer.{key}"]))
            free = Sequences(None, None, rows, prefix)
            done.append(
                output(f"layer without masks {key}", layer(x, free), given[f"out.layer_nomask.{key}"])
            )
        if "out.layer_history_two" in given:
            history = given["in.history"]
            step = Sequences(attributes=two, prefix=4, decoding=True)
            found = layer(x[:, -1:], step, history)
            nearest = _matching(layer, x, step, history, given["out.layer_history_two"])
            done.append(
                output("history", nearest if nearest is not None else found, given["out.layer_history_two"])
            )
        if "out.dense_layer1" in given:
            done.append(output("dense", dense(x, Sequences(padding, blocked)), given["out.dense_layer1"]))
    return done + _training(case, net, layer, x, two, prefix)


def _matching(layer: Layer, x: Tensor, step: Sequences, history: Tensor, expected: Tensor) -> Tensor | None:
    """Return the result for the position of x that was fed; which one it was is not recorded."""
    found = [layer(x[:, i : i + 1], step, history) for i in range(x.shape[1])]
    return min(found, key=lambda f: float((f - expected).abs().max()))


def _prefix(layer: Layer, x: Tensor, rows: Tensor, expected: Tensor) -> int:
    """Return where the second segment begins, which is not recorded: where the maps agree."""
    with torch.no_grad():
        decision = layer.qkv.gate(rows)
        errors = []
        for prefix in range(1, x.shape[1]):
            found = layer.qkv(x, (prefix, x.shape[1] - prefix), decision)
            errors.append(float((found - expected).abs().max()))
    return 1 + errors.index(min(errors))


def _training(case: Case, net, layer: Layer, x: Tensor, rows: Tensor, prefix: int) -> list[Comparison]:
    given = case.tensors
    if "out.train_layer" not in given:
        return []
    net.train()
    noise = given["in.noise"][: len(rows)]
    decision = layer.qkv.gate(rows, noise)
    blocked = given["in.attn_mask"].bool()
    found = [layer(x, Sequences(None, b, rows, prefix, noise=(noise, noise))) for b in (blocked, None)]
    nearest = min(found, key=lambda f: float((f.detach() - given["out.train_layer"]).abs().max()))
    done = [
        exact("training experts", decision.experts, given["out.train_gate_idx"].long()),
        output("training weights", decision.weights, given["out.train_gate_w"]),
        output("training layer", nearest, given["out.train_layer"]),
    ]
    (nearest * given["in.loss_weight"]).sum().backward()
    return done + gradients(case, net)
