"""Kinds `ixc_target_mask` and `ixc_conversation_text` of mllm: what is learned, and the training text."""

import json
import tempfile
from pathlib import Path

import torch
from tests.parity.runner import Case, Comparison, exact
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models

from diptych.data.chat import PICTURE, ChatTokenizer
from diptych.data.conversation_files import IXC_PLACE, read_conversations
from diptych.systems.mllm.internlm_chat import learned_targets


def check_masks(case: Case) -> list[Comparison]:
    """Compare what is learned of every recorded sequence."""
    meta, found = case.meta, []
    for name in sorted({key.rpartition(".")[0] for key in case.tensors}):
        rows = [
            learned_targets(row, end=meta["end_token"], eos=meta["eos"])
            for row in case.tensors[f"{name}.ids"].tolist()
        ]
        found.append(exact(name, torch.tensor(rows), case.tensors[f"{name}.targets"]))
    return found


def check_texts(case: Case) -> list[Comparison]:
    """Read the recorded conversations as a file, and write them by the template."""
    raw = RawTokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "<s>": 2}, unk_token="[UNK]"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "internlm"}
    tokenizer = ChatTokenizer(raw, settings)
    records = []
    for number, one in enumerate(case.meta["cases"]):
        pictures = sum(turn["value"].count(IXC_PLACE) for turn in one["conversations"])
        files = [f"{i}.jpg" for i in range(pictures)]
        records.append({"id": str(number), "image": files, "conversations": one["conversations"]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        read = [record.conversation for record in read_conversations(path, "ixc")]
    written = [tokenizer.render(conversation).replace(PICTURE, IXC_PLACE) for conversation in read]
    return [
        exact(f"case {i}", list(text.encode()), list(one["text"].encode()))
        for i, (text, one) in enumerate(zip(written, case.meta["cases"], strict=True))
    ]
