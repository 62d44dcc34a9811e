"""The table of dataset cards. Adding a dataset: its card file and one line here."""

from diptych.resolve import look_up

CARDS: dict[str, str] = {
    "emoji": "diptych.data.cards.emoji:CARD",
    "emoji-scenes": "diptych.data.cards.emoji_scenes:CARD",
    "retrieval-json": "diptych.data.cards.xvlm_json_retrieval:CARD",
    "vqa-json": "diptych.data.cards.xvlm_json_vqa:CARD",
    "nlvr-json": "diptych.data.cards.xvlm_json_nlvr:CARD",
}
"""Card name -> "module:object", imported on first use."""


def render_markdown() -> str:
    """Return the documentation page of all cards (docs/datasets.md)."""
    from diptych.data.cards.render import render  # here: importing the table stays cheap

    return render(look_up(CARDS, name, "card") for name in CARDS)
