"""Kinds `retrieval` and `retrieval_metrics`: losses, gradients, scores and figures of EVE's retrieval.

The case runs through `RetrievalTask` and its evaluation with the published options. Only the drawn negatives
are injected, since the original drew them with another generator.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tests.parity.eve_common import config_of
from tests.parity.runner import Case, Comparison, exact, gradient, loss, output
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.draws import Draws
from diptych.metrics.retrieval import filled_matrix, itm_eval
from diptych.objectives.contrastive import contrastive_logits, itc_loss
from diptych.objectives.matching import Negatives, Pairs, matching_passes
from diptych.systems.eve.convert import from_published, to_published
from diptych.systems.eve.model import EveModel
from diptych.systems.protocol import ImageSpec
from diptych.systems.task import EvalData, StepContext
from diptych.tasks.retrieval import RetrievalTask
from diptych.tasks.retrieval_batch import BatchTexts
from diptych.tasks.retrieval_config import RetrievalConfig
from diptych.tasks.retrieval_encoding import (
    Pictures,
    Texts,
    collect_texts,
    encode_pictures,
    encode_texts,
    similarities,
)
from diptych.tasks.retrieval_ranking import rerank

IMAGE_BATCH, TEXT_BATCH = 2, 5
"""How the original batched its features when the score matrices were recorded."""


class RecordedTokens:
    """Stands in for a tokenizer: the text "3" is the recorded row 3."""

    def __init__(self, ids: Tensor, mask: Tensor) -> None:
        self.ids, self.mask = ids, mask.bool()

    def encode(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        rows = torch.tensor([int(text) for text in texts])
        return self.ids[rows], self.mask[rows]


class InjectedNegatives(RetrievalTask):
    """The task with negatives that the case recorded instead of drawn ones."""

    negatives: Negatives

    def draw_passes(
        self, features: tuple[Tensor, Tensor], temperature: Tensor, texts: BatchTexts, context: StepContext
    ) -> list[Pairs]:
        rows = torch.arange(len(texts.of_sample))
        return matching_passes(rows, texts.of_sample, self.negatives)


def build(case: Case) -> InjectedNegatives:
    """Return the published task with the case's weights, loaded through `systems/eve/convert.py`."""
    model = EveModel(config_of(case.meta))
    # The recorded pictures are normalised already.
    model.image_spec = ImageSpec(model.image_spec.size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    run = case.meta["config"]
    config = RetrievalConfig(
        gate_weight=run["gateloss_weight"],
        k_test=run["k_test"],
        text_batch=TEXT_BATCH,
        eval_final_norm=False,
        rerank_batching="queries",
        eval_texts="each",
    )
    tokens = RecordedTokens(case.tensors["in.eval_text_ids"], case.tensors["in.eval_text_atts"])
    task = InjectedNegatives(model, config, tokens)
    task.load_state_dict(from_published(case.under("w.")).state)
    return task.eval()


def check(case: Case) -> list[Comparison]:
    """Compare features, losses, gradients and score matrices."""
    task = build(case)
    with torch.no_grad():
        done = check_features(task, case) + check_scores(task, case)
    return done + check_training(task, case)


def check_features(task: RetrievalTask, case: Case) -> list[Comparison]:
    """Compare single-modality and pair outputs of one batch in eval mode."""
    inputs, expected = case.under("in."), case.under("out.")
    mask = inputs["text_atts"].bool()
    image, text = task.model.encode_visual(inputs["image"]), task.model.encode_text(inputs["text_ids"], mask)
    fused = task.model.fuse(inputs["image"], inputs["text_ids"], mask)
    train_image, train_text = task.itc.project_visual(image.pooled), task.itc.project_text(text.pooled)
    temperature = task.itc.current_temperature()
    itc = itc_loss(train_image, train_text, temperature, inputs["idx"])
    ours = {
        "itc_hidden_vision": image.tokens,
        "itc_hidden_text": text.tokens,
        "eval_image_feat": task.itc.project_visual(task.evaluation_token(image)),
        "eval_text_feat": task.itc.project_text(task.evaluation_token(text)),
        "train_image_feat": train_image,
        "train_text_feat": train_text,
        "itc_logits": contrastive_logits(train_image, train_text, temperature),
        "itm_token": fused.pooled,
        "itm_logits": task.itm(fused.pooled),
    }
    done = [output(name, tensor, expected[name]) for name, tensor in ours.items()]
    return [*done, loss("itc_loss_idx", itc, expected["itc_loss_idx"])]


def check_training(task: InjectedNegatives, case: Case) -> list[Comparison]:
    """Compare the three losses of a training step with the recorded negatives, and its gradients."""
    inputs, expected = case.under("in."), case.under("out.")
    valid = torch.ones_like(inputs["idx"], dtype=torch.bool)
    task.negatives = Negatives(inputs["neg_image_idx"], inputs["neg_text_idx"], valid, valid)
    batch = Batch(
        keys=[str(i) for i in range(len(valid))],
        positions=torch.arange(len(valid)),
        match_ids=inputs["idx"],
        images=inputs["image"],
        text_ids=inputs["text_ids"],
        text_mask=inputs["text_atts"].bool(),
    )
    task.train()
    result = task(batch, StepContext(0, 0.0, Draws(0, batch.positions)))
    result.total.backward()
    task.eval()
    parts = {"itc": "train_loss_itc", "itm": "train_loss_itm", "routing": "train_loss_gate"}
    done = [loss(name, result.parts[part], expected[name]) for part, name in parts.items()]
    done.append(loss("total", result.total, sum(expected[name] for name in parts.values())))
    gradients = to_published({n: p.grad for n, p in task.named_parameters() if p.grad is not None})
    return done + [gradient(n, gradients.get(n), g) for n, g in sorted(case.under("grad.").items())]


def check_scores(task: RetrievalTask, case: Case) -> list[Comparison]:
    """Compare the matrices of the whole evaluation, without and with re-ranking, and the figures."""
    data = evaluation_data(case)
    pictures = encode_pictures(task, data, _quiet)
    texts = collect_texts(task, pictures, data)
    similarity = similarities(task, pictures, encode_texts(task, texts, _quiet))
    by_image, by_text = rerank(task, pictures, texts, similarity, _quiet)
    matrices = {
        "sims_i2t": similarity,
        "sims_t2i": np.ascontiguousarray(similarity.T),
        "rerank_i2t": filled_matrix(similarity, by_image.cut, by_image.scores),
        "rerank_t2i": filled_matrix(similarity.T, by_text.cut, by_text.scores),
    }
    expected = case.under("out.")
    done = [output(name, torch.from_numpy(m), expected[name]) for name, m in matrices.items()]
    for kind in ("sims", "rerank"):
        figures = published_figures(matrices[f"{kind}_i2t"], matrices[f"{kind}_t2i"], case.meta["metrics"])
        done += compare_figures(figures, case.meta["metrics"][kind], kind)
    return [*done, *check_relations(pictures, texts, case.meta["metrics"])]


def evaluation_data(case: Case) -> EvalData:
    """Return the recorded evaluation split in the recorded batches; a caption is the number of its row."""
    images, captions = case.tensors["in.eval_image"], case.meta["metrics"]["img2txt"]

    def batches() -> Iterator[Batch]:
        for rows in torch.arange(len(images)).split(IMAGE_BATCH):
            yield Batch(
                keys=[str(i) for i in rows.tolist()],
                positions=rows,
                match_ids=rows,
                images=images[rows],
                captions=[tuple(map(str, captions[str(i)])) for i in rows.tolist()],
            )

    return EvalData("golden", "all", len(images), batches)


def check_relations(pictures: Pictures, texts: Texts, metrics: dict[str, Any]) -> list[Comparison]:
    """Compare which text belongs to which picture with the recorded tables."""
    ours = {str(i): right.tolist() for i, right in enumerate(texts.right_texts)}
    back = {str(j): int(right[0]) for j, right in enumerate(texts.right_images)}
    return [exact("img2txt", ours, metrics["img2txt"]), exact("txt2img", back, metrics["txt2img"])]


def check_metrics(case: Case) -> list[Comparison]:
    """Kind `retrieval_metrics`: the published figures of recorded score matrices."""
    scores = [case.tensors[f"in.scores_{name}"].numpy() for name in ("i2t", "t2i")]
    return compare_figures(published_figures(scores[0], scores[1], case.meta), case.meta["result"], "result")


def published_figures(i2t: Any, t2i: Any, tables: dict[str, Any]) -> dict[str, float]:
    """Run `itm_eval` with the JSON tables of a case (keys are strings there)."""
    txt2img = {int(j): i for j, i in tables["txt2img"].items()}
    img2txt = {int(i): texts for i, texts in tables["img2txt"].items()}
    return itm_eval(i2t, t2i, txt2img, img2txt)


def compare_figures(ours: dict[str, float], expected: dict[str, float], what: str) -> list[Comparison]:
    """Compare figures by name; a missing or additional one is a miss."""
    done = [exact(f"{what}: names", sorted(ours), sorted(expected))]
    return done + [loss(f"{what}: {n}", ours[n], v) for n, v in expected.items() if n in ours]


def _quiet(stage: str, done: int, total: int) -> None:
    """Report no progress."""
