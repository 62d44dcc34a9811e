"""Kind `text_normalise`: cleaning of captions and questions."""

import re

from tests.parity.runner import Case, Comparison, exact

from diptych.data.text import clean_caption, clean_question
from diptych.errors import DataError

RULES = {"caption": clean_caption, "question": clean_question}
_TABLE = re.compile(r"pre_(caption|question)_(\d+)")
_REFUSED = re.compile(r"pre_(caption|question)_raises")


def check(case: Case) -> list[Comparison]:
    """Clean what the case recorded: `pre_<rule>_<words kept>` holds pairs, `..._raises` refused texts."""
    done = []
    for name, recorded in case.meta.items():
        table, refused = _TABLE.fullmatch(name), _REFUSED.fullmatch(name)
        if table:
            for text, expected in recorded:
                done.append(exact(f"{name} {text!r}", RULES[table[1]](text, int(table[2])), expected))
        for text in recorded if refused else ():
            done.append(exact(f"{name} {text!r}", _is_refused(text, refused[1]), True))
    return done


def _is_refused(text: str, rule: str) -> bool:
    try:
        RULES[rule](text)
    except DataError:
        return True
    return False
