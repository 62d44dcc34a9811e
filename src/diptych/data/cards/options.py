"""Reading a card's own options (`-o name=value`)."""

from collections.abc import Mapping, Sequence

from diptych.errors import UsageError
from diptych.resolve import nearest


def names_of(text: str) -> list[str]:
    """Return the names in an option that holds several, with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


class Options:
    """Typed access to the options of one card.

    Args:
        card: name of the card, for messages.
        values: what the user gave.
        known: names the card has.

    Raises:
        UsageError: an option that the card does not have.
    """

    def __init__(self, card: str, values: Mapping[str, str], known: Mapping[str, str]) -> None:
        for name in values:
            if name not in known:
                choices = ", ".join(sorted(known)) or "none"
                raise UsageError(
                    f"card '{card}' has no option '{name}'{nearest(name, known)} (options: {choices})"
                )
        self._card = card
        self._values = values

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""
        text = self._values.get(name)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise UsageError(
                f"card '{self._card}', option {name}={text}: expected a whole number from {low} to {high}"
            )
        return value

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        return self._values.get(name, default)

    def choice(self, name: str, default: str, choices: Sequence[str]) -> str:
        """Return one of `choices`."""
        value = self._values.get(name, default)
        if value not in choices:
            raise UsageError(
                f"card '{self._card}', option {name}={value}{nearest(value, choices)} "
                f"(expected {' or '.join(choices)})"
            )
        return value

    def several(self, name: str, default: Sequence[str], choices: Sequence[str]) -> tuple[str, ...]:
        """Return a comma-separated selection of `choices`, in the order of `choices`."""
        text = self._values.get(name)
        if text is None:
            return tuple(default)
        chosen = [part.strip() for part in text.split(",")]
        for part in chosen:
            if part not in choices:
                raise UsageError(
                    f"card '{self._card}', option {name}: unknown '{part}'{nearest(part, choices)} "
                    f"(expected some of {', '.join(choices)}, with commas)"
                )
        return tuple(choice for choice in choices if choice in chosen)
