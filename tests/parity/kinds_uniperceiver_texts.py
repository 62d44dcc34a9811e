"""Kind `tokenizer_glue_masking` of Uni-Perceiver: the published tokenizer, prompts of GLUE, hidden words."""

from random import Random

from tests.parity.runner import Case, Comparison, exact

from diptych.data.clip_text import ClipWords
from diptych.systems.uniperceiver.glue import pack
from diptych.systems.uniperceiver.words import mask_words

SIDES = ("left", "left</w>", "right", "right</w>")


def check(case: Case) -> list[Comparison]:
    """Compare ids, words and texts; sequences of GLUE with their slots; masks of recorded seeds."""
    meta, words = case.meta, ClipWords()
    done = [exact("vocabulary", words.size, meta["vocab_size"])]
    done += [exact(token, words.id_of(token), i) for token, i in meta["special"].items()]
    if "left_right" in meta:
        done.append(exact("left and right", [words.id_of(token) for token in SIDES], meta["left_right"]))
    if "full_stop_word" in meta:
        done.append(exact("full stop", words.encode("."), [meta["full_stop_word"]]))
    for row in meta.get("encode", ()):
        done.append(exact(f"ids of {row['text']!r}", words.encode(row["text"]), row["ids"]))
        if row.get("basic") is not None:
            done.append(exact(f"words of {row['text']!r}", words.words(row["text"]), row["basic"]))
        if row.get("decoded") is not None:
            done.append(exact(f"text of {row['text']!r}", words.decode(row["ids"]), row["decoded"]))
    return done + _glue(case, words) + _masks(case, words)


def _glue(case: Case, words: ClipWords) -> list[Comparison]:
    done = []
    for row in case.meta.get("glue", ()):
        found = pack(
            row["task"],
            row["sentences"],
            words.encode,
            slot=words.slot_id,
            end=words.end_id,
            limit=row["max_len"],
            published=True,
        )
        name = f"{row['task']} {row['max_len']}"
        done += [
            exact(f"{name} ids", found.ids, row["ids"]),
            exact(f"{name} slot", found.slot, row["spe_index"]),
        ]
    return done


def _masks(case: Case, words: ClipWords) -> list[Comparison]:
    done, recorded = [], case.meta.get("whole_word_mask")
    for run in recorded["runs"] if recorded else ():
        pieces = [words.pieces(word) for word in recorded["words"]]
        seed = run["python_random_seed"]
        ids, labels = mask_words(pieces, Random(seed), slot=words.slot_id, vocabulary=words.size)
        done += [
            exact(f"seed {seed} ids", ids, run["ids"]),
            exact(f"seed {seed} labels", labels, run["labels"]),
        ]
    return done
