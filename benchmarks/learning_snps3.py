"""What tiny SNP-S3 learns on emoji clips: retrieval, questions, choices; what its parts give; controls.

    python benchmarks/learning_snps3.py --seeds 0 1 2 --out runs/learning-snps3 [--parts tasks parts controls]

`tasks`: features of middle frames and captions are compared (what all else starts from), then pre-training,
then retrieval on two levels, choices among five sentences, and questions. `parts`: the same with significant
words hidden (MSSM) or any words, and significant words compared with clips (LVWM) or not. `controls`:
pre-training and tasks with the middle frame of each clip alone; and questions and choices of models that see
no clip in that stage. Questions and choices that need the order of frames are shown apart.

Every run has a number of steps and one thread. Finished runs are read, interrupted ones go on; with
`--report` nothing is trained. Figures of `docs/results.md` come from here.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from _learning import Run, arguments, chosen_runs, command, perform, prepared, result, show, vocabulary, write

CLIPS = {"size": "3000", "resolution": "48", "style": "noto", "kinds": "12", "objects": "2"}
"""Options of the card `emoji-clips`."""
START = "snps3/pretrain/clips_start_tiny"
PRETRAIN = "snps3/pretrain/clips_tiny"
RETRIEVAL = "snps3/finetune/retrieval_clips_tiny"
QA = "snps3/finetune/qa_clips_tiny"
CHOICE = "snps3/finetune/choice_clips_tiny"
STEPS = {START: 600, PRETRAIN: 150, RETRIEVAL: 120, QA: 1000, CHOICE: 80}
"""With `--scale 1`."""
SHORT = {PRETRAIN: "pretrain", RETRIEVAL: "retrieval", QA: "qa", CHOICE: "choice"}
UNITS = {RETRIEVAL: "share of texts", QA: "share of questions", CHOICE: "share of choices"}
ASKED = ("task.text_mask_ratio=0.3", "task.masking=random")
"""What pre-trained models are asked, whatever they learned from: any words, 30 % of them hidden."""
NO_MSSM, NO_LVWM = "task.masking=random", "task.lvwm=off"
ONE_FRAME = ("data.video.frames=1", "system.frames=1")
"""The middle frame: it tells nothing of the order of events."""
FIRST = Run("tasks", "start", "features alone, middle frames", START, STEPS[START], scored=False)


def chain(
    part: str, name: str, label: str, pretraining: Sequence[str] = (), all_runs: Sequence[str] = ()
) -> list[Run]:
    """Return pre-training and the three tasks, choices behind retrieval; `all_runs`: settings of all four."""

    def run(recipe: str, start: str, settings: Sequence[str] = ()) -> Run:
        before = f"{SHORT[start]}-{name}" if start in SHORT else start
        own = f"{SHORT[recipe]}-{name}"
        return Run(part, own, label, recipe, STEPS[recipe], (*settings, *all_runs), before)

    return [
        run(PRETRAIN, FIRST.name, pretraining),
        run(RETRIEVAL, PRETRAIN),
        run(CHOICE, RETRIEVAL),
        run(QA, PRETRAIN),
    ]


def blind(recipe: str, start: str) -> Run:
    """Return a control that never sees a clip."""
    own = f"{SHORT[recipe]}-blind"
    return Run("controls", own, "text only", recipe, STEPS[recipe], ("task.blind=image",), start)


RUNS = [
    FIRST,
    *chain("tasks", "all", "MSSM and LVWM"),
    *chain("parts", "plain", "neither", [NO_MSSM, NO_LVWM]),
    *chain("parts", "mlm", "LVWM alone: any words hidden", [NO_MSSM]),
    *chain("parts", "unmatched", "MSSM alone: words not compared with clips", [NO_LVWM]),
    *chain("controls", "frame", "one frame", (), ONE_FRAME),
    blind(QA, "pretrain-all"),
    blind(CHOICE, "retrieval-all"),
]
PARTS = ["tasks", "parts", "controls"]


def main() -> None:
    """Run, print the table, and write the figures."""
    parser = arguments(__doc__, PARTS, PARTS, "runs/learning-snps3", RUNS)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the steps of all runs")
    options = parser.parse_args()
    factor = options.scale
    chosen = [replace(run, steps=max(1, round(run.steps * factor))) for run in chosen_runs(RUNS, options)]
    if not options.report:
        data = prepared(options.out, "emoji-clips", CLIPS)
        words = f"task.words={significant(options.out, data)}"
        settings = [f"data.text.tokenizer={vocabulary(options.out, data)}", *options.settings]
        for seed in options.seeds:
            for run in chosen:
                pretraining = run.recipe == PRETRAIN
                own = [words, *settings] if pretraining else settings
                perform(run, options.out / f"seed{seed}", data, seed, own, ASKED if pretraining else ())
    rows = [
        row
        for run in chosen
        if run.scored
        and (row := result(run, options.out, options.seeds, figures, UNITS.get(run.recipe, "share of words")))
    ]
    show(rows)
    write(rows, options.json)


def significant(out: Path, data: Path) -> Path:
    """Count the verbs, nouns and adjectives of the training captions unless that is done."""
    counts = out / "words" / "counts.json"
    if not counts.exists():
        command("words", "mine", f"{data}:train", "--out", str(counts.parent), "--tagger", "emoji")
    return counts


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """Return accuracies of all, of each kind and by order; recalls; of pre-training, hidden words and pairs.

    The first one is `accuracy`: of retrieval R@1 of clips for texts on the second level.
    """
    if "scores" in metrics:
        levels = {
            f"{level} {short} {figure}": scores[direction][figure]
            for level, scores in metrics["scores"].items()
            for direction, short in (("text_to_image", "t2v"), ("image_to_text", "v2t"))
            for figure in ("R@1", "R@5", "R@10", "median_rank")
        }
        return {"accuracy": metrics["scores"][metrics["headline"]]["text_to_image"]["R@1"], **levels}
    if "kinds" in metrics:
        orders = {name: metrics[name]["accuracy"] for name in ("ordered", "unordered")}
        kinds = {kind: score["accuracy"] for kind, score in metrics["kinds"].items()}
        return {"accuracy": metrics["accuracy"], **orders, **kinds}
    names = {"accuracy": "masked_token_accuracy", "nats": "masked_token_loss", "pairs": "matching_accuracy"}
    return {name: metrics[key] for name, key in names.items()}


if __name__ == "__main__":
    main()
