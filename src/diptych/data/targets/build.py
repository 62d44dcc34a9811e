"""Target sets from names, files, prepared datasets, vocabularies and the published pickles."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.raw.pickles import load_plain
from diptych.data.targets.names import ALIASES, LISTS, SHORT, canonical, class_synonyms
from diptych.data.targets.target_set import PLAIN, TargetSet, TokenizerFacts, make_tokens
from diptych.data.targets.tokens import ENDS, TargetTokenizer
from diptych.errors import DataError, UsageError
from diptych.resolve import nearest

GLUE = tuple(name for name in SHORT if name != "snli-ve")
VOCABULARY = "vocabulary"
KNOWN = (*LISTS, "glue", *SHORT, "vqa", VOCABULARY)
"""Names that `build` takes."""
DATASET_INFO = "dataset.json"
_FACTS = ("answers", "classes")
"""Entries of a dataset's facts that list what tasks choose from."""


def build(
    what: str, tokenizer: TargetTokenizer | None = None, prompts: Sequence[str] = (), *, name: str = ""
) -> list[TargetSet]:
    """Return the target sets that `what` stands for: one, or one for each task of `glue`.

    Args:
        what: one of `KNOWN`, a short form of it, a list in a file (`.txt`: a class a line, synonyms behind
            tabs; `.json`: a list of names or of lists of names), or a prepared dataset with answers.
        tokenizer: makes the tokens; None: names only.
        prompts: texts with `{}` in the place of the name; none: the name alone.
        name: what the set is called; empty: after `what`.

    Raises:
        UsageError: nothing is called so, wrong prompts, a vocabulary without a tokenizer.
        DataError: a file that cannot be read or is of another form.
    """
    wrong = [prompt for prompt in prompts if prompt.count("{}") != 1]
    if wrong:
        raise UsageError(f"--prompt '{wrong[0]}': expected one '{{}}' in the place of the name")
    if what == VOCABULARY:
        return [_vocabulary(tokenizer, prompts, name or VOCABULARY)]
    if what == "glue":
        return [build(task, tokenizer, prompts)[0] for task in GLUE]
    path = Path(what)
    if what.lower() in (*LISTS, *SHORT, *ALIASES):
        found = canonical(what)
        made = TargetSet(name or found, class_synonyms(found), f"the list '{found}' of Diptych")
    elif path.exists():
        made = TargetSet(name or path.resolve().stem, _read(path), path.name)
    else:
        raise UsageError(_unknown(what))
    return [tokenised(replace(made, prompts=tuple(prompts) or PLAIN), tokenizer)]


def tokenised(targets: TargetSet, tokenizer: TargetTokenizer | None) -> TargetSet:
    """Return the set with its texts as tokens, the end of text behind each; None: as it is."""
    if tokenizer is None:
        return targets
    texts = targets.texts()
    rows = [tokenizer.encode(text) for _, text in texts]
    made = make_tokens(TokenizerFacts.of(tokenizer), rows, [number for number, _ in texts])
    return replace(targets, tokens=made)


def _vocabulary(tokenizer: TargetTokenizer | None, prompts: Sequence[str], name: str) -> TargetSet:
    """Every token v as the pair (v, end of text), in the order of the ids."""
    if tokenizer is None or prompts:
        raise UsageError("the vocabulary is that of a tokenizer: give --tokenizer, and no --prompt")
    tokens = tokenizer.tokens()
    rows = [(i, tokenizer.end_id) for i in range(len(tokens))]
    made = make_tokens(TokenizerFacts.of(tokenizer), rows, range(len(tokens)))
    source = f"the vocabulary of {tokenizer.name}"
    return TargetSet(name, tuple((token,) for token in tokens), source, PLAIN, made)


def _unknown(what: str) -> str:
    if what == "vqa":
        return (
            "the answers of VQA v2 do not ship with Diptych: give the prepared dataset or a JSON list to "
            "'targets build', or trainval_label2ans.pkl to 'targets import'"
        )
    return (
        f"no target set '{what}'{nearest(what, (*KNOWN, *ALIASES))} and no file of that name "
        f"(known: {', '.join(KNOWN)})"
    )


def _read(path: Path) -> tuple[tuple[str, ...], ...]:
    if path.is_dir():
        return _of_dataset(path)
    if path.suffix == ".pkl":
        raise UsageError(f"{path} is a pickle: read it with `diptych targets import {path}`")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected names in UTF-8, one a line") from error
    if path.suffix == ".json":
        try:
            return _classes(json.loads(text), str(path))
        except ValueError as error:
            raise DataError(f"{path}: is no JSON ({error})") from error
    lines = text.splitlines()
    blank = [number + 1 for number, line in enumerate(lines) if not line.strip()]
    if blank or not lines:
        raise DataError(
            f"{path}: line {blank[0] if blank else 1} is blank, expected a name; a class without a name can "
            "stand in a JSON list"
        )
    return tuple(tuple(part.strip() for part in line.split("\t") if part.strip()) for line in lines)


