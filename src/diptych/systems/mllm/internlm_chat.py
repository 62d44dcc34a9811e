"""What InternLM-XComposer2-4KHD learns of a conversation, from token ids alone.

`data.chat.ChatTokenizer` finds the same by letters, for any template; this is for ids without their text, and
what the published code was recorded with. L tokens.
"""

from collections.abc import Sequence

IGNORED = -100
END, EOS = 92542, 2
"""`[UNUSED_TOKEN_145]`, which ends every turn, and the token behind the last turn."""
HEADER = 6
"""Tokens between the text of a question and that of its answer: the mark, a line break, the mark of a
beginning, the role in two pieces, a line break."""


def learned_targets(ids: Sequence[int], *, end: int = END, eos: int = EOS, header: int = HEADER) -> list[int]:
    """Return what is learned of one conversation without a system's turn: L ids, `IGNORED` elsewhere.

    Marks end questions and answers in turn. Learned are the answers with their marks, and behind the last
    one all up to the first `eos`; of a conversation that was cut within a question not that question. Places
    of pictures hold `IGNORED` in `ids` already.

    Args:
        ids: L token ids.
        end: the mark.
        eos: what ends the conversation.
        header: tokens between a question's text and its answer's, `end` included.
    """
    targets, ends = list(ids), [i for i, token in enumerate(ids) if token == end]
    past = 0
    for number, at in enumerate(ends):
        if number % 2 == 0:
            targets[past : at + header] = [IGNORED] * (min(at + header, len(ids)) - past)
        past = at + 1
    if len(ends) % 2 == 0:
        # Behind the last answer stand a line break and, if nothing was cut, the end.
        rest = past + 1 if ends else 0
        if eos not in ids[past : rest + 1]:
            targets[rest:] = [IGNORED] * (len(ids) - rest)
    stop = next((i for i in range(past, len(ids)) if ids[i] == eos), len(ids))
    targets[stop + 1 :] = [IGNORED] * (len(ids) - min(stop + 1, len(ids)))
    return targets
