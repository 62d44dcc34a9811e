"""What the tests of the cards of address lists share."""

import importlib
from pathlib import Path

from diptych.data.index import ShardDataset
from diptych.data.prepare import Summary, load_card, prepare
from diptych.data.sample import Sample
from diptych.data.verify import verify


def prepared(card: str, folder: Path, layout: str = "", **options: str) -> tuple[Summary, dict[str, Sample]]:
    """Prepare a card's miniature from `folder/raw` (made if missing) into `folder/out`, and check every byte.

    Returns what was counted, and the samples by key in their order.
    """
    raw, out = folder / "raw", folder / "out"
    if not raw.exists():
        make_raw(card, raw, layout)
    summary = prepare(load_card(card), raw, out, options=options, layout=layout)
    assert verify(out).sound
    samples = ShardDataset.open(out).select()
    return summary, {sample.key: sample for sample in (samples.read(i) for i in range(len(samples)))}


def make_raw(card: str, raw: Path, layout: str = "") -> None:
    """Write the miniature that a card names."""
    module, _, name = load_card(card).miniature.partition(":")
    raw.mkdir(parents=True)
    getattr(importlib.import_module(module), name)(raw, layout)


def captions(samples: dict[str, Sample]) -> dict[str, tuple[str, ...]]:
    """Return the captions of each sample."""
    return {key: sample.captions for key, sample in samples.items()}
