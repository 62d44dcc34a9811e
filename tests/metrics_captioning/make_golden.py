"""Writes golden.json: what pycocoevalcap 1.2 (with Java) says of synthetic captions.

In an environment of its own, since the tests do without it:

    python -m venv coco && coco/bin/pip install pycocoevalcap==1.2
    coco/bin/python tests/metrics_captioning/make_golden.py

Captions are drawn with a fixed seed; the odd cases in front are written by hand. Figures of METEOR are in it
too, those of SPICE are not (it downloads models).
"""

import json
import random
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

WHO = (
    "a man|A woman|two dogs|the boy's cat|three kids|an elderly man's hat|people|A group of people|"
    "the girls'|He|She's|they're|I'm|Mr. Smith|Dr. Jones|a 5-year-old girl|a black-and-white cat|a U.S. flag|"
    "A T-shirt|the no. 5 bus|St. Louis|somebody's dog|a café|"
    "el niño|O'Brien|a B&W photo|an AT&T sign|J. K. Rowling"
)
DOES = (
    "is riding|doesn't like|can't see|isn't on|sits|stands next to|won't stop|is \"jumping\" over|"
    "'s holding|has 1,000|gets 3.5|plays w/|is about to eat|cannot find|gonna hit|says 'hello' to|"
    "shows the word 'STOP' on|at 10:30 am|at 5 p.m. on|- looks at|-- looks at|; looks at|, looking at|"
    "shouldn't've|wanna be|is (probably) eating|… looks at|is taking a “selfie” with"
)
WHAT = (
    "a skateboard|the frisbee|a red/white plane|a plate of food|an 8-foot wave|a $5 bill|50% of the pizza|"
    "a #1 sign|Main St.|the street|a T.V.|the tv|a 1950's car|a '57 Chevy|the 1990s|rock 'n' roll|10 lbs.|"
    "6 ft. tall|a 6' tall man|7-Eleven|a stop-sign|'STOP'|the sign that reads \"No Parking\"|St. Mary's|"
    "one (1) dog|[a thing]|ice cream/cake|Coca-Cola®|½ cup|hot-dogs & buns|2 1/2 cups|"
    "a laptop, mouse, and keyboard|a/c unit|www.foo.com|the dog’s bed|the end 😀"
)
END = [".", ".", ".", ".", "!", "?", "...", " .", ", ", " ..", ";", "!!", "' ", ").", ",", ""]
ODD = [
    ("", ["a dog"]),
    ("...", ["a dog .", "the dog"]),
    ("a dog", ["a dog"]),
    ("a a a a a a", ["a dog runs", "a cat and a dog"]),
    ("the the the cat cat", ["the cat the cat the cat", "the the the"]),
    ("dog", ["dog", "a dog in the park"]),
    ("a man riding a wave on top of a surfboard .", ["A man is riding a wave.", "a surfer"]),
    ("one two three four five", ["a b", "a b c d e f g h"]),
    ("北京 café naïve", ["café naïve 北京", "a café"]),
    ("a very long caption " * 12, ["a short one", "a very long caption about something"]),
    ("it's the dog's", ["it is the dog's", "its the dogs"]),
]
PICTURES = 160


def caption(draw: random.Random) -> str:
    parts = [draw.choice(WHO.split("|")), draw.choice(DOES.split("|")), draw.choice(WHAT.split("|"))]
    if draw.random() < 0.4:
        parts += [
            draw.choice(["and", "while", "that", ","]),
            draw.choice(WHO.split("|")),
            draw.choice(DOES.split("|")),
        ]
        parts.append(draw.choice(WHAT.split("|")))
    text = " ".join(parts) + draw.choice(END)
    return text.upper() if draw.random() < 0.1 else text


def main() -> None:
    draw = random.Random(20261121)
    rows = list(ODD)
    for _ in range(PICTURES):
        references = [caption(draw) for _ in range(draw.randint(1, 5))]
        said = draw.choice(references) if draw.random() < 0.3 else caption(draw)
        if draw.random() < 0.3:
            words = said.split()
            draw.shuffle(words)
            said = " ".join(words)
        rows.append((said, references))
    said = {i: [{"caption": row[0]}] for i, row in enumerate(rows)}
    given = {i: [{"caption": text} for text in row[1]] for i, row in enumerate(rows)}
    said, given = PTBTokenizer().tokenize(said), PTBTokenizer().tokenize(given)
    overall, each = {}, {}
    overall["bleu"], each["bleu"] = Bleu(4).compute_score(given, said, verbose=0)
    for name, metric in {"rouge_l": Rouge(), "cider": Cider(), "meteor": Meteor()}.items():
        figure, figures = metric.compute_score(given, said)
        overall[name], each[name] = float(figure), [float(f) for f in figures]
    content = {
        "candidates": [row[0] for row in rows],
        "references": [row[1] for row in rows],
        "candidate_words": [said[i][0] for i in range(len(rows))],
        "reference_words": [given[i] for i in range(len(rows))],
        "overall": overall,
        "each": each,
    }
    path = Path(__file__).parent / "golden.json"
    path.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
