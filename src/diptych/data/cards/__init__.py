"""The table of dataset cards. Adding a dataset: its card file and one line here."""

CARDS: dict[str, str] = {
    "emoji": "diptych.data.cards.emoji:CARD",
    "emoji-scenes": "diptych.data.cards.emoji_scenes:CARD",
}
"""Card name -> "module:object", imported on first use."""
