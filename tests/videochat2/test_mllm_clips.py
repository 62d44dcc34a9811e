"""Clips and pictures through queries into a language model: VideoChat2's stages 2 and 3."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from videochat2_toys import TOKENIZER, make_task

from diptych.blocks.qformer import QFormerConfig
from diptych.data.batch import Batch
from diptych.data.conversations import Conversation, Message, Part, Wording, about
from diptych.data.draws import Draws
from diptych.data.tiling_config import TilingConfig
from diptych.errors import ConfigError, UsageError
from diptych.systems.mllm.clips import Asked, clips_of, in_order
from diptych.systems.mllm.config import LanguageConfig, MllmConfig
from diptych.systems.mllm.connector import TilesConfig
from diptych.systems.mllm.model import MllmModel
from diptych.systems.mllm.system import TOY_LLAMA
from diptych.systems.mllm.vision import VisionConfig
from diptych.systems.task import StepContext
from diptych.tasks.instruct import InstructConfig, InstructTask
from diptych.tasks.instruct_queries import ASSET, find_words, instruction_of
from diptych.train.config import InitConfig
from diptych.train.export import Weights
from diptych.train.init import fill

QUERIES = QFormerConfig(
    queries=3,
    extra_queries=2,
    width=32,
    layers=2,
    heads=4,
    hidden=48,
    vocab_size=TOKENIZER.vocab_size + 1,
    max_text_tokens=16,
    dropout=0.0,
    drop_path=0.0,
    query_std=1.0,
)
EYES = {"width": 16, "layers": 1, "heads": 2, "hidden": 24, "patch_size": 8}


def make_model(tiling: TilingConfig | None = None, **qformer: Any) -> MllmModel:
    torch.manual_seed(0)
    return MllmModel(
        MllmConfig(
            vision=VisionConfig(kind="umt", settings=EYES),
            tiling=tiling or TilingConfig(tile=16),
            connector=TilesConfig(kind="qformer"),
            qformer=QUERIES.with_(**qformer),
            language=LanguageConfig(path="", settings=TOY_LLAMA, template="chatml"),
        )
    ).eval()


def instruct(model: MllmModel, assets: Any = None, **settings: Any) -> InstructTask:
    return InstructTask(model, InstructConfig(**settings), TOKENIZER, assets)


def views(count: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(seed)).byte()


def clip_batch(rows: int = 2) -> Batch:
    none = torch.arange(rows)
    images = views(rows * 3).view(rows, 3, 3, 16, 16)
    return Batch(keys=[str(i) for i in range(rows)], positions=none, match_ids=none, images=images)


@torch.no_grad()
def test_media_of_any_length_become_five_tokens_each() -> None:
    model = make_model()
    shown, grids = views(6), [(1, 1)] * 6
    assert model.places(grids, [1, 3, 2]) == [5, 5, 5]
    together = model.see(shown, grids, [1, 3, 2])
    apart = [model.see(shown[a:b], grids[a:b], [b - a]) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert together.shape == (15, 32)
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-6, rtol=1e-5)
    # The order of frames is seen: they have positions.
    turned = model.see(shown[1:4].flip(0), grids[:3], [3])
    assert not torch.allclose(turned, apart[1], atol=1e-4)


def test_tiles_of_clips_come_row_by_row_and_the_whole_view_last() -> None:
    tiling = TilingConfig(kind="closest", tile=16, hd_num=2)
    assert tiling.views(1, 2) == 3
    shown = torch.arange(2 * 3.0).view(6, 1, 1, 1)  # frame 0: whole 0, tiles 1 2; frame 1: whole 3, tiles 4 5
    clips, owners = clips_of(
        torch.cat([shown, torch.tensor([9.0]).view(1, 1, 1, 1)]), [(1, 2)] * 2 + [(1, 1)], [2, 1], tiling
    )
    assert [clip.flatten().tolist() for clip in clips] == [[1, 4], [2, 5], [0, 3], [9]]
    assert owners == [0, 0, 0, 1]
    assert make_model(tiling).places([(1, 2), (1, 2), (1, 1)], [2, 1]) == [15, 5]
    with pytest.raises(ValueError, match="expected one grid"):
        clips_of(shown, [(1, 2), (2, 1)], [2], tiling)


def test_in_order_puts_rows_where_they_belong() -> None:
    parts = [torch.tensor([[10.0], [30.0]]), torch.tensor([[0.0], [20.0]])]
    assert in_order(parts, [1, 3, 0, 2]).flatten().tolist() == [0, 10, 20, 30]


@torch.no_grad()
def test_queries_look_for_what_they_are_asked() -> None:
    model = make_model()
    shown, grids = views(4), [(1, 1)] * 4
    ids, mask = TOKENIZER.encode(["cat", "dog runs"], 6)
    asked = model.see(shown, grids, [1, 3], Asked(ids, mask))
    second = model.see(shown[1:], grids[1:], [3], Asked(ids[1:], mask[1:]))
    torch.testing.assert_close(asked[5:], second, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(asked, model.see(shown, grids, [1, 3]), atol=1e-4)
    with pytest.raises(UsageError, match="reads no texts"):
        make_model(text=False).see(shown, grids, [1, 3], Asked(ids, mask))


def test_stage_two_starts_from_stage_one() -> None:
    first = make_task()
    task = instruct(make_model())
    wanted = InitConfig(
        path="x",
        allow_missing=("model.*extra_query*", "model.connector.projection.*", "model.language.*"),
        allow_unexpected=("model.temporal", "model.*_projection.*", "itm.*", "caption.*", "temperature"),
    )
    state = first.state_dict()
    filled = fill(task, Weights(state, 7, Path(), None), wanted)
    own = task.state_dict()
    assert torch.equal(
        own["model.vision.model.blocks.0.fc1.weight"], state["model.visual.blocks.0.fc1.weight"]
    )
    assert torch.equal(own["model.connector.norm.weight"], state["model.visual_norm.weight"])
    assert torch.equal(own["model.connector.qformer.words.weight"], state["model.qformer.words.weight"])
    assert torch.equal(own["model.connector.qformer.query_tokens"], state["model.qformer.query_tokens"])
    assert all(
        n.startswith(("model.language", "model.connector.projection", "model.connector.qformer.extra"))
        for n in filled.fresh
    )


def test_clips_are_learned_from_and_answered() -> None:
    task, batch = instruct(make_model(), max_tokens=64), clip_batch()
    batch = replace(batch, texts=["cat runs", "dog"])
    found = task.compute_loss(batch, StepContext(0, 0.0, Draws(1, batch.positions)))
    found.total.backward()
    names = {n for n, p in task.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"model.vision.model.patch_embed.weight", "model.connector.qformer.extra_query_tokens"} <= names
    assert not any("text_ffn" in n or "words" in n for n in names if "connector" in n)
    chats = [about("cat?", "", Wording(), ["video"])] * 2
    encoded, pictures = task.encode(batch, chats, answer=True)
    assert [chat.ids.count(task.tokenizer.picture_id) for chat in encoded] == [5, 5]
    assert [found.frames for found in pictures] == [[3], [3]]
    assert len(task.answers(batch, chats)) == 2


def test_instructions_reach_the_queries_in_their_own_words() -> None:
    words = find_words("", {ASSET: json.loads(TOKENIZER.to_json())})
    task = instruct(make_model(), words, ask_queries=True, max_tokens=64)
    batch = replace(clip_batch(1), texts=["cat runs"])
    chats = [about("cat runs", "dog", Wording(system="a b"), ["video"])]
    assert instruction_of(chats[0]) == "a b cat runs"
    _, pictures = task.encode(batch, chats)
    assert pictures[0].asked == "a b cat runs"
    assert task.assets() == words
    asked = task.queries.ask(["a b cat runs"], torch.device("cpu"))
    assert asked.ids.tolist() == [TOKENIZER.sequence("a b cat runs", 16)]
    loss = task.predict(batch, chats)[0]
    other = [
        Conversation(
            (
                Message.of("system", "a b"),
                Message.of("user", Part("video"), "\ndog runs"),
                chats[0].messages[2],
            )
        )
    ]
    assert not torch.allclose(loss, task.predict(batch, other)[0])
    loss.backward()
    assert task.model.connector.qformer.words.weight.grad.any()


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match=r"no Q-Former reads texts here"):
        instruct(make_model(text=False), ask_queries=True)
    with pytest.raises(UsageError, match=r"system\.qformer\.vocab_size="):
        instruct(make_model(vocab_size=10), {ASSET: json.loads(TOKENIZER.to_json())}, ask_queries=True)
    with pytest.raises(ConfigError, match=r"system\.tiling\.tile = 20"):
        make_model(TilingConfig(tile=20))
    with pytest.raises(ConfigError, match=r"weights of kind umt come with init_from"):
        MllmModel(MllmConfig(vision=VisionConfig(kind="umt", path="there")))
