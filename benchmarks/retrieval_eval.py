"""Re-ranking of retrieval beside the loop over queries: fused pairs, and time of a pair.

    python benchmarks/retrieval_eval.py [--json FILE] [--width 768 --hidden 3072 --heads 12] [--complete]

Two comparisons:

- 200 pictures x 1000 texts, both directions, a small EVE without dropping. Peer `per-query-loop`: each query
  with its k candidates is one batch, texts padded to their limit. Features are drawn like those of a trained
  model (five texts about each picture). Both must rank alike: the row `same ranks` is the share of queries.
- Time of a pair at k = 128 candidates and 384-pixel token counts (577 + 40), all texts at full length. Peer
  `capacity-einsum-loop`: the loop with experts whose tokens are moved by products with [tokens, experts,
  slots] masks, whose work grows with the square of the batch. The masks of all experts would need tens of GB,
  so they are made expert by expert, which changes neither work nor result; and since the experts' products
  have one shape, some (`--measured`) are done that way and count for all (`--complete`: all are done).
"""

import argparse
import copy
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.blocks.feedforward import ACTIVATIONS
from diptych.blocks.moe import Mixed, Mixture
from diptych.blocks.router import RouterConfig
from diptych.data.text import Tokenizer
from diptych.metrics.retrieval import best_ranks, reranked_ranks, top_cut
from diptych.systems.eve.config import EveConfig
from diptych.systems.eve.layers import MixtureSlot
from diptych.systems.eve.model import EveModel
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_config import RetrievalConfig
from diptych.tasks.retrieval_encoding import Pictures, Texts
from diptych.tasks.retrieval_ranking import rerank
from reporting import Row, add_json, report, versus

LOOP, EINSUM = "per-query-loop", "capacity-einsum-loop"
TEXT_TOKENS = 40


def clock() -> float:
    """Return seconds: with one thread CPU seconds, which other programs hardly change."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class CapacityEinsum(nn.Module):
    """A mixture that brings tokens to their experts and back by dense products with one-hot masks.

    Weights, gate and capacity are those of the mixture; what is over an expert's capacity is dropped.
    """

    def __init__(self, mixture: Mixture, activation: str, measured: int) -> None:
        super().__init__()
        self.mixture, self.activation = mixture, ACTIVATIONS[activation]
        mixture.router.config = RouterConfig(drop_tokens=True, padding="published", noise="never")
        self.measured = measured
        """So many experts get their tokens by products, the others by indices."""
        self.products = self.indices = 0.0
        """Seconds that either has taken."""

    def forward(self, x: Tensor, visual: int, mask: Tensor | None) -> Mixed:
        """Do what `Mixture.forward` does."""
        mixture, (B, S, D) = self.mixture, x.shape
        if mixture.image_type is not None and mixture.text_type is not None:
            kinds = [mixture.image_type.expand(visual, -1), mixture.text_type.expand(S - visual, -1)]
            x = x + torch.cat(kinds)
        tokens = x.reshape(B * S, D)
        routing = mixture.router(tokens, None)
        assert routing.slots is not None
        assert routing.capacity is not None
        output = torch.zeros_like(tokens)
        weights = mixture.experts
        for expert in range(len(weights.fc1_weight)):
            rows, choice = ((routing.experts == expert) & routing.kept).nonzero(as_tuple=True)
            slots, weight = routing.slots[rows, choice], routing.weights[rows, choice]
            start = clock()
            if expert < self.measured:
                dispatch = tokens.new_zeros(len(tokens), routing.capacity)
                dispatch[rows, slots] = 1
                queued = dispatch.t() @ tokens
                del dispatch
            else:
                queued = tokens.new_zeros(routing.capacity, D).index_copy_(0, slots, tokens[rows])
            spent = clock() - start
            hidden = F.linear(queued, weights.fc1_weight[expert], weights.fc1_bias[expert])
            served = F.linear(self.activation(hidden), weights.fc2_weight[expert], weights.fc2_bias[expert])
            start = clock()
            if expert < self.measured:
                combine = tokens.new_zeros(len(tokens), routing.capacity)
                combine[rows, slots] = weight
                output.addmm_(combine, served)
                del combine
                self.products += spent + clock() - start
            else:
                output.index_add_(0, rows, served[slots] * weight[:, None])
                self.indices += spent + clock() - start
        return Mixed(output.view(B, S, D), routing.balance, routing.first_counts)

    def missing_seconds(self) -> float:
        """Return what the experts that were served by indices would have taken more."""
        others = len(self.mixture.experts.fc1_weight) - self.measured
        return self.products * others / self.measured - self.indices


def make_task(config: EveConfig, k: int, pair_batch: int) -> RetrievalTask:
    """Build a task with random weights."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a picture of something"] * 8, 100)
    settings = RetrievalConfig(k_test=k, pair_batch=pair_batch)
    task = RetrievalTask(EveModel(config), settings, tokenizer).eval()
    for parameter in task.itm.parameters():
        nn.init.normal_(parameter)
    return task


