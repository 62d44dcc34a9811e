"""Evaluation of retrieval on a toy EVE, against a plain loop over queries."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.image import normalise
from diptych.data.text import Tokenizer
from diptych.errors import DataError, RunError, UsageError
from diptych.systems.protocol import Encoded, ImageSpec, TextSpec, VisionLanguageModel
from diptych.systems.task import EvalData
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig
from diptych.tasks.retrieval_ranking import _blocks

MakeTask = Callable[..., RetrievalTask]
MakeData = Callable[..., EvalData]

# Pictures 0 and 4 are one concept, 2 and 5 are two concepts with one name; 3 has three captions.
CAPTIONS = [
    ["red cat"],
    ["blue dog", "sad cat"],
    ["old car"],
    ["green tree", "white moon", "hot sun"],
    ["red cat", "sad red cat"],
    ["old car"],
    ["small house"],
]
MATCH_IDS = [10, 11, 12, 13, 10, 15, 16]
TEXTS = list(dict.fromkeys(text for captions in CAPTIONS for text in captions))
RIGHT = {
    text: {
        i for i, m in enumerate(MATCH_IDS) if m in {MATCH_IDS[j] for j, c in enumerate(CAPTIONS) if text in c}
    }
    for text in TEXTS
}


def quiet(stage: str, done: int, total: int) -> None:
    pass


def evaluate(task: RetrievalTask, data: EvalData) -> Any:
    return task.evaluate(data, quiet)


class Plain:
    """The same evaluation query by query and pair by pair, nothing shared, nothing batched."""

    def __init__(self, task: RetrievalTask, data: EvalData, k_texts: int, k_images: int, score: str) -> None:
        self.task, self.k_texts, self.k_images, self.score = task.eval(), k_texts, k_images, score
        batches = list(data.batches())
        self.images = torch.cat([b.images for b in batches if b.images is not None])
        self.keys = [key for b in batches for key in b.keys]
        with torch.no_grad():
            self.similarity = [[self.similar(i, text) for text in TEXTS] for i in range(len(self.images))]

    def picture(self, i: int) -> Tensor:
        return normalise(self.images[i : i + 1], self.task.model.image_spec)

    def tokens(self, text: str) -> tuple[Tensor, Tensor]:
        return self.task.tokenizer.encode([text], 8)

    def similar(self, i: int, text: str) -> float:
        image = self.task.itc.project_visual(self.task.model.encode_visual(self.picture(i)).pooled)
        other = self.task.itc.project_text(self.task.model.encode_text(*self.tokens(text)).pooled)
        return float((image * other).sum())

    def rerank(self, i: int, j: int) -> float:
        assert self.task.itm is not None
        with torch.no_grad():
            no, yes = self.task.itm(self.task.model.fuse(self.picture(i), *self.tokens(TEXTS[j])).pooled)[
                0
            ].tolist()
        odds = yes - no
        similar = self.similarity[i][j] / self.task.itc.temperature.item()
        return {"itm": yes, "log_odds": odds, "sum": similar + 0.5 * odds}[self.score]

    def ranks(self) -> dict[tuple[str, str], int]:
        result = {}
        for i, key in enumerate(self.keys):
            order = self.order(self.similarity[i], self.k_texts, lambda j, i=i: self.rerank(i, j))
            result["image_to_text", key] = next(r for r, j in enumerate(order, 1) if i in RIGHT[TEXTS[j]])
        for j, text in enumerate(TEXTS):
            column = [row[j] for row in self.similarity]
            order = self.order(column, self.k_images, lambda i, j=j: self.rerank(i, j))
            result["text_to_image", text] = next(r for r, i in enumerate(order, 1) if i in RIGHT[text])
        return result

    @staticmethod
    def order(similarity: list[float], k: int, rerank: Callable[[int], float]) -> list[int]:
        first = sorted(range(len(similarity)), key=lambda c: -similarity[c])
        return sorted(first[:k], key=lambda c: -rerank(c)) + first[k:]


@pytest.mark.slow
@pytest.mark.parametrize("score", ["itm", "log_odds", "sum"])
@pytest.mark.parametrize("batching", ["pairs", "queries"])
@pytest.mark.parametrize("k", [(3, 3), (2, 5)])
def test_ranks_equal_a_plain_loop(
    make_task: MakeTask, make_data: MakeData, score: str, batching: str, k: tuple[int, int]
) -> None:
    data = make_data(CAPTIONS, MATCH_IDS)
    numbers = {"k_test": 3} if k == (3, 3) else {"k_test": 1, "k_texts": k[0], "k_images": k[1]}
    ways = {"rerank_score": score, "rerank_weight": 0.5, "rerank_batching": batching}
    task = make_task(**ways, **numbers, pair_batch=5, text_batch=4)
    got = evaluate(task, data)
    expected = Plain(task, data, *k, score).ranks()
    assert {(row["direction"], row["query"]): row["rank"] for row in got.predictions} == expected
    assert len(set(expected.values())) > 2  # the toy model is neither perfect nor constant
    ranks = np.array([rank for (direction, _), rank in expected.items() if direction == "image_to_text"])
    assert got.metrics["scores"]["reranked"]["image_to_text"]["R@1"] == pytest.approx((ranks == 1).mean())
    assert got.metrics["scores"]["reranked"]["image_to_text"]["median_rank"] == np.median(ranks)


def fused(task: RetrievalTask) -> list[tuple[int, int, int]]:
    """Return a list that gets (pairs, different pictures, text length) of every pass of the task's model."""
    seen: list[tuple[int, int, int]] = []
    fuse = task.model.fuse

    def spy(visual: Tensor, ids: Tensor, mask: Tensor) -> Any:
        seen.append((len(visual), len(torch.unique(visual.flatten(1), dim=0)), ids.shape[1]))
        assert mask[:, -1].any()  # nothing but padding is cut off, and all of it
        return fuse(visual, ids, mask)

    task.model.fuse = spy  # type: ignore[method-assign]
    return seen


