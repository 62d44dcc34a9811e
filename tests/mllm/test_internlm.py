"""InternLM2 as a Llama: the fused projection by hand, names both ways."""

import pytest
import torch

from diptych.errors import CheckpointError
from diptych.systems.mllm.internlm import Heads, from_llama, join_fused, split_fused, to_llama

HEADS = Heads(queries=4, keys=2)
BLOCK = "model.layers.3"


def state() -> dict[str, torch.Tensor]:
    """Return a model of width 4: heads of one row each."""
    return {
        "model.tok_embeddings.weight": torch.randn(5, 4),
        f"{BLOCK}.attention.wqkv.weight": torch.randn(8, 4),
        f"{BLOCK}.attention.wqkv.Plora_A.weight": torch.randn(2, 4),
        f"{BLOCK}.attention.wqkv.Plora_B.weight": torch.randn(8, 2),
        f"{BLOCK}.attention.wo.weight": torch.randn(4, 4),
        f"{BLOCK}.feed_forward.w1.weight": torch.randn(6, 4),
        f"{BLOCK}.feed_forward.w3.weight": torch.randn(6, 4),
        f"{BLOCK}.feed_forward.w2.weight": torch.randn(4, 6),
        f"{BLOCK}.attention_norm.weight": torch.randn(4),
        f"{BLOCK}.ffn_norm.weight": torch.randn(4),
        "model.norm.weight": torch.randn(4),
        "output.weight": torch.randn(5, 4),
    }


def test_fused_rows_by_hand() -> None:
    # Two key-value heads, each with two queries, its key and its value; heads of two rows.
    names = [
        "q0",
        "q0'",
        "q1",
        "q1'",
        "k0",
        "k0'",
        "v0",
        "v0'",
        "q2",
        "q2'",
        "q3",
        "q3'",
        "k1",
        "k1'",
        "v1",
        "v1'",
    ]
    rows = torch.arange(16.0)[:, None]
    found = [[names[int(i)] for i in part[:, 0]] for part in split_fused(rows, HEADS)]
    assert found[0] == ["q0", "q0'", "q1", "q1'", "q2", "q2'", "q3", "q3'"]
    assert found[1] == ["k0", "k0'", "k1", "k1'"]
    assert found[2] == ["v0", "v0'", "v1", "v1'"]
    assert torch.equal(join_fused(*split_fused(rows, HEADS), HEADS), rows)


def test_rows_that_heads_do_not_make_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"15 rows, which 4 query heads and 2 key-value heads"):
        split_fused(torch.zeros(15, 1), HEADS)


def test_names_and_back() -> None:
    published = state() | {
        "vit.something": torch.zeros(1),
        f"{BLOCK}.attention.rotary_emb.inv_freq": torch.zeros(1),
    }
    ours, left = to_llama(published, HEADS)
    assert left == [f"{BLOCK}.attention.rotary_emb.inv_freq", "vit.something"]
    assert set(ours) == {
        "model.embed_tokens.weight",
        f"{BLOCK}.self_attn.q_proj.base.weight",
        f"{BLOCK}.self_attn.k_proj.base.weight",
        f"{BLOCK}.self_attn.v_proj.base.weight",
        f"{BLOCK}.self_attn.q_proj.down.weight",
        f"{BLOCK}.self_attn.q_proj.up.weight",
        f"{BLOCK}.self_attn.k_proj.up.weight",
        f"{BLOCK}.self_attn.v_proj.up.weight",
        f"{BLOCK}.self_attn.o_proj.weight",
        f"{BLOCK}.mlp.gate_proj.weight",
        f"{BLOCK}.mlp.up_proj.weight",
        f"{BLOCK}.mlp.down_proj.weight",
        f"{BLOCK}.input_layernorm.weight",
        f"{BLOCK}.post_attention_layernorm.weight",
        "model.norm.weight",
        "lm_head.weight",
    }
    # w1 is the gate, w3 the way up.
    assert torch.equal(ours[f"{BLOCK}.mlp.up_proj.weight"], published[f"{BLOCK}.feed_forward.w3.weight"])
    back, lost = from_llama(ours, HEADS)
    assert lost == []
    assert back.keys() == state().keys()
    assert all(torch.equal(back[name], published[name]) for name in back)


def test_branches_of_their_own_can_only_be_fused_where_they_are_equal() -> None:
    ours, _ = to_llama(state(), HEADS)
    first = ours[f"{BLOCK}.self_attn.q_proj.down.weight"]
    ours[f"{BLOCK}.self_attn.k_proj.down.weight"] = first.clone()
    assert from_llama(ours, HEADS)[1] == []
    ours[f"{BLOCK}.self_attn.k_proj.down.weight"] = first + 1
    with pytest.raises(CheckpointError, match=r"k_proj\.down\.weight differs from .*q_proj\.down\.weight"):
        from_llama(ours, HEADS)


def test_what_has_no_place_is_told() -> None:
    ours, _ = to_llama(state(), HEADS)
    del ours[f"{BLOCK}.self_attn.v_proj.base.weight"]
    lost = from_llama(ours | {"model.layers.3.self_attn.q_norm.weight": torch.zeros(1)}, HEADS)[1]
    assert lost == [
        f"{BLOCK}.self_attn.k_proj.base.weight",
        f"{BLOCK}.self_attn.q_norm.weight",
        f"{BLOCK}.self_attn.q_proj.base.weight",
    ]