def make_texts(lengths: Tensor, vocabulary: int, pictures: int) -> Texts:
    """Draw texts of these lengths, in turn about each picture."""
    mask = torch.arange(TEXT_TOKENS) < lengths[:, None]
    ids = torch.randint(5, vocabulary, mask.shape) * mask
    right = np.arange(len(lengths)) % pictures
    return Texts(
        [str(j) for j in range(len(lengths))],
        [right[j : j + 1] for j in range(len(lengths))],
        [np.flatnonzero(right == i) for i in range(pictures)],
        ids,
        mask,
    )


def make_pictures(task: RetrievalTask, count: int) -> Pictures:
    """Draw pictures and embed them."""
    size = task.model.image_spec.size
    store = task.embed(torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8))
    return Pictures([str(i) for i in range(count)], list(range(count)), store=store, own=slice(0, count))


def loop(task: RetrievalTask, pictures: Pictures, texts: Texts, similarity: np.ndarray) -> list[np.ndarray]:
    """Score query by query: the matrices of both directions, [N, M] and [M, N]."""
    found = []
    for matrix in (similarity, similarity.T):
        scores = np.full(matrix.shape, np.nan, np.float32)
        for query, row in enumerate(matrix):
            chosen = torch.from_numpy(np.argsort(-row, kind="stable")[: task.config.k_test].copy())
            own = torch.full_like(chosen, query)
            image, text = (own, chosen) if matrix is similarity else (chosen, own)
            fused = task.model.fuse(pictures.store[image], texts.ids[text], texts.mask[text])
            scores[query, chosen] = task.itm(fused.pooled)[:, 1].numpy()
        found.append(scores)
    return found


def counted(task: RetrievalTask, work: Callable[[], object]) -> tuple[object, int, float]:
    """Return the result of `work`, the pairs it has fused, and its seconds."""
    pairs, fuse = [], task.model.fuse

    def spy(visual: Tensor, ids: Tensor, mask: Tensor) -> object:
        pairs.append(len(visual))
        return fuse(visual, ids, mask)

    task.model.fuse = spy
    start = clock()
    result = work()
    seconds = clock() - start
    task.model.fuse = fuse
    return result, sum(pairs), seconds


