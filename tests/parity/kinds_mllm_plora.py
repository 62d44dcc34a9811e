"""Kinds `plora_linear` and `ixc_internlm2_plora` of mllm: partial LoRA alone and in a language model."""

import torch
from tests.parity.runner import Case, Comparison, exact, gradient, output
from torch import nn

from diptych.blocks.plora import PartialLora, PicturePositions, add_plora
from diptych.systems.mllm.internlm import PLORA_NAMES, SHARED, Heads, from_llama, to_llama


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


def check_language(case: Case) -> list[Comparison]:
    """Run converted weights in transformers' Llama, with the recorded picture positions and without."""
    from transformers import LlamaConfig, LlamaModel

    config, given = case.meta["config"], case.tensors
    heads = Heads(config["num_attention_heads"], config["num_key_value_heads"])
    published = {name.removeprefix("param."): t for name, t in given.items() if name.startswith("param.")}
    state, left = to_llama(published, heads)
    llama = LlamaConfig(
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_attention_heads=heads.queries,
        num_key_value_heads=heads.keys,
        num_hidden_layers=config["num_hidden_layers"],
        vocab_size=config["vocab_size"],
        rms_norm_eps=config["rms_norm_eps"],
        rope_parameters={"rope_theta": float(config["rope_theta"]), "rope_type": "default"},
        attention_bias=config["bias"],
        hidden_act=config["hidden_act"],
        attn_implementation="eager",
    )
    model = LlamaModel(llama)
    positions = add_plora(
        model, PLORA_NAMES, rank=config["plora_r"], alpha=config["plora_alpha"], share=SHARED
    )
    model.load_state_dict({name.removeprefix("model."): t for name, t in state.items()})
    real = given["in.attention_mask"].bool()
    done = [exact("names left out", left, [])]
    for name, mask in (("hidden", given["in.im_mask"]), ("hidden_no_image", None)):
        positions.set(mask)
        with torch.no_grad():
            found = model.eval()(
                inputs_embeds=given["in.inputs_embeds"], attention_mask=given["in.attention_mask"]
            )
        done.append(output(name, found.last_hidden_state[real], given[f"out.{name}"][real]))
    back, lost = from_llama(state, heads)
    same = back.keys() == published.keys() and all(torch.equal(back[n], published[n]) for n in back)
    return [*done, exact("names on the way back", lost, []), exact("and back", same, True)]
