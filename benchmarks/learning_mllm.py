"""What a tiny multimodal language model learns to answer about emoji scenes, with and without the picture.

    python benchmarks/learning_mllm.py --seeds 0 1 2 --out runs/learning-mllm

Tiny EVE is pre-trained, its features are put into words of SmolLM2-135M-Instruct, and the two are tuned to
answer questions. The control is the same model asked the same questions without the picture. Every run has a
number of steps and one thread. Finished runs are read, interrupted ones go on; with `--report` nothing is
trained, and the table shows what is there. Figures of `docs/results.md` come from here.
"""

from pathlib import Path
from typing import Any

from _learning import (
    Run,
    arguments,
    chosen_runs,
    command,
    found,
    is_finished,
    perform,
    prepared,
    result,
    show,
    write,
)

SCENES = {"size": "10000", "resolution": "48", "style": "noto", "kinds": "12"}
"""Options of the card `emoji-scenes`."""
EYE = Run("start", "eye", "tiny EVE", "eve/pretrain/scenes_tiny", 1200, scored=False)
WORDS = Run("start", "words", "words", "mllm/pretrain/words_scenes_tiny", 800, (), None, scored=False)
TUNED = Run("scenes", "tuned", "sees the picture", "mllm/finetune/scenes_tiny", 160, (), WORDS.name)
RUNS = [EYE, WORDS, TUNED]
BLIND = "task.blind=image"
SEEN_FILES, BLIND_FILES = "eval/instruct_*/metrics.json", "eval/instruct-blind_*/metrics.json"


def main() -> None:
    """Run, print the table, and write the figures."""
    parser = arguments(__doc__, ["scenes"], ["scenes"], "runs/learning-mllm", RUNS)
    options = parser.parse_args()
    chosen = [EYE, *(run for run in chosen_runs(RUNS, options) if run is not EYE)]
    if not options.report:
        data = prepared(options.out, "emoji-scenes", SCENES)
        for seed in options.seeds:
            train(options.out / f"seed{seed}", chosen, data, seed, options.settings)
    labels = {"seen": "sees the picture", "blind": "the same model without the picture"}
    files = {"seen": SEEN_FILES, "blind": BLIND_FILES}
    rows = []
    for name, label in labels.items():
        row = result(TUNED, options.out, options.seeds, figures, "share of questions", files=files[name])
        rows += [{**row, "label": label, "name": f"scenes {name} accuracy"}] if row else []
    show(rows)
    write(rows, options.json)


def train(folder: Path, chosen: list[Run], data: Path, seed: int, settings: list[str]) -> None:
    """Train the runs of a seed, and evaluate the last one with and without pictures."""
    eye = [f"system.vision.path={folder / EYE.name}"]
    for run in chosen:
        perform(run, folder, data, seed, settings if run is EYE else [*eye, *settings])
    if TUNED in chosen and is_finished(folder / TUNED.name) and not found(folder / TUNED.name, BLIND_FILES):
        command("eval", str(folder / TUNED.name), "evaluate.threads=1", "evaluate.device=cpu", BLIND)


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the accuracy of all questions and of each kind."""
    kinds = {kind: score["accuracy"] for kind, score in metrics["kinds"].items()}
    return {"accuracy": metrics["accuracy"], **kinds}


if __name__ == "__main__":
    main()
