"""Kinds `plora_linear` and `ixc_internlm2_plora` of mllm: partial LoRA alone and in a language model."""

from tests.parity.runner import Case, Comparison, gradient, output
from torch import nn

from diptych.blocks.plora import PartialLora, PicturePositions


def check_linear(case: Case) -> list[Comparison]:
    """Compare outputs and all gradients for every recorded mask."""
    meta, done = case.meta, []
    names = {"weight": "base.weight", "bias": "base.bias"}
    names |= {"Plora_A.weight": "down.weight", "Plora_B.weight": "up.weight"}
    for which in sorted({name.partition(".")[0] for name in case.tensors} - {"param"}):
        given, positions = case.under(f"{which}."), PicturePositions()
        base = nn.Linear(meta["in_features"], meta["out_features"], bias=meta["bias"])
        layer = PartialLora(base, positions, meta["lora_r"], meta["lora_alpha"])
        layer.load_state_dict({names[name]: tensor for name, tensor in case.under("param.").items()})
        x = given["x"].clone().requires_grad_()
        positions.set(given["mask"])
        y = layer(x)
        y.backward(given["grad_out"])
        done.append(output(f"{which}.y", y, given["y"]))
        done.append(gradient(f"{which}.grad_x", x.grad, given["grad_x"]))
        for theirs, ours in names.items():
            if f"grad.{theirs}" in given:
                found = layer.get_parameter(ours).grad
                assert found is not None, f"{ours} has no gradient: distributed training would wait for it"
                done.append(gradient(f"{which}.{theirs}", found, given[f"grad.{theirs}"]))
    return done
