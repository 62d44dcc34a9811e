"""What tiny EVE learns on emoji scenes: questions and pairs of pictures, controls, ablations, several seeds.

    python benchmarks/learning_eve.py --seeds 0 1 2 --out runs/learning-eve [--parts vqa nlvr ablations]

Every run has a number of steps and one thread, so that it does not matter what else the machine does.
Finished runs are read, interrupted ones go on; with `--report` nothing is trained, and the table shows what
is there. Figures of `docs/results.md` come from here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _learning import Run, arguments, chosen_runs, perform, prepared, result, show, vocabulary, write

SCENES = {"size": "10000", "resolution": "48", "style": "noto", "kinds": "12"}
"""Options of the card `emoji-scenes`."""

PRETRAIN = "eve/pretrain/scenes_tiny"
VQA = "eve/finetune/vqa_scenes_tiny"
NLVR = "eve/finetune/nlvr_scenes_tiny"
PRETRAIN_STEPS, VQA_STEPS, NLVR_STEPS = 1200, 800, 400
SHORT_STEPS = 600
"""Steps of pre-training where its details are compared."""
CONTRAST_STEPS = 526
"""Contrast and matching in the CPU seconds of `PRETRAIN_STEPS`: such a step takes 2.28 times as long."""
PASSES_STEPS = 330
"""Two passes in the CPU seconds of `SHORT_STEPS` with one: such a step takes 1.8 times as long."""
FIRST = Run("start", "pretrain", "pre-training", PRETRAIN, PRETRAIN_STEPS)
ASKED = ("task.text_mask_ratio=0.4", "task.image_mask_ratio=0.12", "task.passes=1")
"""What pre-trained models are asked, whatever they learned from: 40 % of words, one patch of nine hidden."""


def controlled(part: str, recipe: str, steps: int, start: str) -> list[Run]:
    """Return a task's run and its two controls, equal in everything else."""
    seen = {"none": "everything", "image": "text only", "text": "picture only"}
    return [
        Run(part, f"{part}-{blind}", label, recipe, steps, (f"task.blind={blind}",), start)
        for blind, label in seen.items()
    ]


def varied(
    part: str,
    name: str,
    label: str,
    system: Sequence[str] = (),
    objectives: Sequence[str] = (),
    steps: int = PRETRAIN_STEPS,
) -> list[Run]:
    """Return a variant: pre-training and questions, both with its settings of the system."""
    start = f"pretrain-{name}"
    return [
        Run(part, start, label, PRETRAIN, steps, (*system, *objectives), scored=name != "contrast"),
        Run(part, f"vqa-{name}", label, VQA, VQA_STEPS, tuple(system), start),
    ]


NO_EXPERTS = "system.moe_layers=[]"
CONTRAST = ("task.mlm_weight=0", "task.mim_weight=0", "task.masked_batch=1", "task.itc_weight=1")
SYSTEMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "shared": ("no experts, one network for both", (NO_EXPERTS, "system.lower_ffn=shared")),
    "separate": ("no experts, a network for each modality", (NO_EXPERTS,)),
    "unrouted": ("experts that are not told the modality", ("system.router.modality=false",)),
}
DETAILS = {
    "short": ("as in the recipe", ()),
    "image50": ("half of the patches hidden", ("task.image_mask_ratio=0.5",)),
    "image75": ("three quarters of the patches hidden", ("task.image_mask_ratio=0.75",)),
    "text15": ("15 % of the words hidden", ("task.text_mask_ratio=0.15",)),
    "text60": ("60 % of the words hidden", ("task.text_mask_ratio=0.6",)),
    "drop": (
        "hidden patches dropped, decoder of one layer",
        ("task.masked_tokens=drop", "task.decoder_layers=1"),
    ),
    "deep": ("image decoder of two layers", ("task.decoder_layers=2",)),
    "pixels": ("plain pixels as targets", ("task.normalise_targets=false",)),
    "passes": ("words and patches hidden in a pass each", ("task.passes=2",)),
    "words": ("words only, no patch hidden", ("task.image_mask_ratio=0", "task.mim_weight=0")),
}
RUNS = [
    FIRST,
    *controlled("vqa", VQA, VQA_STEPS, FIRST.name),
    *controlled("nlvr", NLVR, NLVR_STEPS, "vqa-none"),
    *(run for name, (label, system) in SYSTEMS.items() for run in varied("ablations", name, label, system)),
    *varied(
        "ablations",
        "contrast",
        "pre-training: contrast and matching only",
        (),
        (*CONTRAST, "task.itm_weight=1"),
        CONTRAST_STEPS,
    ),
    Run("ablations", "vqa-scratch", "no pre-training", VQA, VQA_STEPS, ("init_from.path=",)),
    *(
        Run("details", f"pretrain-{name}", label, PRETRAIN, SHORT_STEPS, settings)
        for name, (label, settings) in DETAILS.items()
    ),
    Run(
        "details", "pretrain-passes-short", "the same, equal cost", PRETRAIN, PASSES_STEPS, ("task.passes=2",)
    ),
    Run("ablations", "vqa-short", "half of the pre-training", VQA, VQA_STEPS, (), "pretrain-short"),
]


PARTS = ["vqa", "nlvr", "ablations", "details"]


def main() -> None:
    """Run, print the table, and write the figures."""
    options = arguments(__doc__, PARTS, ["vqa", "nlvr"], "runs/learning-eve", RUNS).parse_args()
    chosen = chosen_runs(RUNS, options)
    if not options.report:
        data = scenes(options.out)
        settings = [f"data.text.tokenizer={vocabulary(options.out, data)}", *options.settings]
        for seed in options.seeds:
            for run in chosen:
                asked = ASKED if run.recipe == PRETRAIN else ()
                perform(run, options.out / f"seed{seed}", data, seed, settings, asked)
    units = {VQA: "share of questions", NLVR: "share of statements"}
    rows = [
        row
        for run in chosen
        if run.scored
        and (row := result(run, options.out, options.seeds, figures, units.get(run.recipe, "share of words")))
    ]
    show(rows)
    write(rows, options.json)


def scenes(out: Path) -> Path:
    """Prepare the scenes unless they are there, and return their folder."""
    return prepared(out, "emoji-scenes", SCENES)


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """Return accuracy of all and of each kind; of pre-training, that of hidden words and its losses."""
    if "kinds" in metrics:
        kinds = {kind: score["accuracy"] for kind, score in metrics["kinds"].items()}
        return {"accuracy": metrics["accuracy"], **kinds}
    names = {
        "accuracy": "masked_token_accuracy",
        "nats": "masked_token_loss",
        "pixels": "reconstruction_error",
    }
    return {name: metrics[key] for name, key in names.items()}


if __name__ == "__main__":
    main()
