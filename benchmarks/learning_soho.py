"""What tiny SOHO learns on emoji scenes, beside tiny EVE, and what its visual dictionary gives.

    python benchmarks/learning_soho.py --seeds 0 1 2 --out runs/learning-soho --eve runs/learning-eve
    python benchmarks/learning_soho.py --parts dictionary --seeds 0 --out runs/learning-soho

`soho`: pre-training, questions and statements about pairs, in as many steps as `learning_eve.py` gives EVE
(the table has CPU seconds), three times as many questions, and retrieval by matching. `--eve` is the folder
of that benchmark's runs, whose figures are shown beside. `dictionary`: shorter pre-training with
dictionaries of several sizes and without one, then questions; without one there are hidden words and
matching alone.

Every run has a number of steps and one thread. Finished runs are read, interrupted ones go on; with
`--report` nothing is trained. Figures of `docs/results.md` come from here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import learning_eve as eve
from _learning import Run, arguments, chosen_runs, perform, result, show, vocabulary, write
from learning_eve import scenes

PRETRAIN = "soho/pretrain/scenes_tiny"
VQA = "soho/finetune/vqa_scenes_tiny"
NLVR = "soho/finetune/nlvr_scenes_tiny"
RETRIEVAL = "soho/finetune/retrieval_scenes_tiny"
LONG_STEPS, RETRIEVAL_STEPS = 3 * eve.VQA_STEPS, 300
ASKED = ("task.text_mask_ratio=0.4", "task.visual_mask_ratio=1", "task.wrong_text=0")
"""What pre-trained models are asked: 40 % of words, with a visual word of each picture hidden (EVE: about one
patch of nine)."""
SIZES = (16, 64, 256)
WITHOUT = ("system.neck=plain", "task.mvm_weight=0")


def varied(name: str, label: str, settings: Sequence[str]) -> list[Run]:
    """Return short pre-training with some settings, and questions."""
    start = f"pretrain-{name}"
    return [
        Run("dictionary", start, label, PRETRAIN, eve.SHORT_STEPS, tuple(settings)),
        Run("dictionary", f"vqa-{name}", label, VQA, eve.VQA_STEPS, (), start),
    ]


RUNS = [
    Run("soho", "pretrain", "SOHO", PRETRAIN, eve.PRETRAIN_STEPS),
    Run("soho", "vqa-none", "SOHO", VQA, eve.VQA_STEPS, (), "pretrain"),
    Run("soho", "nlvr-none", "SOHO", NLVR, eve.NLVR_STEPS, (), "vqa-none"),
    Run("soho", "vqa-long", "SOHO, three times the questions", VQA, LONG_STEPS, (), "pretrain"),
    Run("soho", "retrieval", "SOHO, matching alone", RETRIEVAL, RETRIEVAL_STEPS, (), "pretrain"),
    *(
        run
        for size in SIZES
        for run in varied(f"{size}", f"{size} visual words", (f"system.dictionary.codes={size}",))
    ),
    *varied("without", "no dictionary", WITHOUT),
    *varied("unasked", "64 visual words, none of them hidden", ("task.mvm_weight=0",)),
]
BESIDE = {"pretrain": "EVE", "vqa-none": "EVE", "nlvr-none": "EVE"}
"""Runs of `learning_eve.py` that are shown beside."""
PARTS = ["soho", "dictionary"]


def main() -> None:
    """Run, print the table, and write the figures."""
    parser = arguments(__doc__, PARTS, PARTS, "runs/learning-soho", RUNS)
    parser.add_argument("--eve", type=Path, help="folder of the runs of learning_eve.py")
    options = parser.parse_args()
    chosen = chosen_runs(RUNS, options)
    if not options.report:
        data = scenes(options.out)
        settings = [f"data.text.tokenizer={vocabulary(options.out, data)}", *options.settings]
        for seed in options.seeds:
            for run in chosen:
                asked = ASKED if run.recipe == PRETRAIN else ()
                perform(run, options.out / f"seed{seed}", data, seed, settings, asked)
    rows = [row for run in chosen if (row := result(run, options.out, options.seeds, figures))]
    if options.eve:
        rows += [
            row
            for run in eve.RUNS
            if run.name in BESIDE and (row := result(run, options.eve, options.seeds, figures, prefix="eve "))
        ]
    show(rows)
    write(rows, options.json)


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """Return accuracy of all and of each kind; of pre-training, that of hidden words and what else it has.

    Of retrieval `accuracy` is R@10 of pictures for texts.
    """
    if "scores" in metrics:
        recalls = {
            f"{short} R@{k}": metrics["scores"]["matching"][direction][f"R@{k}"]
            for direction, short in (("text_to_image", "t2i"), ("image_to_text", "i2t"))
            for k in (1, 5, 10)
        }
        return {"accuracy": recalls["t2i R@10"], **recalls}
    if "kinds" in metrics:
        kinds = {kind: score["accuracy"] for kind, score in metrics["kinds"].items()}
        return {"accuracy": metrics["accuracy"], **kinds}
    names = {
        "accuracy": "masked_token_accuracy",
        "nats": "masked_token_loss",
        "visual": "masked_visual_accuracy",
        "words": "visual_words_perplexity",
    }
    return {name: metrics[key] for name, key in names.items() if key in metrics}


if __name__ == "__main__":
    main()
