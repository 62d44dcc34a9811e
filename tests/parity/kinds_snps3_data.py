"""Kinds `frame_sampling`, `iw_masking`, `text_processor` and `retrieval_metrics` of SNP-S3."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tests.parity.runner import Case, Comparison, exact, loss
from torch import Tensor

from diptych.data.frames import choose_frames, segments
from diptych.data.significant import Words, hidden_count, hide_significant, with_specials
from diptych.data.words import group_words, keep_main_kinds, rank_words
from diptych.metrics.retrieval import best_ranks

MASK, CLS, SEP = 103, 101, 102


def check_frames(case: Case) -> list[Comparison]:
    """Compare the frames of evaluation, and the ranges that training draws from."""
    done = []
    for row in case.meta["cases"]:
        what, count, frames = f"{row['num_clips']} of {row['vlen']}", row["num_clips"], row["vlen"]
        if row.get("error"):
            raise NotImplementedError(f"{what}: {row['error']}")
        done.append(exact(what, choose_frames(frames, count).tolist(), row["uniform"]))
        ranges = [list(part) for part in segments(frames, count)]
        done.append(exact(f"{what}: ranges", ranges, row["rand_ranges_half_open"]))
        ends = np.zeros(count), np.full(count, 1 - 1e-12)
        lowest, highest = (choose_frames(frames, count, draws).tolist() for draws in ends)
        if len(ranges) == count:
            done.append(exact(f"{what}: lowest", lowest, [start for start, _ in ranges]))
            done.append(exact(f"{what}: highest", highest, [end - 1 for _, end in ranges]))
    return done


class Recorded:
    """Gives back recorded calls of Python's generator, which must come in their order."""

    def __init__(self, calls: Sequence[Sequence[Any]]) -> None:
        self._calls = list(calls)

    def _next(self, name: str) -> Sequence[Any]:
        call = self._calls.pop(0)
        assert call[0] == name, (call, name)
        return call

    def sample(self, population: range, k: int) -> list[int]:
        _, bounds, count, result = self._next("sample")
        assert (count, len(population)) == (k, bounds[1] - bounds[0] if bounds else 0)
        return list(result)

    def random(self) -> float:
        return float(self._next("random")[1])

    def randint(self, a: int, b: int) -> int:
        _, low, high, result = self._next("randint")
        assert (low, high) == (a, b)
        return int(result)

    def skip(self, name: str) -> None:
        """Drop a call that comes first, such as that of the published truncation."""
        if self._calls and self._calls[0][0] == name:
            self._calls.pop(0)

    @property
    def used_up(self) -> bool:
        return not self._calls


def check_masking(case: Case) -> list[Comparison]:
    """Repeat the recorded draws, with the published defects."""
    done = []
    for number, row in enumerate(case.meta["cases"]):
        what = f"{number} {row['sentence'][:20]!r}"
        plain, words, names = _words(row)
        calls = Recorded(row["rng_calls"])
        if row["truncated"]:
            calls.skip("randint")  # where the published code begins to read a long caption
        letters = {i: i + LETTER for i in words.chosen}
        found = hide_significant(row["token_ids"], words, MASK, calls, first_letter=letters, published=True)
        significant = [i for i, word in enumerate(row["token_ids"]) if words.is_significant(word)]
        shown = [_name(i, row, names) for i in found.shown]
        done += [
            exact(f"{what}: significant", significant, row["important_positions"]),
            exact(f"{what}: number", hidden_count(len(row["token_ids"]), 0.15), row["n_selected"]),
            exact(f"{what}: targets", found.targets, row["labels"]),
            exact(f"{what}: shown", shown, row["masked_tokens"]),
            exact(f"{what}: all draws used", calls.used_up, True),
        ]
        done += _fixed(what, row, plain)
    return done


LETTER = 10**6
"""Added to the id of a word for its first letter."""


def _words(row: Mapping[str, Any]) -> tuple[Words, Words, dict[int, str]]:
    """Return what the case tells of the vocabulary: ranks of its words; also with the words that it draws.

    Significant words that are drawn by their number have no recorded ids; ids of their own stand for them.
    """
    ranks = dict(zip(row["token_ids"], row["ranks"], strict=True))
    size = max([*ranks, 0]) + 1
    plain, found = (Words([ranks.get(i, 10**9) for i in range(size)], [[]] * size) for _ in range(2))
    drawn, names, forms = {}, {}, {}
    for entry in row["replacements"]:
        own = 10**7 + entry["important_index"]
        drawn[entry["important_index"]], names[own] = own, entry["root"]
        forms[own] = [own + 10**8 * (k + 1) for k in range(len(entry["siblings"]))]
        names |= dict(zip(forms[own], entry["siblings"], strict=True))
    count = max((c[2] + 1 for c in row["rng_calls"] if c[0] == "randint" and c[2] > 100), default=3002)
    object.__setattr__(found, "chosen", _Drawn(drawn, count))
    object.__setattr__(found, "forms", _Forms(forms))
    return plain, found, names


