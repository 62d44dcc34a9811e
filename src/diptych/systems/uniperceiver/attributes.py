"""What a part of a sequence is, in eight bits: experts are chosen by it.

Bits, as far as they can be read from the published table: pictures take part in the task; language does; not
used; always set; the part is visual; it is text; it is a target; it is text that is written.
"""

import torch
from torch import Tensor

_CLASS_NAMES = ((1, 0, 0, 1, 0, 1, 1, 0),)
_WORDS = ((1, 1, 0, 1, 0, 1, 1, 0),)
_PICTURE = ((1, 0, 0, 1, 1, 0, 0, 0),)
_TEXT = ((0, 1, 0, 1, 0, 1, 0, 0),)
_CAPTION = ((1, 1, 0, 1, 1, 0, 0, 0), (1, 1, 0, 1, 0, 1, 0, 1))
_QUESTION = ((1, 1, 0, 1, 1, 0, 0, 0), (1, 1, 0, 1, 0, 1, 0, 0))

INPUTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "image_classification": _PICTURE,
    "video_classification": _PICTURE,
    "image_retrieval": _PICTURE,
    "video_retrieval": _PICTURE,
    "text_mlm": _TEXT,
    "text_classification": _TEXT,
    "image_caption": _CAPTION,
    "video_caption": _CAPTION,
    "vqa": _QUESTION,
}
"""Task -> segments of its inputs. `vqa` is ours: the published table has none."""
TARGETS: dict[str, tuple[tuple[int, ...], ...]] = {
    "classes": _CLASS_NAMES,
    "captions": _CLASS_NAMES,
    "vocabulary": _WORDS,
    "answers": _WORDS,
    "glue": _WORDS,
}
"""Kind of target -> its segment. `answers` is ours."""


def attributes(rows: tuple[tuple[int, ...], ...], device: torch.device | None = None) -> Tensor:
    """Return segments as [S, 8] float32."""
    return torch.tensor(rows, dtype=torch.float32, device=device)
