"""Captioning: BLEU, ROUGE-L, CIDEr-D and METEOR of captions, with the figures of pycocoevalcap.

A picture has one candidate and one or more references. Figures are fractions of 1 (papers print 100 times as
much), except CIDEr-D, which goes up to 10 (papers print 100 times as much, too).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diptych.errors import DataError
from diptych.metrics.captioning_meteor import Unavailable, meteor
from diptych.metrics.captioning_ngrams import bleu, cider, rouge_l
from diptych.metrics.captioning_words import caption_words

METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "meteor", "spice")
"""Names of the figures."""
_NO_SPICE = (
    "SPICE is not computed: it needs a Java program, a scene graph parser and the models of Stanford "
    "CoreNLP, which its own package downloads; give your captions to pycocoevalcap for it"
)


@dataclass(frozen=True)
class CaptionScores:
    """Figures of a set of captions."""

    overall: dict[str, float]
    """Name of `METRICS` -> figure of the whole set."""
    each: dict[str, list[float]]
    """Name -> figure of each picture, in the order given."""
    unavailable: dict[str, str] = field(default_factory=dict)
    """Name -> why there is no such figure."""


def caption_scores(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenise: bool = True,
    java: str = "java",
    meteor_jar: Path | None = None,
) -> CaptionScores:
    """Return every figure of captions.

    Args:
        candidates: a caption a picture; it may be empty.
        references: one or more captions a picture. Document frequencies of CIDEr-D come from all of them, so
            figures of different sets of pictures cannot be compared word for word.
        tokenise: split captions by `caption_words` first; False: they are words with blanks between already.
        java: the program that METEOR runs on.
        meteor_jar: METEOR's program; None: that of an installed pycocoevalcap.

    Raises:
        DataError: no pictures, a picture without references, or not one list of them a candidate.
    """
    check_captions(candidates, references)
    if tokenise:
        candidates = [" ".join(caption_words(caption)) for caption in candidates]
        references = [[" ".join(caption_words(caption)) for caption in several] for several in references]
    totals, singles = bleu(candidates, references)
    overall = {f"bleu_{n}": total for n, total in enumerate(totals, 1)}
    each = {f"bleu_{n}": scores for n, scores in enumerate(singles, 1)}
    overall["rouge_l"], each["rouge_l"] = rouge_l(candidates, references)
    overall["cider"], each["cider"] = cider(candidates, references)
    unavailable = {"spice": _NO_SPICE}
    try:
        overall["meteor"], each["meteor"] = meteor(candidates, references, java=java, jar=meteor_jar)
    except Unavailable as error:
        unavailable["meteor"] = str(error)
    return CaptionScores(overall, each, unavailable)


def check_captions(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Check that captions and their references go together.

    Raises:
        DataError: no pictures, a picture without references, or not one list of them a candidate.
    """
    if len(candidates) != len(references):
        raise DataError(
            f"captions: {len(candidates)} candidates and references of {len(references)} pictures; expected "
            "one candidate and one list of references a picture, in the same order"
        )
    if not candidates:
        raise DataError("captions: no pictures; expected at least one candidate with its references")
    for number, several in enumerate(references):
        if isinstance(several, str) or not several:
            raise DataError(
                f"captions: references[{number}] is {several!r}; expected a list of one or more captions"
            )