class _Drawn(dict[int, int]):
    """Significant words by number; only those that are drawn are known."""

    def __init__(self, known: Mapping[int, int], count: int) -> None:
        super().__init__(known)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Any:
        return iter(self.values())


class _Forms(dict[int, list[int]]):
    """Forms of the words that are drawn."""

    def __len__(self) -> int:
        return 10**9


def _name(word: int, row: Mapping[str, Any], names: Mapping[int, str]) -> str:
    if word == MASK:
        return "[MASK]"
    if word in names:
        return names[word]
    if word - LETTER in names:
        return names[word - LETTER][0]
    return dict(zip(row["token_ids"], row["tokens"], strict=True)).get(word, f"id {word}")


def _fixed(what: str, row: Mapping[str, Any], words: Words) -> list[Comparison]:
    """Without the defects every target is the word that stood there."""
    found = hide_significant(row["token_ids"], words, MASK, random.Random(row["seed"]), ratio=0.15)
    right = all(t in (-1, word) for t, word in zip(found.targets, row["token_ids"], strict=True))
    hidden = sum(target != -1 for target in found.targets)
    return [
        exact(f"{what}: targets without defects", right, True),
        exact(f"{what}: number without defects", hidden, row["n_selected"]),
    ]


def check_metrics(case: Case) -> list[Comparison]:
    """Compare recall over several right answers, both ways, and on the diagonal."""
    given, meta = case.tensors, case.meta
    rect = given["in.sim_rect"]
    found = _recalls("t2v", rect, meta["t2v"]) | _recalls("v2t", rect.t(), meta["v2t"])
    done = [loss(name, found[name], value) for name, value in meta["sym_recall"].items()]
    square = given["in.sim_square"]
    own = _recalls("d", square, [[i] for i in range(len(square))])
    # The published denominator has 1e-10 added.
    return done + [loss(f"diagonal {n}", own[f"d-{n}"], v) for n, v in meta["diag_recall_square"].items()]


def _recalls(name: str, scores: Tensor, right: Sequence[Sequence[int]]) -> dict[str, float]:
    ranks = best_ranks(scores.numpy(), [np.array(answers) for answers in right])
    values = {f"{name}-r@{k}": float((ranks <= k).mean()) for k in (1, 5, 10)}
    mean = sum(values.values()) / len(values)
    return values | {f"{name}-mean_recall": mean, f"{name}-mr": float(np.median(ranks))}


def check_processor(case: Case) -> list[Comparison]:
    """Put recorded captions together: start and end tokens, padding, targets where something is hidden."""
    done = []
    for number, row in enumerate(case.meta["cases"]):
        length, count = len(row["input_ids"]), row["source_len"]
        inside, targets = row["input_ids"][1 : count - 1], row["lm_label_ids"][1 : count - 1]
        found = with_specials(inside, targets, row["cls_id"], row["sep_id"], length)
        done += [
            exact(f"{number}: ids", found[0], row["input_ids"]),
            exact(f"{number}: mask", found[1], row["input_mask"]),
            exact(f"{number}: targets", found[2], row["lm_label_ids"]),
            exact(f"{number}: types", [0] * length, row["segment_ids"]),
        ]
        # What is hidden is as much as there should be, and what is shown elsewhere is the word itself.
        hidden = sum(target != -1 for target in targets)
        done.append(exact(f"{number}: number hidden", hidden, hidden_count(len(inside), 0.15)))
    return done


def check_mining(case: Case) -> list[Comparison]:
    """Compare ranks, shares and groups made of recorded counts."""
    meta = case.meta
    ranked = rank_words(meta["stage1_counts"], meta["vocab"], meta["abandon_list"])
    done = _columns("stage 2", ranked.columns(), meta["stage2"])
    kept = keep_main_kinds(ranked, meta["percentage_threshold"])
    done += _columns("stage 3", kept.columns(), meta["stage3"])
    groups = group_words(kept, meta["rank_top_k"], meta["group_split_list"])
    for name, expected in meta["stage3_vtm"].items():
        if name == "percentage_all":
            done.append(exact("kinds of words", [set(e) for e in groups[name]], [set(e) for e in expected]))
            pairs = [(a[k], b[k]) for a, b in zip(groups[name], expected, strict=True) for k in b]
            done += [loss(f"share {i}", a, b) for i, (a, b) in enumerate(pairs)]
        else:
            done.append(exact(name, groups[name], expected))
    if "csv_head" in meta:
        columns = ranked.columns()
        lines = [",".join(columns)]
        rows = zip(*columns.values(), strict=True)
        lines += [",".join(str(value) for value in row) for row in rows]
        done.append(exact("table", lines[: len(meta["csv_head"])], meta["csv_head"]))
    return done


def _columns(what: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[Comparison]:
    done = [exact(f"{what}: columns", sorted(found), sorted(expected))]
    for name, values in expected.items():
        if name.endswith("percentage"):
            pairs = zip(found[name], values, strict=True)
            done += [loss(f"{what}: {name} {i}", a, b) for i, (a, b) in enumerate(pairs)]
        else:
            done.append(exact(f"{what}: {name}", found[name], values))
    return done