def test_each_pair_is_scored_once(make_task: MakeTask, make_data: MakeData) -> None:
    task = make_task(k_texts=4, k_images=3, pair_batch=5)
    seen = fused(task)
    result = evaluate(task, make_data(CAPTIONS, MATCH_IDS))
    plain = Plain(task, make_data(CAPTIONS, MATCH_IDS), 4, 3, "itm").similarity
    similarity = np.array(plain)
    union = {(i, j) for i in range(7) for j in np.argsort(-similarity[i])[:4]}
    union |= {(i, j) for j in range(len(TEXTS)) for i in np.argsort(-similarity[:, j])[:3]}
    assert sum(pairs for pairs, _, _ in seen) == len(union) == result.metrics["candidates"]["pairs"]
    assert len(union) < 7 * 4 + len(TEXTS) * 3
    assert max(pairs for pairs, _, _ in seen) <= 5
    assert result.metrics["candidates"]["k"] == 4
    assert (result.metrics["candidates"]["k_texts"], result.metrics["candidates"]["k_images"]) == (4, 3)


def test_pictures_are_embedded_once_and_texts_sorted_by_length(
    make_task: MakeTask, make_data: MakeData
) -> None:
    captions = [["red", "red cat blue dog"], ["blue", "small house green tree"], ["old"]]
    task = make_task(k_test=5, pair_batch=3, embedding_memory_mb=0)
    embedded: list[int] = []
    embed = task.embed

    def spy(images: Tensor, sizes: Tensor | None = None) -> Any:
        embedded.append(len(images))
        return embed(images, sizes)

    task.embed = spy  # type: ignore[method-assign]
    seen = fused(task)
    evaluate(task, make_data(captions, [1, 2, 3]))
    assert embedded == [3, 3]  # for their features, and for all 15 pairs
    lengths = [length for _, _, length in seen]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=30), batch=st.integers(1, 4))
def test_blocks_cover_the_pictures(counts: list[int], batch: int) -> None:
    blocks = list(_blocks(counts, 7, batch))
    assert [i for block in blocks for i in range(block.start, block.stop)] == list(range(7, 7 + len(counts)))
    assert all(1 <= block.stop - block.start <= batch for block in blocks)


def test_keeping_pixels_instead_of_embeddings_changes_nothing(
    make_task: MakeTask, make_data: MakeData
) -> None:
    data = make_data(CAPTIONS, MATCH_IDS)
    kept, again = (evaluate(make_task(k_test=3, embedding_memory_mb=mb), data) for mb in (64, 0))
    for a, b in zip(kept.predictions, again.predictions, strict=True):
        assert [t["id"] for t in a["top"]] == [t["id"] for t in b["top"]]
        assert [t["score"] for t in a["top"]] == pytest.approx([t["score"] for t in b["top"]], abs=1e-5)


def test_what_is_right(make_task: MakeTask, make_data: MakeData) -> None:
    result = evaluate(make_task(), make_data(CAPTIONS, MATCH_IDS))
    right = {(row["direction"], row["query"]): row["right"] for row in result.predictions}
    assert right["text_to_image", "red cat"] == ["picture0", "picture4"]
    assert right["text_to_image", "sad red cat"] == ["picture0", "picture4"]  # one match id
    assert right["text_to_image", "old car"] == ["picture2", "picture5"]  # one name of two concepts
    assert right["text_to_image", "sad cat"] == ["picture1"]
    assert right["image_to_text", "picture0"] == ["red cat", "sad red cat"]
    assert right["image_to_text", "picture3"] == ["green tree", "white moon", "hot sun"]


