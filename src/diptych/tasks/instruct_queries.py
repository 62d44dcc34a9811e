"""What queries of a Q-Former look for: the instruction of a conversation, in the Q-Former's own words."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diptych.data.conversations import Conversation
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.systems.mllm.clips import Asked
from diptych.systems.mllm.model import MllmModel

ASSET = "query_words"
"""Name of the Q-Former's tokenizer among a task's assets."""


def find_words(path: str, init: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Q-Former's tokenizer as an asset: the file's, else that of the model started from."""
    if path:
        return {ASSET: json.loads(Tokenizer.from_file(path).to_json())}
    return {ASSET: init[ASSET]} if ASSET in init else {}


class QueryTexts:
    """Turns instructions into what the Q-Former reads."""

    def __init__(self, asset: Any | None, tokenizer: Tokenizer, model: MllmModel, limit: int) -> None:
        """Take the Q-Former's tokenizer, or, without one, the language model's.

        Raises:
            UsageError: the Q-Former reads no texts, or has fewer words than the tokenizer.
        """
        own = tokenizer if asset is None else Tokenizer.from_bytes(json.dumps(asset).encode(), ASSET)
        config = model.config.qformer
        if model.config.connector.kind != "qformer" or not config.text:
            raise UsageError(
                "task.ask_queries = true, but no Q-Former reads texts here; set "
                "system.connector.kind=qformer and system.qformer.text=true, or task.ask_queries=false"
            )
        if own.vocab_size > config.vocab_size:
            raise UsageError(
                f"the Q-Former has {config.vocab_size} words, but its tokenizer {own.vocab_size}; set "
                f"system.qformer.vocab_size={own.vocab_size}, or task.query_words to the one it was made with"
            )
        self.tokenizer, self.limit = own, min(limit, config.max_text_tokens)

    def ask(self, texts: Sequence[str], device: torch.device) -> Asked:
        """Return what the queries are asked for each medium; padding is as long as the batch needs."""
        rows = [self.tokenizer.sequence(text, self.limit) for text in texts]
        ids, mask = self.tokenizer.pad(rows, max(map(len, rows)))
        return Asked(ids.to(device), mask.to(device))


def instruction_of(chat: Conversation) -> str:
    """Return what stage 3 of VideoChat2 shows the Q-Former: the system's text and the first question."""
    told = next((m.text("") for m in chat.messages if m.role == "system"), "")
    asked = next((m.text("") for m in chat.messages if m.role == "user"), "")
    return " ".join(text.strip() for text in (told, asked) if text.strip())
