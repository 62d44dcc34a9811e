"""The task `glue`: slots, losses by hand, figures and files of evaluations, tasks of datasets."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.blocks.collective import ALONE
from diptych.data.batch import Batch
from diptych.data.cards.emoji_glue import TASKS as EMOJI
from diptych.data.draws import Draws
from diptych.data.index import ShardDataset
from diptych.data.sample import Sample
from diptych.data.shards import ShardWriter
from diptych.data.text import Tokenizer
from diptych.errors import DataError, UsageError
from diptych.resolve import look_up
from diptych.systems import SYSTEMS
from diptych.systems.task import EvalData, Evaluation, StepContext
from diptych.systems.uniperceiver.glue import SIMILAR
from diptych.tasks.glue import GlueTask, GlueTaskFacts, facts_of_task
from diptych.tasks.glue_config import GlueConfig
from diptych.tasks.glue_results import figures, file_name, submission

WORDS = ["a cat sits no yes maybe", "it is this bad wonderful . , ?"] * 3
PAIR = ("a cat sits.", "this cat")


def task_of(task: str, **settings: object) -> GlueTask:
    torch.manual_seed(0)
    system = look_up(SYSTEMS, "uniperceiver", "system")
    model = system.build(system.toy_config())
    tokenizer = Tokenizer.train(WORDS, 80, "uniperceiver")
    config = GlueConfig.model_validate({"task": task, "limit": 24, **settings})
    return GlueTask.create(model, config, tokenizer, {})


def batch_of(examples: Sequence[tuple[str, ...]], told: Sequence[Any], scores: bool = False) -> Batch:
    numbers = torch.arange(len(examples))
    keys = [f"k{i}" for i in range(len(examples))]
    nothing: list[Any] = [None] * len(examples)
    extra = {
        "index": numbers.tolist(),
        "label": nothing if scores else list(told),
        "score": list(told) if scores else nothing,
    }
    return Batch(keys, numbers, numbers, captions=list(examples), extra=extra)


def context(batch: Batch) -> StepContext:
    return StepContext(0, 0.0, Draws(0, batch.positions), ALONE)


def test_the_slot_is_what_is_compared() -> None:
    task = task_of("mnli").eval()
    packed = task.pack(PAIR)
    assert packed.ids[packed.slot] == task.tokenizer.mask_id
    ids = torch.tensor([packed.ids])
    with torch.no_grad():
        states = task.model.read_text(ids, torch.ones_like(ids, dtype=torch.bool)).tokens
        words = task.targets.features(task.model)
        # One token more in front: the one that starts every sequence.
        expected = task.model.compare(states[:, 1 + packed.slot], words, "text_mlm")
        longer = ("a cat sits this cat yes.", "no")
        found = task.logits([PAIR, longer])
    assert found.shape == (2, 3)
    torch.testing.assert_close(found[:1], expected)
    assert task.about.classes == ("no", "maybe", "yes")


def test_the_loss_of_classes_by_hand() -> None:
    task = task_of("mrpc", weight=0.5).eval()
    batch = batch_of([PAIR, ("a cat", "it is"), PAIR], [1, 0, None])
    found = task.compute_loss(batch, context(batch))
    logs = task.logits(batch.captions or []).log_softmax(1).detach()
    each = [-0.9 * logs[i, label] - 0.1 * logs[i].mean() for i, label in enumerate((1, 0))]
    assert float(found.total.detach()) == pytest.approx(0.5 * float(sum(each)) / 2, rel=1e-5)
    right = [int(logs[i].argmax()) == label for i, label in enumerate((1, 0))]
    assert float(found.metrics["accuracy"]) == pytest.approx(sum(right) / 2)


def test_the_loss_of_scores_by_hand() -> None:
    task = task_of("sts-b").eval()
    batch = batch_of([PAIR, PAIR], [4.0, None], scores=True)
    found = task.compute_loss(batch, context(batch))
    logs = task.logits(batch.captions or []).log_softmax(1).detach()
    assert float(found.total.detach()) == pytest.approx(float(-0.2 * logs[0, 0] - 0.8 * logs[0, 1]), rel=1e-5)
    assert float(found.metrics["error"]) == pytest.approx(abs(float(logs[0, 1].exp()) - 0.8), abs=1e-5)
    assert task.about.classes == SIMILAR


def test_labels_of_another_task_are_refused() -> None:
    task = task_of("mrpc")
    batch = batch_of([PAIR], [2])
    with pytest.raises(DataError, match="says 2, which is none of the 2 classes of mrpc"):
        task.compute_loss(batch, context(batch))


def evaluated(task: GlueTask, batch: Batch, split: str = "val") -> Evaluation:
    def each() -> Iterator[Batch]:
        yield batch

    return task.evaluate(EvalData("glue", split, len(batch), each), lambda *_: None)


@pytest.mark.parametrize(
    ("split", "name"), [("mnli_val", "MNLI-m.tsv"), ("mnli_test_mismatched", "MNLI-mm.tsv")]
)
def test_an_evaluation_of_both_sets_of_mnli(split: str, name: str) -> None:
    task = task_of("mnli")
    found = evaluated(task, batch_of([PAIR, ("a cat", "it is"), PAIR], [2, 0, 1]), split)
    said = [row["prediction"] for row in found.predictions]
    assert found.metrics["accuracy"] == sum(a == b for a, b in zip(said, [2, 0, 1], strict=True)) / 3
    assert found.metrics["headline"] == "accuracy"
    words = ["contradiction", "neutral", "entailment"]
    expected = "".join(f"{i}\t{words[label]}\n" for i, label in enumerate(said))
    assert found.texts == {name: f"index\tprediction\n{expected}"}
    assert all(sum(row["probabilities"]) == pytest.approx(1) for row in found.predictions)
    # The diagnostic set is answered by the same model.
    asked = task_of("ax")
    assert asked.about.classes == task.about.classes


def test_a_test_set_has_no_figures() -> None:
    found = evaluated(task_of("sts-b"), batch_of([PAIR, PAIR], [None, None], scores=True), "sts-b_test")
    assert found.metrics["scored"] == 0
    scores = [row["prediction"] for row in found.predictions]
    lines = found.texts["STS-B.tsv"].splitlines()
    assert lines == ["index\tprediction", *(f"{i}\t{score:.3f}" for i, score in enumerate(scores))]


def test_files_of_the_site() -> None:
    qnli = GlueTaskFacts("qnli", "qnli", ("no", "yes"))
    rows = [{"index": 3, "prediction": 1}, {"index": 0, "prediction": 0}, {"index": 1, "prediction": 1}]
    assert submission(rows, qnli, "qnli_test") == (
        "QNLI.tsv",
        # Row 2 was left out of the dataset.
        "index\tprediction\n0\tnot_entailment\n1\tentailment\n2\tentailment\n3\tentailment\n",
    )
    cola = GlueTaskFacts("cola", "cola", ("incorrect", "correct"))
    assert submission(rows[1:], cola, "x") == ("CoLA.tsv", "index\tprediction\n0\t0\n1\t1\n")
    names = {task: file_name(task, "test") for task in ("ax", "sst-2", "wnli", "qqp", "mrpc", "rte")}
    assert names == {
        "ax": "AX.tsv",
        "sst-2": "SST-2.tsv",
        "wnli": "WNLI.tsv",
        "qqp": "QQP.tsv",
        "mrpc": "MRPC.tsv",
        "rte": "RTE.tsv",
    }


def test_figures_are_those_of_the_task() -> None:
    rows = [{"prediction": p, "right": r} for p, r in ((1, 1), (1, 0), (0, 1), (0, 0), (1, None))]
    found = figures(rows, GlueTaskFacts("emoji-same", "mrpc", ("no", "yes")))
    assert (found["scored"], found["headline"], found["f1"], found["accuracy"]) == (4, "f1", 0.5, 0.5)
    assert found["chance"]["most_frequent"]["accuracy"] == 0.5
    assert figures(rows, facts_of_task("CoLA", {}))["matthews"] == 0.0


def test_datasets_tell_of_tasks() -> None:
    group = facts_of_task("emoji-group", EMOJI)
    assert (group.like, len(group.classes), group.scores) == ("sst-2", 8, False)
    assert facts_of_task("emoji-similarity", EMOJI) == GlueTaskFacts("emoji-similarity", "sts-b", SIMILAR)
    assert facts_of_task("SST2", {}).classes == ("bad", "wonderful")
    with pytest.raises(UsageError, match="no task 'mrcp'"):
        facts_of_task("mrcp", {})


def test_the_task_is_that_of_the_data(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "two") as writer:
        for i, task in enumerate(["rte", "rte", "cola"]):
            writer.write(Sample(f"s{i}", {}, ("a",), meta={"task": task, "label": 0}))
    dataset = ShardDataset.open(tmp_path)
    config = GlueConfig()

    def found(where: str | None) -> dict[str, Any]:
        return GlueTask.find_assets(config, [("", dataset.select(None, where))], {})

    assert found("task = 'rte'")["glue"]["task"] == "rte"
    with pytest.raises(UsageError, match=r"samples of 2 tasks \(cola, rte\)"):
        found(None)
    with pytest.raises(UsageError, match=r"set task\.task"):
        task_of("auto")