def test_each_caption_is_its_own_text_when_asked(make_task: MakeTask, make_data: MakeData) -> None:
    result = evaluate(make_task(eval_texts="each"), make_data(CAPTIONS, MATCH_IDS))
    assert result.metrics["texts"] == sum(map(len, CAPTIONS)) == 11
    right = [row["right"] for row in result.predictions if row["query"] == "old car"]
    assert right == [["picture2"], ["picture5"]]


def test_metrics_have_the_documented_form(make_task: MakeTask, make_data: MakeData) -> None:
    result = evaluate(make_task(k_test=4), make_data(CAPTIONS, MATCH_IDS, skipped={"decode": 2}))
    metrics = result.metrics
    assert (metrics["task"], metrics["dataset"], metrics["split"]) == ("retrieval", "toy", "test")
    assert (metrics["images"], metrics["texts"]) == (7, len(TEXTS))
    assert metrics["headline"] == "reranked"
    assert set(metrics["scores"]) == {"contrastive", "reranked"}
    assert metrics["skipped"] == {"decode": 2}
    assert metrics["candidates"]["k"] == metrics["candidates"]["k_texts"] == 4
    assert metrics["cpu_seconds"] > 0
    for direction in ("image_to_text", "text_to_image"):
        assert set(metrics["chance"][direction]) == {"R@1", "R@5", "R@10", "median_rank"}
        best = metrics["candidates"][f"{direction}_recall"]
        assert metrics["scores"]["reranked"][direction]["R@1"] <= best <= 1
    # 9 texts; pictures 0 and 4 have two right ones, 1 two, 3 three, the others one.
    assert metrics["chance"]["image_to_text"]["R@1"] == pytest.approx((2 + 2 + 1 + 3 + 2 + 1 + 1) / 7 / 9)
    rows = result.predictions
    assert {row["direction"] for row in rows} == {"image_to_text", "text_to_image"}
    assert all((row["direction"] == "image_to_text") == ("key" in row) for row in rows)
    assert all(len(row["top"]) == 4 for row in rows)
    layers = result.extra["experts"]["layers"]
    assert [entry["layer"] for entry in layers] == [1]
    assert sum(layers[0]["image"]) > 0
    assert len(layers[0]["text"]) == 3


def test_top_agrees_with_the_rank(make_task: MakeTask, make_data: MakeData) -> None:
    for task in (make_task(k_test=7), make_task(matching=False)):
        for row in evaluate(task, make_data(CAPTIONS, MATCH_IDS)).predictions:
            scores = [answer["score"] for answer in row["top"]]
            assert scores == sorted(scores, reverse=True)
            assert [a["id"] in row["right"] for a in row["top"]] == [a["right"] for a in row["top"]]
            place = next((p for p, a in enumerate(row["top"], 1) if a["right"]), None)
            assert place == row["rank"]


def test_without_matching_the_contrastive_ranking_counts(make_task: MakeTask, make_data: MakeData) -> None:
    result = evaluate(make_task(matching=False), make_data(CAPTIONS, MATCH_IDS))
    assert result.metrics["headline"] == "contrastive"
    assert set(result.metrics["scores"]) == {"contrastive"}
    assert "candidates" not in result.metrics


def test_pictures_without_captions_are_answers_but_no_queries(
    make_task: MakeTask, make_data: MakeData
) -> None:
    result = evaluate(make_task(), make_data([["red cat"], [], ["blue dog"]], [1, 2, 3]))
    assert result.metrics["images"] == 3
    assert result.metrics["queries"] == {"image_to_text": 2, "text_to_image": 2}
    assert [row["query"] for row in result.predictions] == ["picture0", "picture2", "red cat", "blue dog"]
    assert result.metrics["chance"]["text_to_image"]["R@1"] == pytest.approx(1 / 3)
    assert len(result.predictions[2]["top"]) == 3


def test_mode_and_global_randomness_are_left_alone(make_task: MakeTask, make_data: MakeData) -> None:
    task = make_task().train()
    state = torch.get_rng_state()
    first = evaluate(task, make_data(CAPTIONS, MATCH_IDS))
    assert task.training
    assert torch.equal(state, torch.get_rng_state())
    again = evaluate(task, make_data(CAPTIONS, MATCH_IDS))
    assert again.predictions == first.predictions
    assert again.extra == first.extra  # the counts of experts start afresh


