"""The documentation page made from the cards."""

from pathlib import Path

import diptych
from diptych.data.cards import CARDS, render_markdown
from diptych.data.cards.base import Card, Source, Split
from diptych.data.cards.render import render_card
from diptych.resolve import look_up


def test_the_page_in_docs_is_up_to_date():
    page = Path(diptych.__file__).parents[2] / "docs" / "datasets.md"
    assert page.read_text() == render_markdown(), "run `make docs`"


def test_each_card_has_its_name_and_all_options_and_splits_on_the_page():
    page = render_markdown()
    for name in CARDS:
        card = look_up(CARDS, name, "card")
        assert card.name == name
        assert f"## {name}: {card.title}" in page
        assert all(f"- `{option}`: " in page for option in card.options)
        assert all(f"| `{split}` | `{s.where}` |" in page for split, s in card.splits.items())


def test_a_card_by_hand():
    card = Card(
        name="toy",
        title="A toy",
        description="Two pictures.",
        licence="CC0-1.0",
        convert=lambda raw, options: iter(()),
        splits={"all": Split("true", 1200, "everything"), "some": Split("a < 1")},
        sources=(Source("toy.zip", "the owner"), Source("more.zip", "the owner", required=False)),
        citation="Toy et al., 2020",
    )
    assert render_card(card) == (
        "## toy: A toy\n\nTwo pictures.\n\n"
        "- Licence: CC0-1.0\n- Citation: Toy et al., 2020\n- Card version: 1\n\n"
        "Files expected under `--raw`:\n\n| file | from | required |\n|---|---|---|\n"
        "| `toy.zip` | the owner | yes |\n| `more.zip` | the owner | no |\n\n"
        "| split | where | samples | |\n|---|---|---|---|\n"
        "| `all` | `true` | 1,200 | everything |\n| `some` | `a < 1` | any |  |\n"
    )
