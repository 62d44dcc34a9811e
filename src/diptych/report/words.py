"""The page of `diptych words mine`: which words carry the meaning of a corpus."""

from dataclasses import dataclass
from pathlib import Path

from diptych.data.mined import Mined, top_words
from diptych.data.words import KINDS
from diptych.report.pages import render, write_page
from diptych.report.plots import line_chart

SHOWN = 60
"""Words in each list."""
NAMES = {"verb": "verbs", "noun": "nouns", "adj": "adjectives"}


@dataclass(frozen=True)
class KindView:
    """The most frequent words of a kind."""

    name: str
    words: int
    pairs: list[tuple[str, int]]


def write_words_page(mined: Mined, top: int, texts: int | None, out: Path) -> Path:
    """Write a page with the most frequent words of each kind and how frequency falls with rank.

    Args:
        mined: what `rank_and_write` returned.
        top: words up to this rank are significant.
        texts: number of texts that were counted, where it is known.
        out: path of the page.
    """
    ranked = mined.words
    frequent = top_words(ranked, len(ranked.names))
    views = [
        KindView(NAMES[kind], len(own), [(word, count) for _, word, count, _ in own[:SHOWN]])
        for kind in KINDS
        if (own := [row for row in frequent if row[3] == kind])
    ]
    places = [float(number) for number in range(1, len(frequent) + 1)]
    chart = line_chart(
        {"occurrences": (places, [float(row[2]) for row in frequent])},
        x_label="place of the word",
        log_y=True,
        legend=False,
        smoothed=False,
    )
    significant = [row for row in frequent if row[0] <= top]
    share = sum(row[2] for row in significant) / max(1, sum(row[2] for row in frequent))
    page = render(
        "words.html.j2",
        title="Words that carry the meaning",
        texts=texts,
        mined=mined,
        words=len(frequent),
        top=top,
        significant=len(significant),
        share=share,
        kinds=views,
        chart=chart,
    )
    return write_page(page, out)