def _classes(content: Any, where: str) -> tuple[tuple[str, ...], ...]:
    """Return a list of names, or of lists of names, as classes."""
    if not isinstance(content, list) or not content:
        raise DataError(f"{where}: expected a list of names, got {type(content).__name__}")
    made: list[tuple[str, ...]] = []
    for number, entry in enumerate(content):
        names = [entry] if isinstance(entry, str) else entry
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError(f"{where}: entry {number}: expected a name or a list of names")
        made.append(tuple(names))
    return tuple(made)


def _of_dataset(folder: Path) -> tuple[tuple[str, ...], ...]:
    path = folder / DATASET_INFO
    try:
        facts = json.loads(path.read_text(encoding="utf-8")).get("facts", {})
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a prepared dataset") from error
    for name in _FACTS:
        if name in facts:
            return _classes(facts[name], f"{path}, facts.{name}")
    raise DataError(f"{path}: its facts hold neither {' nor '.join(_FACTS)}; the dataset has no target set")


def import_pickle(path: Path, tokenizer: TargetTokenizer | None = None, *, name: str = "") -> TargetSet:
    """Return what a published pickle holds as a target set.

    Read are `{"data": [tokens, ...], "modality": "text"}` (a row or a list of rows for each class), lists of
    names (`trainval_label2ans.pkl`) and dictionaries from names to numbers (`trainval_ans2label.pkl`).

    Args:
        path: the pickle; nothing in it is run.
        tokenizer: the one that made the tokens: turns them back into names, and its end token must end every
            row; names become tokens with it.
        name: what the set is called; empty: after the file.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    content = load_plain(path)
    title = name or path.name.removesuffix(".pkl").removesuffix("_CLIP_with_endoftext")
    if isinstance(content, dict) and "data" in content:
        return _of_tokens(content["data"], str(path), tokenizer, TargetSet(title, (), path.name))
    if isinstance(content, dict):
        content = _by_number(content, str(path))
    if isinstance(content, list) and content and isinstance(content[0], dict):
        raise DataError(
            f"{path}: holds the targets of questions, not a list to choose from; "
            "the card vqa-v2 reads it (`diptych data show vqa-v2`)"
        )
    return tokenised(TargetSet(title, _classes(content, str(path)), path.name), tokenizer)


def _by_number(content: dict[Any, Any], where: str) -> list[Any]:
    numbers = list(content.values())
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if not whole or sorted(numbers) != list(range(len(numbers))):
        raise DataError(f"{where}: expected names with the numbers 0, 1, 2, ... without gaps")
    return sorted(content, key=content.__getitem__)


def _of_tokens(data: Any, where: str, tokenizer: TargetTokenizer | None, targets: TargetSet) -> TargetSet:
    if not isinstance(data, list) or not data:
        raise DataError(f"{where}: expected a list of tokens under 'data', got {type(data).__name__}")
    rows: list[list[int]] = []
    numbers: list[int] = []
    for number, entry in enumerate(data):
        found = entry if isinstance(entry, list) and not _is_row(entry) else [entry]
        if not found or not all(_is_row(row) for row in found):
            raise DataError(f"{where}: class {number}: expected rows of token ids of one dimension")
        rows += [[int(i) for i in row] for row in found]
        numbers += [number] * len(found)
    end_id = _common_end(rows, where, tokenizer)
    facts = (
        TokenizerFacts("unknown", "", 0, "", end_id) if tokenizer is None else TokenizerFacts.of(tokenizer)
    )
    names: list[list[str]] = [[] for _ in data]
    for number, row in zip(numbers, rows, strict=True):
        names[number] += [] if tokenizer is None else [tokenizer.decode(row)]
    classes = tuple(tuple(found) for found in names)
    return replace(targets, classes=classes, tokens=make_tokens(facts, rows, numbers))


def _is_row(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return len(value) > 0
    whole = isinstance(value, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
    return whole and len(value) > 0


def _common_end(rows: Sequence[Sequence[int]], where: str, tokenizer: TargetTokenizer | None) -> int:
    """Return the token that ends every row."""
    ends = {row[-1] for row in rows}
    low, high = min(min(row) for row in rows), max(max(row) for row in rows)
    if len(ends) != 1 or low < 0:
        raise DataError(f"{where}: expected rows that all end with the same token, such as {ENDS[0]}")
    end = int(ends.pop())
    if tokenizer is not None and (end != tokenizer.end_id or high >= tokenizer.size):
        raise DataError(
            f"{where}: its rows end with token {end} and go up to {high}; the tokenizer {tokenizer.name} has "
            f"{tokenizer.end} {tokenizer.end_id} and {tokenizer.size} tokens: it did not make them"
        )
    if high >= 2**31:
        raise DataError(f"{where}: {high} is no token id")
    return end
