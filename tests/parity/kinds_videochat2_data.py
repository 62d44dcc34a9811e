"""Kinds of texts, frames, sizes and scores of VideoChat2, MVBench, ChartQA and Video-LLaVA."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from tests.parity.runner import Case, Comparison, exact, output

from diptych.data.frames import (
    Frames,
    bounded_middles,
    choose_frames,
    frames_at_rate,
    middle_frames,
    segments,
    uniform_frames,
)
from diptych.data.tiling import plan_tiles
from diptych.data.tiling_config import TilingConfig
from diptych.data.videochat2 import (
    IGNORED,
    Turn,
    label_conversation,
    qformer_instruction,
    write_conversation,
)
from diptych.metrics.short_answers import option_letter, published_choice, relaxed_match
from diptych.systems.mllm.splice import splice

TOY = re.compile(r"###|</?Video>|</?Image>|[A-Za-z0-9]+|\S")
IMAGE, BOS, PAD = -7, 1, 2
TILE = 224


def check_masks(case: Case) -> list[Comparison]:
    """Compare conversation texts, instructions, lengths and labels."""
    vocabulary: dict[str, int] = {}

    def tokenise(text: str) -> tuple[list[int], list[tuple[int, int]]]:
        found = list(TOY.finditer(text))
        return [vocabulary.setdefault(m[0], 3 + len(vocabulary)) for m in found], [m.span() for m in found]

    done, labels = [], case.tensors["labels"]
    medium: Literal["image", "video"] = "image" if case.meta["image"] else "video"
    for i, (sample, row) in enumerate(zip(case.meta["samples"], case.meta["rows"], strict=True)):
        entries = sample["QA"]
        turns = [Turn(entry["q"], entry["a"]) for entry in entries]
        told = entries[0].get("i")
        written = write_conversation(turns, medium, instruction=told or "", message=sample.get("msg", ""))
        count = case.meta["num_image_tokens"]
        ours = label_conversation(written, tokenise, start_id=BOS, image_id=IMAGE, tokens=count)
        size = len(ours.ids)
        expected = labels[i]
        done += [
            exact(f"{i}: text", written.text, row["conversation"]),
            exact(f"{i}: instruction", qformer_instruction(told, turns[0].question), row["instruction"]),
            exact(f"{i}: length", size, row["length"]),
            exact(f"{i}: labels", torch.tensor(ours.labels), expected[:size]),
            exact(f"{i}: padding", bool((expected[size:] == IGNORED).all()), True),
            exact(f"{i}: mask", int(case.tensors["attention_mask"][i].sum()), size),
            exact(f"{i}: media", ours.ids.count(IMAGE), count),
        ]
    return [*done, exact("vocabulary", vocabulary, case.meta["vocab"])]


def check_sizes(case: Case) -> list[Comparison]:
    """Compare the sizes of HD clips; of the padded form the published one lays portrait clips down."""
    done = []
    for row in case.meta["cases"]:
        height, width, limit = row["height"], row["width"], row["hd_num"]
        for kind, name in (("closest", "no_padding_out_hw"), ("hd", "padding_out_hw")):
            plan = plan_tiles(width, height, TilingConfig(kind=kind, tile=TILE, hd_num=limit))
            found = [plan.rows * TILE, plan.columns * TILE]
            if kind == "hd" and width < height:
                found = found[::-1]
            done.append(exact(f"{width} x {height}, {limit}: {name}", found, row[name]))
    return done


def check_frames(case: Case) -> list[Comparison]:
    """Compare every rule of choosing frames; of random ones, that they can be drawn."""
    done = []
    for number, row in enumerate(case.meta["cases"]):
        found, expected = RULES[row["rule"]](row), row["indices"]
        done.append(exact(f"{number}: {row['rule']}", np.asarray(found).tolist(), expected))
    return done


def _segments(row: Mapping[str, Any], place: str) -> Frames:
    return choose_frames(row["vlen"], row["num_frames"], place=place, short="last")


def _random(row: Mapping[str, Any]) -> Sequence[int]:
    """Return the recorded frames if all can be drawn, else what could not."""
    found = list(row["indices"])
    parts = segments(row["vlen"], row["num_frames"])
    if len(set(found)) == len(parts) and min(b - a for a, b in _intervals(row)) < 2:
        # A part of one frame: the published code falls back to any frames, in order.
        return found if found == sorted(found) and found[-1] < row["vlen"] else []
    drawn = [start <= frame < end for (start, end), frame in zip(parts, found, strict=False)]
    return found if all(drawn) and len(set(found[len(parts) - 1 :])) == 1 else []


def _intervals(row: Mapping[str, Any]) -> list[tuple[int, int]]:
    cuts = np.linspace(0, row["vlen"], min(row["num_frames"], row["vlen"]) + 1).astype(int).tolist()
    return list(itertools.pairwise(cuts))


def _rate(row: Mapping[str, Any]) -> Sequence[int]:
    times, most = np.arange(row["vlen"]) / row["input_fps"], row["max_num_frames"]
    found = frames_at_rate(times, float(row["sample"].removeprefix("fps")))
    if not row["indices"]:  # published: a clip this short shows nothing; ours its middle
        return [] if len(found) == 1 else found.tolist()
    shown: list[int] = found[: most if most > 0 else None].tolist()
    return shown


def _bounded(row: Mapping[str, Any]) -> Frames:
    start, end = row["bound"] or (None, None)
    return bounded_middles(
        row["max_frame"], row["fps"], row["num_segments"], start, end, first=row["first_idx"]
    )


RULES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "videochat2_middle": lambda row: _segments(row, "middle"),
    "videochat2_fix_start0": lambda row: _segments(row, "start"),
    "videochat2_rand": _random,
    "videochat2_fps": _rate,
    "mvbench_demo_get_index": lambda row: middle_frames(row["num_frames"], row["num_segments"]),
    "mvbench_dataset_get_index": _bounded,
    "video_llava_linspace": lambda row: uniform_frames(row["vlen"], row["num_frames"]),
}


def check_scoring(case: Case) -> list[Comparison]:
    """Compare published verdicts; ours must agree where an answer names one option, and reject empty ones."""
    done = []
    for row in case.meta["mvbench"]:
        said, truth = row["pred"], row["gt"]
        done.append(exact(f"{said!r} of {truth!r}", published_choice(said, truth), row["original"]))
        place, right = option_letter(said, 26), option_letter(truth, 26)
        if place is not None:
            done.append(exact(f"strictly {said!r} of {truth!r}", place == right, row["original"]))
        if not re.search("[A-Za-z]", said):
            done.append(exact(f"strictly {said!r}", place, None))
    for row in case.meta["relaxed"]:
        said, truth = row["prediction"], row["target"]
        done.append(exact(f"{said!r} for {truth!r}", relaxed_match(said, truth), row["original"]))
    return done


def check_splice(case: Case) -> list[Comparison]:
    """Compare rows with their media put in."""
    given, meta = case.under("in."), case.meta
    blocks = []
    pictures = videos = 0
    for kind in meta["media_in_order"]:
        if kind == "i":
            blocks.append(case.tensors["aux.image_features"][pictures])
            pictures += 1
        else:
            blocks += list(case.tensors["aux.video_features"][videos])
            videos += 1
    found = splice(
        given["input_ids"],
        given["attention_mask"],
        given["labels"],
        [len(block) for block in blocks],
        limit=meta["max_length"],
    )
    embedded = found.embed(case.tensors["param.embed_tokens.weight"], blocks)
    return [
        output("inputs_embeds", embedded, case.tensors["out.inputs_embeds"]),
        exact("attention_mask", found.mask, case.tensors["out.attention_mask"]),
        exact("labels", found.labels, case.tensors["out.labels"]),
    ]
