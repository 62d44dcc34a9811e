"""Miniatures of the text cards: `bookswiki` and `glue`."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

LONG_LINE = 2000
"""Words of the long line, of 49 letters each: 100 kB."""


def make_bookswiki(raw: Path, layout: str = "") -> None:
    """Write `bookswiki.doc` and its small file."""
    folder = raw / "bert_pretrain_data/bookswiki" if layout == "uniperceiver" else raw
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "\ufeff",
        "  The cat, so they say, sat on “the” café's mat .  ",
        "It   slept.\r",
        "",
        "",
        "Another document begins here.",
        "...",
        "NUL\0inside and a\ttab.",
        "\0",
        "Still the same document.",
        "",
        f"{'w' * 49} " * LONG_LINE,
        "The last line has no end",
    ]
    (folder / "bookswiki.doc").write_bytes("\n".join(lines).encode())
    (folder / "bookswiki-1000.doc").write_text("It slept.\n\nAnother document begins here.\n", "utf-8")


def make_bookswiki_tables(raw: Path) -> None:
    """Write the text as hubs offer it: tables of articles, and of sentences."""
    articles = {
        "id": ["12", "7"],
        "url": ["https://example.org/12", "https://example.org/7"],
        "title": ["Kite", "Ada"],
        "text": [
            'A kite flies. Dr. J. Smith wrote: "It flies!" He was right.\n\nHistory\nKites are old.',
            "Ada lived in 1843.",
        ],
    }
    (raw / "wikipedia").mkdir(parents=True, exist_ok=True)
    (raw / "bookcorpus").mkdir(exist_ok=True)
    pq.write_table(pa.table(articles), raw / "wikipedia/train-00000.parquet")
    books = {"text": ["she sat down .", "", "`` no , '' he said ."]}
    pq.write_table(pa.table(books), raw / "bookcorpus/train-00000.parquet")


NLI_HEADER = "index\tsentence1\tsentence2\tlabel"
_MNLI = "index\tpromptID\tpairID\tgenre\ts1_binary\ts2_binary\ts1_parse\ts2_parse\tsentence1\tsentence2"
_STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
_VOTES = "label1\tlabel2\tlabel3\tlabel4\tlabel5"

GLUE: dict[str, Sequence[str]] = {
    "CoLA/train.tsv": ("gj04\t1\t\tThe sailors rode the breeze.", 'gj04\t0\t*\tThe "naïve" more, he left.'),
    "CoLA/dev.tsv": ("gj04\t1\t\tBill squeezed the puppet.",),
    "CoLA/test.tsv": ("index\tsentence", "0\tBill whistled past the house.", "1\tWas that?"),
    "SST-2/train.tsv": ("sentence\tlabel", "hide new secretions \t0", "a gem \t1", "a gem \t1"),
    "SST-2/dev.tsv": ("sentence\tlabel", "it 's a charming journey . \t1"),
    "SST-2/test.tsv": ("index\tsentence", "0\tuneasy mishmash"),
    "MRPC/train.tsv": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t702876\t702977\tHe said "yes.\tHe agreed.',
    ),
    "MRPC/dev.tsv": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t31\t32\tIt rose.\tIt fell."),
    "MRPC/test.tsv": ("index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t9\t8\tOne.\tTwo."),
    "QQP/train.tsv": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "133273\t213221\t213222\tHow is it?\tHow are you?\t0",
        "402555\t536040\t536041\tbroken row",
        "360472\t364011\t490273\tWhy?\tWhy, then?\t1",
    ),
    "QQP/dev.tsv": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\tWho?\tWho is it?\t1"),
    "QQP/test.tsv": ("id\tquestion1\tquestion2", "0\tWould it?\tCould it?"),
    "STS-B/train.tsv": (
        f"{_STSB}\tscore",
        "0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\tA plane is taking off.\tIt starts.\t4.250",
    ),
    "STS-B/dev.tsv": (f"{_STSB}\tscore", "0\tg\tf\ty\t1\tn\tn\tA hat.\tA hard hat.\t5.000"),
    "STS-B/test.tsv": (_STSB, "0\tg\tf\ty\t1\tn\tn\tA girl.\tA boy."),
    "MNLI/train.tsv": (
        f"{_MNLI}\tlabel1\tgold_label",
        "0\t31193\t31193n\tgovernment\tb\tb\tp\tp\tIt has two sides.\tIt has sides.\tneutral\tentailment",
    ),
    "MNLI/dev_matched.tsv": (
        f"{_MNLI}\t{_VOTES}\tgold_label",
        "0\t1\t1e\tslate\tb\tb\tp\tp\tNew.\tOld.\tneutral\tneutral\tneutral\tneutral\tneutral\tcontradiction",
        "1\t2\t2e\tslate\tb\tb\tp\tp\tGo.\tStay.\tneutral\tneutral\tneutral\tneutral\tneutral\t-",
    ),
    "MNLI/dev_mismatched.tsv": (
        f"{_MNLI}\t{_VOTES}\tgold_label",
        "0\t1\t1e\tletters\tb\tb\tp\tp\tYou.\tMe.\tneutral\tneutral\tneutral\tneutral\tneutral\tneutral",
    ),
    "MNLI/test_matched.tsv": (_MNLI, "0\t1\t1\ttravel\tb\tb\tp\tp\tIn.\tOut."),
    "MNLI/test_mismatched.tsv": (_MNLI, "0\t1\t1\tverbatim\tb\tb\tp\tp\tUp.\tDown."),
    "QNLI/train.tsv": ("index\tquestion\tsentence\tlabel", "0\tWhen?\tIn 1950.\tentailment"),
    "QNLI/dev.tsv": ("index\tquestion\tsentence\tlabel", "0\tWhere?\tIn 1950.\tnot_entailment"),
    "QNLI/test.tsv": ("index\tquestion\tsentence", "0\tWho?\tNobody."),
    "RTE/train.tsv": (NLI_HEADER, "0\tNo weapons.\tWeapons.\tnot_entailment"),
    "RTE/dev.tsv": (NLI_HEADER, "0\tA dog barks.\tA dog.\tentailment"),
    "RTE/test.tsv": ("index\tsentence1\tsentence2", "0\tRain.\tSun."),
    "WNLI/train.tsv": (NLI_HEADER, "0\tI stuck a pin.\tThe pin.\t1"),
    "WNLI/dev.tsv": (NLI_HEADER, "0\tThe drain.\tThe hair.\t0"),
    "WNLI/test.tsv": ("index\tsentence1\tsentence2", "0\tMaude.\tDora."),
    "diagnostic/diagnostic.tsv": ("index\tsentence1\tsentence2", "0\tThe cat sat.\tThe cat did not sit."),
}
"""File -> lines: quotes that do not close, empty columns, a malformed row, a label that is none."""


def make_glue(raw: Path, layout: str = "") -> None:
    """Write the files of all tasks, as they are downloaded or (layout) as Uni-Perceiver prepares them."""
    for name, lines in GLUE.items():
        path = raw / name
        if layout == "uniperceiver":
            # Its preparation strips headers and drops damaged rows of QQP; WNLI and diagnostics stay raw.
            path = raw / "bert_pretrain_data/glue_data" / name
            if not name.startswith(("WNLI", "diagnostic")):
                path = path.parent / "processed" / path.name
                lines = lines if name in ("CoLA/train.tsv", "CoLA/dev.tsv") else lines[1:]
                lines = [line for line in lines if "broken row" not in line]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(("\n".join(lines) + "\n").encode())
