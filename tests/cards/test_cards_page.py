"""The documentation page made from the cards."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import diptych
from diptych.cli import data_cards
from diptych.data.cards import CARDS, render_markdown
from diptych.data.cards.base import Card, Layout, Source, Split
from diptych.data.cards.render import render, render_card
from diptych.data.cards.usage import commands, target_command
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
        assert all(f"**Layout `{layout}`** (`--layout {layout}`): " in page for layout in card.layouts)
        for split, s in card.splits.items():
            assert f"| `{split}` | `{s.where}` |".replace(" || ", " \\|\\| ") in page


def test_links_at_the_top_lead_to_the_sections():
    page = render_markdown()
    anchors = set(re.findall(r"\(#([^)]*)\)", page))
    headings = re.findall(r"^## (.*: .*)$", page, re.MULTILINE)
    # What GitHub makes of a heading: lower case, no punctuation, each blank a dash.
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert len(made) == len(CARDS)
    assert anchors == made


def test_the_list_is_readable_at_100_columns(monkeypatch: pytest.MonkeyPatch):
    out = io.StringIO()
    monkeypatch.setattr(data_cards, "console", lambda: Console(file=out, width=100))
    data_cards.list_cards()
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in out.getvalue()
    assert {line.split()[0] for line in lines} >= set(CARDS)
    layouts = {layout for name in CARDS for layout in look_up(CARDS, name, "card").layouts}
    assert all(re.search(rf"\b{layout}\b", out.getvalue()) for layout in layouts)


def test_show_tells_all_of_a_card(capsys: pytest.CaptureFixture[str]):
    for name in CARDS:
        card = look_up(CARDS, name, "card")
        data_cards.show(name)
        text = capsys.readouterr().out
        plain = " ".join(text.split())
        for source in (*card.sources, *(s for layout in card.layouts.values() for s in layout.sources)):
            assert f"RAW/{source.path}" in text
            assert all(place in plain for place in source.alternatives)
        said = (card.description, card.licence, card.citation, *card.options.values())
        for words in (*said, *(split.note for split in card.splits.values())):
            assert " ".join(words.split()) in plain
        assert all(command in text for command, _ in commands(card))
        assert all(len(line) <= 100 or re.search("RAW|diptych|://|_", line) for line in text.splitlines())


TOY = Card(
    name="toy",
    title="A toy",
    description="Two pictures.",
    licence="CC0-1.0",
    convert=lambda raw, options: iter(()),
    splits={
        "all": Split("true", 1200, "everything", texts=2400, about=True),
        "some": Split("a || b = 'xy'"),
        "few": Split("a < 1", 7),
    },
    sources=(
        Source("toy.zip", "the owner", alternatives=("toy", "toy.tar")),
        Source("more.zip", "the owner", required=False),
    ),
    citation="Toy et al., 2020",
    layouts={"flat": Layout("All in one folder.", lambda raw, options: iter(()), (Source("*.jpg", "you"),))},
    target_set="toy",
    prepared="Key: a number.",
    oddities="- None.",
    miniature="nowhere:make",
    example={"first": "yes"},
)
SECTION = """\
## toy: A toy

Two pictures.

- Licence: CC0-1.0
- Citation: Toy et al., 2020
- Card version: 1

**Raw files** (`--raw`):

| file or folder | from | required |
| --- | --- | --- |
| `toy.zip` or `toy` or `toy.tar` | the owner | yes |
| `more.zip` | the owner | no |

**Layout `flat`** (`--layout flat`): All in one folder.

| file or folder | from | required |
| --- | --- | --- |
| `*.jpg` | you | yes |

**Splits**:

| split | where | samples | texts |  |
| --- | --- | --- | --- | --- |
| `all` | `true` | about 1,200 | 2,400 | everything |
| `some` | `a \\|\\| b = 'xy'` | any |  |  |
| `few` | `a < 1` | 7 |  |  |

**A prepared sample**:

Key: a number.

**Oddities**:

- None.

**Target set** `toy`: made of the prepared dataset (`facts` in dataset.json).

**Commands**:

```bash
diptych data miniature toy --out RAW                               # TINY; --layout NAME for another layout
diptych data prepare toy --raw RAW --out data/toy -o first=yes
diptych data prepare toy --raw RAW --out data/toy --layout flat -o first=yes
diptych data verify data/toy                                       # every byte is as it was written
diptych targets build data/toy --out targets/toy --tokenizer clip  # what tasks choose from
```
"""


def test_a_card_by_hand():
    assert render_card(TOY) == SECTION.replace("TINY", "tiny raw files to try it with")


def test_the_table_at_the_top():
    page = render([TOY])
    assert (
        "| [toy](#toy-a-toy) | A toy | image | all about 1,200, some (any), few 7 | `flat` | toy |\n" in page
    )
    assert "| [toy](#toy-a-toy) | CC0-1.0 |\n" in page


def test_a_set_of_diptych_is_built_by_its_name():
    command = target_command(replace(TOY, target_set="kinetics-400"))
    assert command == "diptych targets build kinetics-400 --out targets/kinetics-400 --tokenizer clip"
