"""Kinds `vqa` and `vqa_targets`: losses, gradients and targets of EVE's question answering."""

from typing import Any

import torch
from tests.parity.eve_common import config_of, task_gradients
from tests.parity.runner import Case, Comparison, exact, loss, output
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.data.vqa_answers import soft_score, soft_scores
from diptych.metrics.vqa import entry_scores
from diptych.systems.eve.convert import from_published
from diptych.systems.eve.model import EveModel
from diptych.systems.protocol import ImageSpec
from diptych.systems.task import StepContext
from diptych.tasks.vqa import VqaTask
from diptych.tasks.vqa_config import VqaConfig


class RecordedTargets(VqaTask):
    """The task with the targets that the case recorded instead of those of answers."""

    recorded: Tensor

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.recorded, torch.ones(len(batch), dtype=torch.bool)


def build(case: Case) -> RecordedTargets:
    """Return the published task with the case's weights, loaded through `systems/eve/convert.py`."""
    model = EveModel(config_of(case.meta))
    # The recorded pictures are normalised already.
    model.image_spec = ImageSpec(model.image_spec.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    config = VqaConfig(gate_weight=case.meta["config"].get("gateloss_weight", 0.001))
    imported = from_published(case.under("w."))
    names = [f"answer {i}" for i in range(len(imported.state["vqa.classifier.bias"]))]
    task = RecordedTargets(model, config, None, names)
    task.load_state_dict(imported.state)
    task.recorded = case.tensors["in.targets"].float()
    return task.eval()


def batch_of(case: Case) -> Batch:
    """Return the recorded batch."""
    inputs = case.under("in.")
    rows = torch.arange(len(inputs["text_ids"]))
    return Batch(
        keys=[str(i) for i in rows.tolist()],
        positions=rows,
        match_ids=rows,
        images=inputs["image"],
        text_ids=inputs["text_ids"],
        text_mask=inputs["text_atts"].bool(),
    )


def check(case: Case) -> list[Comparison]:
    """Compare logits and answers in eval mode, losses and gradients in training mode."""
    task, batch, expected = build(case), batch_of(case), case.under("out.")
    with torch.no_grad():
        logits = task.logits(batch)
    done = [output("logits", logits, expected["logits"])]
    done.append(exact("pred", logits.argmax(1), expected["pred"]))
    task.train()
    result = task(batch, StepContext(0, 0.0, Draws(0, batch.positions)))
    result.total.backward()
    done.append(loss("train_loss", result.total, expected["train_loss"]))
    if "train_gate_loss" in expected:
        done.append(loss("train_gate_loss", result.metrics["routing"], expected["train_gate_loss"]))
    return done + task_gradients(task, case)


def check_targets(case: Case) -> list[Comparison]:
    """Kind `vqa_targets`: the score of each number of people, and of the answers to questions."""
    counts: dict[str, float] = case.meta.get("occurrence_to_score", {})
    done = [loss(f"{n} people", soft_score(int(n)), score) for n, score in counts.items()]
    examples: list[dict[str, Any]] = [case.meta[n] for n in ("example",) if n in case.meta]
    for number, example in enumerate(examples + list(case.meta.get("examples", []))):
        for found in (soft_scores(example["answers"]), entry_scores({"answers": example["answers"]})):
            done.append(exact(f"example {number}: answers", sorted(found), sorted(example["scores"])))
            done += [loss(f"example {number}: {n}", found[n], s) for n, s in example["scores"].items()]
    return done