def test_progress_reaches_its_totals(make_task: MakeTask, make_data: MakeData) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    make_task(k_test=2).evaluate(
        make_data(CAPTIONS, MATCH_IDS),
        lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
    )
    assert list(seen) == ["pictures", "texts", "re-ranking"]
    for reports in seen.values():
        assert reports == sorted(reports)
        assert reports[-1][0] == reports[-1][1]


def test_nothing_to_rank(make_task: MakeTask, make_data: MakeData) -> None:
    with pytest.raises(DataError, match=r"toy/test: no readable picture in this selection"):
        evaluate(make_task(), make_data([], []))
    with pytest.raises(DataError, match=r"toy/test: no picture of this selection has a caption"):
        evaluate(make_task(), make_data([[], []], [1, 2]))


def test_a_diverged_model_is_reported(make_task: MakeTask, make_data: MakeData) -> None:
    task = make_task()
    with torch.no_grad():
        task.itc.text.weight.fill_(float("nan"))
    with pytest.raises(RunError, match=r"63 of 63 similarities are not finite"):
        evaluate(task, make_data(CAPTIONS, MATCH_IDS))
    task = make_task()
    assert task.itm is not None
    with torch.no_grad():
        task.itm.classifier.bias.fill_(float("nan"))
    with pytest.raises(RunError, match=r"matching scores are not finite"):
        evaluate(task, make_data(CAPTIONS, MATCH_IDS))


class TwoMeans(VisionLanguageModel):
    """The smallest system: mean colour and mean word; no fusion, no embedding apart, no raw token."""

    capabilities = frozenset({"encode_visual", "encode_text"})

    def __init__(self) -> None:
        super().__init__()
        self.width, self.image_spec, self.text_spec = 3, ImageSpec(16), TextSpec(8, 100)
        self.words = nn.Embedding(100, 3)

    def encode_visual(self, visual: Tensor) -> Encoded:
        pooled = visual.mean((2, 3))
        return Encoded(pooled[:, None], pooled, torch.ones(len(pooled), 1, dtype=torch.bool))

    def encode_text(self, ids: Tensor, mask: Tensor) -> Encoded:
        tokens = self.words(ids)
        return Encoded(tokens, (tokens * mask[..., None]).sum(1), mask)


def test_any_system_with_two_encoders(tokenizer: Tokenizer, make_data: MakeData) -> None:
    torch.manual_seed(0)
    task = RetrievalTask(TwoMeans(), RetrievalConfig(matching=False), tokenizer)
    result = evaluate(task, make_data(CAPTIONS, MATCH_IDS))
    assert result.metrics["images"] == 7
    assert result.extra == {}
    with pytest.raises(UsageError, match=r"TwoMeans gives no token without final normalisation"):
        evaluate(
            RetrievalTask(TwoMeans(), RetrievalConfig(matching=False, eval_final_norm=False), tokenizer),
            make_data(CAPTIONS, MATCH_IDS),
        )


def test_tokens_are_cut_as_in_training(make_task: MakeTask, make_data: MakeData) -> None:
    seen: list[int] = []
    task = make_task(matching=False)
    encode = task.model.encode_text

    def spy(ids: Tensor, mask: Tensor) -> Encoded:
        seen.append(ids.shape[1])
        return encode(ids, mask)

    task.model.encode_text = spy  # type: ignore[method-assign]
    data = make_data([["red cat blue dog small house"]], [1])
    evaluate(task, EvalData(data.dataset, data.split, data.size, data.batches, max_tokens=5))
    assert seen == [5]


def test_empty_batches_only_count(make_task: MakeTask, make_data: MakeData) -> None:
    data = make_data(CAPTIONS, MATCH_IDS)

    def batches() -> Iterator[Batch]:
        yield from data.batches()
        none = torch.empty(0, dtype=torch.int64)
        yield Batch(keys=[], positions=none, match_ids=none, captions=[], skipped={"decode": 1})

    result = evaluate(make_task(), EvalData("toy", "test", 8, batches))
    assert (result.metrics["images"], result.metrics["skipped"]) == (7, {"decode": 1})


def test_controls_rank_all_queries_alike(make_task: MakeTask, make_data: MakeData) -> None:
    """Without pictures each of them gets the same texts; without texts each of them the same pictures."""
    data = make_data(CAPTIONS, MATCH_IDS)
    for blind, direction in (("image", "image_to_text"), ("text", "text_to_image")):
        found = evaluate(make_task(blind=blind, k_test=len(TEXTS)), data)
        scores = [
            {answer["id"]: answer["score"] for answer in row["top"]}
            for row in found.predictions
            if row["direction"] == direction
        ]
        assert len(scores) == (len(MATCH_IDS) if blind == "image" else len(TEXTS))
        for row in scores:
            assert row == pytest.approx(scores[0], abs=1e-5)
        assert len(set(scores[0].values())) > 3
