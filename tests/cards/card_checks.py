"""What the tests of the cards of pictures share: a miniature prepared, and everything about it read back."""

import json
import tarfile
from pathlib import Path
from typing import Any

from diptych.data.index import ShardDataset
from diptych.data.miniatures.media import colour_of
from diptych.data.prepare import Summary, load_card, make_miniature, prepare
from diptych.data.sample import Sample
from diptych.data.verify import verify


class Prepared:
    """A miniature as shards: the summary, the dataset, and its samples by key."""

    def __init__(self, card: str, folder: Path, layout: str = "", **options: str) -> None:
        self.card, self.raw = load_card(card), folder / "raw"
        self.out = folder / "_".join(["out", layout, *options.values()])
        if not self.raw.exists():
            make_miniature(self.card, self.raw, layout)
        self.summary: Summary = prepare(self.card, self.raw, self.out, options=options, layout=layout)
        self.dataset = ShardDataset.open(self.out)
        rows = self.dataset.select()
        self.samples: dict[str, Sample] = {s.key: s for s in (rows.read(i) for i in range(len(rows)))}

    def counts(self) -> dict[str, int]:
        """Return the samples of each split."""
        return self.summary.splits

    def left_out(self) -> dict[str, list[str]]:
        """Return the causes for which something was left out, with all examples (five at most)."""
        return self.summary.examples

    def colours(self) -> dict[str, list[int]]:
        """Return the colour ids of the pictures of each sample."""
        return {
            key: [colour_of(sample.media[name]) for name in sorted(sample.media)]
            for key, sample in self.samples.items()
        }

    def column(self, name: str) -> dict[str, Any]:
        """Return key -> value of a column of the index."""
        rows = self.dataset.select()
        return dict(zip(rows.column("key"), rows.column(name), strict=True))

    def check(self) -> None:
        """Assert that every byte is as written, and that each tar holds what other tools expect."""
        verdict = verify(self.out)
        assert verdict.sound, list(map(str, verdict.damages))
        for shard in self.dataset.info["shards"]:
            with tarfile.open(self.out / shard["file"]) as tar:
                for member in tar:
                    key, _, name = member.name.partition(".")
                    content = tar.extractfile(member)
                    assert content is not None
                    if name == "json":
                        assert json.load(content)["captions"] == list(self.samples[key].captions)