def compare_rankings(options: argparse.Namespace) -> list[Row]:
    """Re-rank a whole split both ways."""
    count, k = options.pictures, options.k_split
    config = EveConfig(
        image_size=64,
        width=64,
        heads=4,
        hidden=256,
        layers=4,
        moe_layers=(2, 3),
        experts=8,
        vocab_size=1000,
        max_text_tokens=TEXT_TOKENS,
        init="fan_in",
        layer_scale=1.0,
    )
    task = make_task(config, k, 256)
    pictures = make_pictures(task, count)
    lengths = torch.randint(8, 24, (5 * count,))
    texts = make_texts(lengths, config.vocab_size, count)
    of_text = torch.arange(5 * count) % count
    seen = torch.randn(count, 32)
    read = seen[of_text] + 1.5 * torch.randn(5 * count, 32)
    similarity = (F.normalize(seen, dim=1) @ F.normalize(read, dim=1).T).numpy()
    ours, pairs, seconds = counted(task, lambda: rerank(task, pictures, texts, similarity, _quiet))
    peers, loop_pairs, loop_seconds = counted(task, lambda: loop(task, pictures, texts, similarity))
    same = []
    directions = ((similarity, texts.right_texts), (similarity.T, texts.right_images))
    for (matrix, right), mine, theirs in zip(directions, ours, peers, strict=True):
        cut = top_cut(matrix, k)
        ranks = [reranked_ranks(matrix, cut, scores, right) for scores in (mine.scores, theirs)]
        same.append(ranks[0] == ranks[1])
    moved = np.mean(ranks[0] != best_ranks(matrix, right))
    assert moved > 0.1, "re-ranking changes nothing here, so that equal ranks would prove nothing"
    name = f"retrieval eval {count}x{5 * count} k={k}"
    return [
        versus(f"{name} fused forwards", pairs, loop_pairs, "pairs", LOOP, less=True),
        versus(f"{name} re-ranking", seconds, loop_seconds, "s", LOOP, less=True),
        Row(f"{name} same ranks", float(np.concatenate(same).mean()), "of queries", LOOP),
    ]


def compare_pairs(options: argparse.Namespace) -> list[Row]:
    """Time a picture with its k texts, both ways."""
    k, layers = options.k, options.layers
    config = EveConfig(
        image_size=options.image_size,
        width=options.width,
        heads=options.heads,
        hidden=options.hidden,
        layers=layers,
        moe_layers=tuple(range(layers - 2, layers)),
        experts=options.experts,
        vocab_size=1000,
        max_text_tokens=TEXT_TOKENS,
    )
    task = make_task(config, k, options.pair_batch)
    pictures = make_pictures(task, 1)
    texts = make_texts(torch.full((k,), TEXT_TOKENS), config.vocab_size, 1)
    similarity = torch.randn(1, k).numpy()
    peer = copy.deepcopy(task)
    mixtures = []
    for layer in peer.model.layers:
        if isinstance(layer.ffn, MixtureSlot):
            measured = options.experts if options.complete else min(options.measured, options.experts)
            layer.ffn.moe = CapacityEinsum(layer.ffn.moe, config.activation, measured)
            mixtures.append(layer.ffn.moe)

    def ours() -> float:
        return counted(task, lambda: rerank(task, pictures, texts, similarity, _quiet))[2]

    fused = peer.model.fuse
    text = torch.arange(k)
    best = ours()
    start = clock()
    out = fused(pictures.store.expand(k, -1, -1), texts.ids[text], texts.mask[text])
    peer.itm(out.pooled)
    theirs = clock() - start + sum(m.missing_seconds() for m in mixtures)
    for _ in range(options.repeats - 1):
        best = min(best, ours())
    tokens = pictures.store.shape[1] + TEXT_TOKENS
    name = f"retrieval eval pair tokens={tokens} k={k} width={options.width} experts={options.experts}"
    return [versus(name, 1000 * best / k, 1000 * theirs / k, "ms", EINSUM, less=True)]


def _quiet(stage: str, done: int, total: int) -> None:
    """Report no progress."""


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default, what in (
        ("pictures", 200, "of the split; it has five times as many texts"),
        ("k_split", 16, "candidates in the split"),
        ("k", 128, "candidates of the query that is timed"),
        ("image_size", 384, "pixels"),
        ("width", 384, ""),
        ("heads", 6, ""),
        ("hidden", 1536, ""),
        ("layers", 12, "the last two are mixtures"),
        ("experts", 32, ""),
        ("pair_batch", 256, "pairs that we score at once (task.pair_batch), on a GPU"),
        ("measured", 2, "experts of the peer that get their tokens by products"),
        ("repeats", 2, "times that we are measured, before and after the peer"),
        ("threads", 0, "0: torch's default; 1: CPU seconds are measured"),
    ):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=default, help=f"{what} (default {default})".strip())
    parser.add_argument("--complete", action="store_true", help="do the peer's products of all experts")
    add_json(parser)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with torch.no_grad():
        rows = compare_rankings(options) + compare_pairs(options)
    report(rows, options.json)


if __name__ == "__main__":
    main()
