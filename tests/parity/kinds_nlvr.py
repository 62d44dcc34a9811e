"""Kind `nlvr`: logits, losses and gradients of EVE's judgement of statements, with and without attention."""

import torch
from tests.parity.eve_common import config_of, task_gradients
from tests.parity.runner import Case, Comparison, loss, output

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.systems.eve.convert import from_published
from diptych.systems.eve.model import EveModel
from diptych.systems.protocol import ImageSpec
from diptych.systems.task import StepContext
from diptych.tasks.nlvr import NlvrTask
from diptych.tasks.nlvr_config import NlvrConfig


def build(case: Case) -> NlvrTask:
    """Return the published task with the case's weights, loaded through `systems/eve/convert.py`."""
    run = case.meta["config"]
    model = EveModel(config_of(case.meta))
    # The recorded pictures are normalised already.
    model.image_spec = ImageSpec(model.image_spec.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    config = NlvrConfig(
        interaction="biattn" if run.get("biattn") else "plain",
        gate_weight=run.get("gateloss_weight", 0.001),
        dropout=0.0,  # gradients are recorded in training mode without any dropout
    )
    task = NlvrTask(model, config, None)
    task.load_state_dict(from_published(case.under("w.")).state)
    return task.eval()


def check(case: Case) -> list[Comparison]:
    """Compare logits in eval mode, losses and gradients in training mode."""
    inputs, expected = case.under("in."), case.under("out.")
    rows = torch.arange(len(inputs["targets"]))
    batch = Batch(
        keys=[str(i) for i in rows.tolist()],
        positions=rows,
        match_ids=rows,
        images=torch.stack([inputs["image0"], inputs["image1"]], 1),
        text_ids=inputs["text_ids"],
        text_mask=inputs["text_atts"].bool(),
        extra={"statements": [{"label": bool(label)} for label in inputs["targets"].tolist()]},
    )
    task = build(case)
    with torch.no_grad():
        done = [output("logits", task.read(batch)[0], expected["logits"])]
    task.train()
    result = task(batch, StepContext(0, 0.0, Draws(0, batch.positions)))
    result.total.backward()
    done.append(loss("train_loss", result.parts["nlvr"], expected["train_loss"]))
    total = expected["train_loss"]
    if "train_gate_loss" in expected:
        done.append(loss("train_gate_loss", result.parts["routing"], expected["train_gate_loss"]))
        total = total + expected["train_gate_loss"]
    done.append(loss("total", result.total, total))
    return done + task_gradients(task, case)
