"""Captions as the words that pycocoevalcap's figures count.

Its tokenizer is a Java program: the Penn Treebank rules of Stanford CoreNLP 3.4.1, everything in lower case.
What it does to captions is written down here as rules of our own, found by giving it texts.
"""

import re

PUNCTUATION = frozenset(("''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";"))
"""Tokens that do not count. Brackets do: they are words like `-lrb-`."""
_WRITTEN = {
    **dict.fromkeys("‘‛‹\x91", "`"),
    **dict.fromkeys("’›\x92", "'"),
    **dict.fromkeys("«“\x93»”\x94", '"'),
    **dict.fromkeys("–—―\x96\x97", "--"),
    "…": " ... ",
    "£": " # ",
    "¢": " cents ",
    "\u00ad": "",
    "\u2028": " ",
    "\u2029": " ",
    **dict.fromkeys("€¤₠\x80", " $ "),
    # The blank in front keeps them from becoming part of a number like 2 1/2.
    "¼": "\u00a01/4 ",
    "½": "\u00a01/2 ",
    "¾": "\u00a03/4 ",
    "⅓": "\u00a01/3 ",
    "⅔": "\u00a02/3 ",
}
_ESCAPES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SYMBOLS = (
    r"$%&*+/<=>@\\^_`|~#¡¥-©¬®-´¶-¹¿×÷\u2016\u2017‚„-‣‰-‸※‾-⁂⁄⁰⁴-⁾₀-₎℀-⅏⅕-⅞"
    r"\u2190-\u2bff、。〒・！-／：-＠［-｀｛-･￠￡￥￦"
)
"""Signs that are words of their own; others are dropped."""
_ABBREVIATIONS = (
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri ala ariz Az AZ Ark ARK "
    "calif colo conn ct dak Del DEL fla ga Ill ILL ind kans kan ky La LA Mass MASS md mich minn Miss MISS mo "
    "mont neb nev okla Ore ORE Pa PA penn tenn Tex TEX va vt Wash WASH wis wisc wyo inc cos corp co ltd plc "
    "bancorp assn intl sr jr esq bros blvd rd est etc al tel univ bldg seq ext Mfg mfg dept messrs mme mr "
    "mrs ms dr drs prof rep sen gen lt col capt maj sgt gov pres hon rev st ste ave vs ph ft adm cmdr cpl "
    "insp pfc pvt supt atty sens reps govs lieut brig det mlle mt cf alex wm jos cie"
)
"""Words that keep their full stop; those with capitals do so only written like that."""
_NUMBERED = "pp fig figs no nos art op ca"
"""Words that keep it in front of a number."""
_STARTERS = (
    "The A An He She It They We You There This That These In At One Some Many Her Their As But If When While "
    "What So"
)
"""Words that begin a sentence behind a single letter with a full stop."""
_TWO = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "lemme": ("lem", "me"),
    "gimme": ("gim", "me"),
    "wanna": ("wan", "na"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}

_L = r"(?:[^\W\d_²³¹⁰-₉]|[\u0300-\u036f])"
_A = rf"(?:{_L}|\d)"
_FULL = "|".join(w if w.lower() != w or w == "mfg" else f"(?i:{w})" for w in _ABBREVIATIONS.split())
_ONCE = "|".join(_NUMBERED.split())
_AT_END = rf"(?!{_A})"
_NOT_OVER = re.compile(_A)
_TOKENS = tuple(
    re.compile(pattern)
    for pattern in (
        # Addresses.
        r"https?://[^\s\"<>|]*[^\s\"<>|.!?,;:)'-]",
        r"(?i:www\.)[\w.-]+\w(?:/[^\s\"<>|]*[^\s\"<>|.!?,;:)'-])?",
        r"\w[\w.-]*\.(?i:com|net|org|edu)(?:/[^\s\"<>|]*[^\s\"<>|.!?,;:)'-])?" + _AT_END,
        r"[A-Za-z0-9_.+-]+@[A-Za-z0-9][\w.-]*\w|\w+@\w+|@[A-Za-z]\w*|#[A-Za-z]+",
        r"</?[A-Za-z!?][^<>]*>",
        # Words and what they are made of; a full stop may be between two.
        rf"{_L}{_A}*(?:[.!?]{_L}{_A}*)*",
        rf"{_A}+(?:_+{_A}+)*",
        r"[A-Za-z0-9][A-Za-z0-9.,]*(?:[-‐\u2011](?:[A-Za-z0-9])+)+",
        rf"{_A}+(?:-{_A}+)+",
        rf"{_A}+(?:-{_A}+){{0,2}}(?:/{_A}+(?:-{_A}+){{0,2}}){{1,2}}",
        r"[A-Z]+(?:[+&][A-Z]+)+",
        r"[A-Za-z]\+\+|[cCfF]#",
        # Apostrophes.
        rf"[dDoOlL]'{_L}{_A}*|(?i:ma'am|c'mon)",
        rf"(?i:'em|'cause|'til){_AT_END}|(?i:'n')|'\d\ds?(?![\w\"])",
        rf"(?i:'tis|'twas){_AT_END}",
        rf"(?i:'(?:s|m|d|re|ve|ll|n)|n't){_AT_END}",
        rf"(?i:y)'(?={_L})",
        # Full stops that stay.
        rf"(?:{_FULL})\.",
        rf"(?i:{_ONCE})\.(?=\s*\d)",
        r"[A-Za-z]+\.(?=[,;:])",
        r"[A-Za-z](?:\.[A-Za-z])+\.|(?i:ph\.d\.)",
        rf"[A-Za-z]\.(?!\s+(?:{'|'.join(_STARTERS.split())})(?![\w']))",
        # Numbers.
        r"\d{1,4}[- ]\d{1,4}/\d{1,4}(?!\d)",
        r"[-+]?\d*(?:[.,:]\d+)+|[-+]?\d+",
        # Signs.
        r"\.{3,}|#+|[!?]+|-{2,}|''|``|__+|\*\*+",
        r"(?:[:;=][-o*']?[()DPdp]|\^_\^)" + _AT_END,
        rf"[.,:;'\"`\-()\[\]{{}}{_SYMBOLS}]",
    )
)


def caption_words(caption: str) -> list[str]:
    """Return the words of a caption: lower case, contractions in two, punctuation left out.

    `A man's dog doesn't sit.` becomes `a man 's dog does n't sit`. Ordinary captions come out as from
    pycocoevalcap's own tokenizer (tests/metrics_captioning compares them). Not followed are its ways with
    rare things: slips of the pen around apostrophes (`can'tb`), curly ones inside words (`O’Brien`), `@`
    inside words, telephone numbers, most smileys, a single letter with a full stop at the end (there the
    next caption of the file decides whether it keeps it), scripts and signs it does not know, which it drops
    (those above U+FFFF, emoji for example, are dropped here as well).
    """
    text = caption
    for escape, meant in _ESCAPES.items():
        text = text.replace(escape, meant)
    text = "".join(_WRITTEN.get(sign, sign) if sign < "\U00010000" else " " for sign in text)
    found: list[str] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        end = max((match.end() for rule in _TOKENS if (match := rule.match(text, at))), default=at)
        if text[end - 1 : end + 2].lower() == "n't" and end > at + 1 and not _NOT_OVER.match(text, end + 2):
            end -= 1  # the n goes with what follows: do n't
        if end > at:
            found += _words_of(text[at:end].lower())
        at = max(end, at + 1)
    return [word for word in found if word not in PUNCTUATION]


def _words_of(token: str) -> tuple[str, ...]:
    if token in _TWO:
        return _TWO[token]
    token = "--" if set(token) == {"-"} and len(token) > 1 else token
    token = "..." if set(token) == {"."} else token.replace(" ", "\u00a0")
    return ("".join(_BRACKETS.get(sign, sign) for sign in token),)
