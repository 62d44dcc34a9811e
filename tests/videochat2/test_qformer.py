"""The video transformer and the Q-Former: who reads whom, positions, names."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from diptych.blocks.qformer import QFormer, QFormerConfig, our_qformer_name, published_qformer_name
from diptych.blocks.video_vit import (
    VideoVit,
    VideoVitConfig,
    our_video_name,
    published_video_name,
    sine_table,
    video_positions,
)

SMALL = QFormerConfig(
    queries=2,
    extra_queries=3,
    width=16,
    layers=3,
    heads=2,
    hidden=24,
    vocab_size=12,
    max_text_tokens=9,
    query_std=1.0,
)


def make(**changes: object) -> QFormer:
    torch.manual_seed(0)
    return QFormer(SMALL.with_(**changes), visual_width=10).eval()


def test_sine_table_by_hand() -> None:
    table = sine_table(3, 4)
    assert table[0].tolist() == [0, 1, 0, 1]
    angle = 2 / 10000 ** (2 / 4)
    expected = [math.sin(2), math.cos(2), math.sin(angle), math.cos(angle)]
    torch.testing.assert_close(table[2], torch.tensor(expected))


def test_positions_of_clips_lie_between_those_of_the_table() -> None:
    whole = video_positions(4, 2, 8, 4, 2)
    assert torch.equal(whole, sine_table(16, 8))
    # Eight moments: at 1/4 and 3/4 between two of the four.
    twice = video_positions(8, 2, 8, 4, 2).view(8, 4, 8)
    frames = whole.view(4, 4, 8)
    torch.testing.assert_close(twice[1], 0.75 * frames[0] + 0.25 * frames[1])
    torch.testing.assert_close(twice[2], 0.25 * frames[0] + 0.75 * frames[1])
    assert torch.equal(twice[0], frames[0])
    assert torch.equal(video_positions(1, 2, 8, 4, 2), sine_table(4, 8))


def test_video_transformer_as_written_out() -> None:
    torch.manual_seed(1)
    net = VideoVit(VideoVitConfig(width=8, layers=1, heads=2, hidden=12, patch_size=4, table_side=2)).eval()
    clip = torch.rand(1, 2, 3, 8, 8)
    rows = []
    for t in range(2):
        for y in (0, 4):
            for x in (0, 4):
                cell = clip[0, t, :, y : y + 4, x : x + 4].reshape(-1)
                rows.append(net.patch_embed.weight.reshape(8, -1) @ cell + net.patch_embed.bias)
    states = torch.stack(rows) + video_positions(2, 2, 8, 4, 2)
    block = net.blocks[0]
    normed = F.layer_norm(states, (8,), block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = (normed @ part.t() for part in block.attn.qkv.weight.chunk(3))
    heads = [
        ((q[:, h] @ k[:, h].t()) / 2).softmax(-1) @ v[:, h]  # two heads of width 4
        for h in (slice(0, 4), slice(4, 8))
    ]
    states = states + torch.cat(heads, 1) @ block.attn.proj.weight.t()
    normed = F.layer_norm(states, (8,), block.norm2.weight, block.norm2.bias, 1e-6)
    states = states + F.gelu(normed @ block.fc1.weight.t()) @ block.fc2.weight.t()
    torch.testing.assert_close(net(clip)[0].flatten(0, 1), states, atol=1e-6, rtol=1e-5)


def test_queries_start_from_the_text_and_are_all_different() -> None:
    net = make()
    for layer in net.layers:
        assert torch.equal(layer.query_ffn.fc1.weight, layer.text_ffn.fc1.weight)
    assert net.queries().shape == (1, 5, 16)
    assert len({tuple(q.tolist()) for q in net.queries()[0]}) == 5
    assert [layer.cross is not None for layer in net.layers] == [True, False, True]


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    net, seen = make(), torch.rand(2, 7, 10)
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    alone = net(seen, ids, torch.ones(2, 3, dtype=torch.bool))
    padded_ids = torch.cat([ids, torch.tensor([[9, 9], [0, 0]])], 1)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2).bool()
    padded = net(seen, padded_ids, mask)
    torch.testing.assert_close(padded.queries, alone.queries)
    torch.testing.assert_close(padded.text[:, :3], alone.text)
    torch.testing.assert_close(net(None, padded_ids, mask).text[:, :3], net(None, ids).text)


@torch.no_grad()
def test_together_everything_reads_everything() -> None:
    net, seen = make(), torch.rand(1, 7, 10)
    ids, full = torch.tensor([[3, 4, 5]]), torch.ones(1, 3, dtype=torch.bool)
    base = net(seen, ids, full)
    other = net(seen, torch.tensor([[3, 4, 6]]), full)
    assert not torch.allclose(base.queries, other.queries)
    assert not torch.allclose(base.text[:, 0], other.text[:, 0])
    assert not torch.allclose(net(seen + 1, ids, full).text, base.text)


@torch.no_grad()
def test_captions_are_read_word_by_word_behind_the_queries() -> None:
    net, seen = make(), torch.rand(1, 7, 10)
    ids, full = torch.tensor([[3, 4, 5]]), torch.ones(1, 3, dtype=torch.bool)
    queried = net(seen)
    found = net(None, ids, full, mode="caption", past=queried.keys)
    changed = net(None, torch.tensor([[3, 4, 6]]), full, mode="caption", past=queried.keys)
    torch.testing.assert_close(changed.text[:, :2], found.text[:, :2])
    assert not torch.allclose(changed.text[:, 2], found.text[:, 2])
    # In one pass, without keys kept from before: the queries read nothing of the text.
    whole = net(seen, ids, full, mode="caption")
    torch.testing.assert_close(whole.queries, queried.queries)
    torch.testing.assert_close(whole.text, found.text)


@torch.no_grad()
def test_a_query_pass_needs_no_words() -> None:
    net = make(text=False)
    assert net.words is None
    assert not any("text_ffn" in name or "words" in name for name in net.state_dict())
    assert net(torch.rand(1, 4, 10)).queries.shape == (1, 5, 16)


def test_names_go_there_and_back() -> None:
    names = list(make().state_dict())
    theirs = [published_qformer_name(n) for n in names if "query_tokens" not in n]
    assert None not in theirs
    assert [our_qformer_name(n) for n in theirs] == [n for n in names if "query_tokens" not in n]
    assert "encoder.layer.2.crossattention.self.key.weight" in theirs
    assert our_qformer_name("embeddings.token_type_embeddings.weight") is None
    assert our_qformer_name("pooler.dense.weight") is None
    video = list(VideoVit(VideoVitConfig(width=8, layers=2, heads=2, hidden=12)).state_dict())
    back = [published_video_name(n) for n in video]
    assert "blocks.1.mlp.fc1.weight" in back
    assert "patch_embed.proj.bias" in back
    assert [our_video_name(n) for n in back] == video
    assert our_video_name("head.weight") is None


@given(st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_no_word_of_a_caption_reads_a_later_one(length: int, past: int, caption: bool) -> None:
    from diptych.blocks.qformer import _allowed

    mask = torch.ones(1, length, dtype=torch.bool)
    found = _allowed(mask, 0, past, causal=caption).expand(1, 1, length, past + length)[0, 0]
    for i in range(length):
        for j in range(past + length):
            assert bool(found[i, j]) == (not caption or j < past or j - past <= i)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of heads"):
        QFormerConfig(width=10, heads=3)
    with pytest.raises(ValueError, match="even multiple of heads"):
        VideoVitConfig(width=9, heads=3)
