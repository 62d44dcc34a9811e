"""Trained models from Python: `model = diptych.load("eve", "runs/eve-emoji-retrieval")`.

```
model.encode_image(["cat.jpg", "dog.jpg"])            # [2, D] unit vectors
model.encode_text("a cat")                            # [1, D]
model.match("cat.jpg", ["a cat", "a dog"])            # [2] probabilities
model.choose("cat.mp4", ["a cat runs", "a cat sits"]) # [1, 2] probabilities, which of them it is
model.answer("cat.jpg", "What animal is it?")[0].text
model.classify("cat.jpg", ["cat", "dog", "fox"])[0].text
model.caption("cat.jpg")[0].text
model.chat("cat.jpg").ask("What is it doing?")
```

Pictures are decoded and resized, and texts cleaned, exactly as `diptych eval` does, by the settings that the
model was trained with.

Legend: N pictures, texts or pairs; D width of the common space, or of the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from diptych.data.batch import Batch
from diptych.data.pictures import Picture, framed_pictures, paired, picture_list, text_list
from diptych.data.text import clean
from diptych.errors import DataError, UsageError
from diptych.objectives.contrastive import ContrastiveHead
from diptych.objectives.pair_scores import PairScorer
from diptych.systems.importing import ImportOptions
from diptych.systems.mllm.generation import GenerationConfig
from diptych.systems.protocol import Encoded, VisionLanguageModel, Visual, Writing
from diptych.systems.task import Task
from diptych.tasks.captioning import CaptioningTask, caption_task, write_ranked
from diptych.tasks.classification_results import probabilities as class_probabilities
from diptych.tasks.fused import embed_pictures, own_features
from diptych.tasks.instruct import InstructTask
from diptych.tasks.instruct_chat import Chat
from diptych.tasks.nlvr import NlvrTask
from diptych.tasks.open_vocabulary import NameClassifiers
from diptych.tasks.vqa import ASSET as ANSWERS
from diptych.tasks.vqa import VqaTask
from diptych.tasks.vqa_answers import read_answers
from diptych.train.build import load_task
from diptych.train.config import RunConfig
from diptych.train.precision import autocast, choose_device
from diptych.train.published import load_published

__all__ = ["Answer", "Chat", "GenerationConfig", "LoadedModel", "Picture", "load"]

Item = TypeVar("Item")
AnyTask = TypeVar("AnyTask", bound=Task)


@dataclass(frozen=True)
class Answer:
    """An answer to a question."""

    text: str
    score: float
    """Between 0 and 1: how right the model takes it to be."""
    ranked: tuple[tuple[str, float], ...]
    """The best answers with their scores, this one first."""


def load(
    system: str | None,
    path: str | Path,
    *,
    tokenizer: str | Path | None = None,
    answers: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    batch_size: int = 32,
    heads: Literal["best", "own", "none"] = "best",
    image_size: int | None = None,
    attention_heads: int | None = None,
    routing: Literal["published", "dropless"] = "published",
) -> "LoadedModel":
    """Load a trained model, ready to use.

    Args:
        system: `eve`, `soho`, ...: what the path is expected to hold; None: whatever it holds, but a
            published checkpoint needs its name.
        path: a run directory, an export or a checkpoint of Diptych; or the file of a published checkpoint.
        tokenizer: tokenizer.json of a published checkpoint.
        answers: JSON list of the answers that a published VQA checkpoint chooses among.
        device: `auto` takes a GPU if there is one.
        precision: `bf16`: autocast.
        batch_size: pictures, texts or pairs that go through the model at once.
        heads: of a published checkpoint; as the four options that follow, see `diptych convert --help`.
        image_size: side of the pictures, for which a published position table is resized.
        attention_heads: of a published checkpoint; None: one per 64 of width.
        routing: of a published checkpoint; `dropless` makes results independent of the batch.

    Raises:
        UsageError: a wrong argument, or one that is only for published checkpoints; another system's model.
        CheckpointError: nothing there, or damaged.
        DataError: tokenizer or answers cannot be read.
    """
    where = choose_device(device, "device")
    options = ImportOptions(heads, image_size, attention_heads, routing)
    if batch_size < 1:
        raise UsageError(f"batch_size = {batch_size}: expected at least 1")
    if Path(path).is_file():
        if system is None:
            raise UsageError(f"{path}: give the system that this checkpoint was published for")
        assets = {} if answers is None else {ANSWERS: read_answers(answers, "answers")}
        words = None if tokenizer is None else Path(tokenizer)
        config, task = load_published(system, Path(path), words, options, assets)
    elif tokenizer or answers or options != ImportOptions():
        raise UsageError(
            f"{path}: tokenizer, answers, heads, image_size, attention_heads and routing are for files of "
            "published checkpoints; this is no file"
        )
    else:
        config, task = load_task(path)
    if system not in (None, config.system.name):
        raise UsageError(f"{path}: holds a model of system '{config.system.name}', not of '{system}'")
    return LoadedModel(config, task.to(where).eval(), where, precision, batch_size)


class LoadedModel:
    """A trained model on its device. What it can do depends on the heads that it was trained with.

    Results are float32 tensors on the CPU, in the order of what was asked. Texts are padded as the model's
    `data.text.padding` says. Where experts drop tokens (published routing) a result depends on what else is
    in its batch.

    Attributes:
        config: the settings that it was trained with.
        task: the task, a torch module: `task.model` is the system's model.
        device: where it is.
    """

    def __init__(
        self, config: RunConfig, task: Task, device: torch.device, precision: str, batch_size: int
    ) -> None:
        self.config, self.task, self.device = config, task, device
        self._precision, self._batch_size = precision, batch_size
        several: dict[str, Task] = getattr(task, "tasks", {})
        self._tasks = list(several.values()) or [task]
        self._names = NameClassifiers(self._tasks, self._name)
        self._writer: CaptioningTask | None = None

    @property
    def model(self) -> VisionLanguageModel:
        """The system's model, without heads."""
        return self.task.model

    def __repr__(self) -> str:
        weights = sum(p.numel() for p in self.task.parameters())
        return f"<{self.config.system.name}, {self.config.task.name}: {weights:,} weights on {self.device}>"

    def can(
        self, what: Literal["encode", "match", "choose", "answer", "judge", "classify", "caption", "chat"]
    ) -> bool:
        """Return whether it has the heads for `match`, `choose`, ..., or both methods `encode_...`."""
        if what == "caption":
            return "generate" in self.model.capabilities
        if what == "classify":  # among names of one's own
            return self._names.able
        if what in ("answer", "chat", "judge"):
            kind = {"answer": VqaTask, "chat": InstructTask, "judge": NlvrTask}[what]
            return any(isinstance(task, kind) for task in self._tasks)
        if what == "match":
            return any(getattr(task, "itm", None) is not None for task in self._tasks)
        if what == "choose":
            return self.can("match") or self._scorer() is not None
        return self.model.aligned or any(
            isinstance(getattr(task, "itc", None), ContrastiveHead) for task in self._tasks
        )

    def encode_image(self, pictures: Picture | Sequence[Picture], *, project: bool = True) -> Tensor:
        """Return a vector for each picture, [N, D] float32.

        Args:
            pictures: paths, encoded bytes, PIL pictures or arrays [H, W, 3] uint8; one or several. Models
                trained on clips (`data.video.frames`) take videos as well, and frames [V, H, W, 3].
            project: unit vectors of the contrastive head, to be compared with those of `encode_text` (of a
                clip in several parts their mean); false: the model's own token, from models without that
                head too.

        Raises:
            UsageError: the model has no contrastive head, or cannot encode pictures alone.
            DataError: a picture that cannot be read.
        """
        self._need("encode_visual")
        head = self._head("project_visual", project)

        def encode(chunk: list[Picture]) -> Tensor:
            return head(self.model.encode_visual(self._embed(chunk)))

        return self._each(encode, picture_list(pictures))

    def encode_text(self, texts: str | Sequence[str], *, project: bool = True) -> Tensor:
        """Return a vector for each text, [N, D] float32; see `encode_image`.

        Raises:
            UsageError: the model has no contrastive head, or cannot encode texts alone.
            DataError: a text of which cleaning leaves nothing.
        """
        self._need("encode_text")
        head = self._head("project_text", project)

        def encode(chunk: list[str]) -> Tensor:
            return head(self.model.encode_text(*self._tokens(chunk)))

        return self._each(encode, text_list(texts))

    def match(self, pictures: Picture | Sequence[Picture], texts: str | Sequence[str]) -> Tensor:
        """Return how probably each text belongs to its picture, [N] float32 between 0 and 1.

        Both are read together, pair by pair: as many pictures as texts, or one of either for all.

        Raises:
            UsageError: the model has no matching head; unequal numbers.
            DataError: a picture or text that cannot be used.
        """
        head = self._matching_head()
        seen, rows, read = paired(picture_list(pictures), text_list(texts))
        embedded: dict[tuple[int, ...], Tensor | Visual] = {}

        def score(chunk: list[tuple[int, str]]) -> Tensor:
            distinct = tuple(sorted({row for row, _ in chunk}))
            if distinct not in embedded:  # one picture beside many texts is embedded once
                embedded.clear()
                embedded[distinct] = self._embed([seen[row] for row in distinct])
            where = torch.tensor([distinct.index(row) for row, _ in chunk], device=self.device)
            visual = embedded[distinct][where]
            fused = self.model.fuse(visual, *self._tokens([text for _, text in chunk]))
            return torch.softmax(head(fused.pooled).float(), 1)[:, 1]

        return self._each(score, list(zip(rows, read, strict=True)))

    def choose(self, pictures: Picture | Sequence[Picture], options: Sequence[str]) -> Tensor:
        """Return how probably each of some texts is the one that belongs to a picture, [N, C] float32.

        The rows add up to 1. Every text is read together with every picture.

        Args:
            pictures: see `encode_image`.
            options: C texts, the same for all pictures.

        Raises:
            UsageError: the model has no head for pairs.
            DataError: a picture or text that cannot be used.
        """
        scorer, texts = self._scorer(), list(options)
        seen = picture_list(pictures)
        if not scorer:
            pairs = [picture for picture in seen for _ in texts]
            odds = torch.logit(self.match(pairs, texts * len(seen)), eps=1e-6)
            return odds.view(len(seen), len(texts)).softmax(1)
        ids, mask = self._tokens(texts)

        def score(chunk: list[Picture]) -> Tensor:
            rows = torch.arange(len(chunk), device=self.device).repeat_interleave(len(texts))
            visual = self._embed(chunk)[rows]
            fused = self.model.fuse(visual, ids.repeat(len(chunk), 1), mask.repeat(len(chunk), 1))
            found: Tensor = scorer(fused.pooled).view(len(chunk), len(texts))
            return found

        return self._each(score, seen).softmax(1)

    def answer(
        self, pictures: Picture | Sequence[Picture], questions: str | Sequence[str], *, top: int = 5
    ) -> list[Answer]:
        """Answer a question about each picture: as many pictures as questions, or one of either for all.

        Args:
            pictures: see `encode_image`.
            questions: one or several.
            top: how many answers `Answer.ranked` holds.

        Raises:
            UsageError: the model was not trained on questions; unequal numbers.
            DataError: a picture or question that cannot be used.
        """
        task = self._task_of(VqaTask, "answer", "questions (task.name=vqa)")
        seen, rows, read = paired(picture_list(pictures), text_list(questions))

        def score(chunk: list[tuple[int, str]]) -> Tensor:
            images, sizes = self._frames(seen, [row for row, _ in chunk])
            batch = self._batch_of(images, sizes, [text for _, text in chunk])
            return task.probabilities(task.logits(batch))

        scores = self._each(score, list(zip(rows, read, strict=True)))
        best = scores.topk(min(top, len(task.answers)), dim=1) if len(scores) else None
        if best is None:
            return []
        names = task.answers.names
        ranked = [
            tuple((names[i], value) for i, value in zip(row, values, strict=True))
            for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return [Answer(*row[0], row) for row in ranked]

    def classify(
        self,
        pictures: Picture | Sequence[Picture],
        classes: Sequence[str] | str | Path | None = None,
        *,
        top: int = 5,
        prompts: Sequence[str] = ("{}",),
    ) -> list[Answer]:
        """Tell which class each picture is of, by the names of the classes (open vocabulary).

        Args:
            pictures: see `encode_image`.
            classes: names; a file of names, one a line with synonyms behind tabs; a list of Diptych such as
                `imagenet-1k`; None: those that the model was trained on.
            top: how many classes `Answer.ranked` holds.
            prompts: texts with `{}` for the name, whose features are averaged.

        Raises:
            UsageError: the model cannot compare pictures with names; no such list.
            DataError: a picture or file that cannot be used.
        """
        task = self._names.task(classes, prompts)
        seen = picture_list(pictures)

        def score(chunk: list[Picture]) -> Tensor:
            images, sizes = framed_pictures(chunk, self.config.data.image, self.config.data.video)
            sizes = None if sizes is None else sizes.to(self.device)
            return class_probabilities(task, images.to(self.device), sizes, self.config.data.video.frames)

        scores = self._each(score, seen)
        if not len(scores):
            return []
        best = scores.topk(min(top, scores.shape[1]), dim=1)
        ranked = [
            tuple((task.classes.names[i][0], value) for i, value in zip(row, values, strict=True))
            for row, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        return [Answer(*row[0], row) for row in ranked]

    def caption(
        self, pictures: Picture | Sequence[Picture], *, writing: Writing | None = None
    ) -> list[Answer]:
        """Describe each picture; the score is the probability of the caption, `ranked` are all of its beams.

        Args:
            pictures: see `encode_image`.
            writing: how captions are searched for; None: as the model was trained to (`task.beams`, ...).

        Raises:
            UsageError: the model cannot write.
            DataError: a picture that cannot be used.
        """
        self._need("generate")
        writer = self._writer = self._writer or caption_task(self._tasks)
        said: list[Answer] = []

        def describe(chunk: list[Picture]) -> Tensor:
            images, sizes = self._frames(chunk, range(len(chunk)))
            ranked = write_ranked(writer, images, sizes, writing)
            said.extend(Answer(*row[0], row) for row in ranked)
            return torch.empty(0)

        self._each(describe, picture_list(pictures))
        return said

    def chat(
        self, pictures: Picture | Sequence[Picture] = (), *, settings: GenerationConfig | None = None
    ) -> Chat:
        """Begin a conversation about pictures and videos (see `encode_image`), which `ask` goes on with.

        Raises:
            UsageError: the model does not converse.
            DataError: a picture that cannot be read.
        """
        task = self._task_of(InstructTask, "chat", "conversations (task.name=instruct)")
        return Chat(task, self.config.data, picture_list(pictures), settings=settings)

    def judge(self, pairs: Sequence[tuple[Picture, Picture]], statements: str | Sequence[str]) -> Tensor:
        """Return how probably each statement is true of its two pictures, [N] float32 between 0 and 1.

        Args:
            pairs: two pictures for each statement, or one pair for all.
            statements: one or several.

        Raises:
            UsageError: the model was not trained on statements; unequal numbers.
            DataError: a picture or statement that cannot be used.
        """
        task = self._task_of(NlvrTask, "judge", "statements about two pictures (task.name=nlvr)")
        seen, rows, read = paired(list(pairs), text_list(statements))

        def score(chunk: list[tuple[int, str]]) -> Tensor:
            # All pictures in one frame, as in an evaluation batch.
            flat = [picture for pair in seen for picture in pair]
            images, sizes = self._frames(flat, [2 * row + i for row, _ in chunk for i in (0, 1)])
            images = images.reshape(len(chunk), 2, *images.shape[1:])
            sizes = None if sizes is None else sizes.reshape(len(chunk), 2, 2)
            batch = self._batch_of(images, sizes, [text for _, text in chunk])
            return task.read(batch)[0].softmax(1)[:, 1]

        return self._each(score, list(zip(rows, read, strict=True)))

    @property
    def _name(self) -> str:
        return f"this model (system {self.config.system.name}, task {self.config.task.name})"

    def _need(self, capability: str) -> None:
        if capability not in self.model.capabilities:
            has = ", ".join(sorted(self.model.capabilities))
            raise UsageError(f"{self._name} has no capability '{capability}' (it has: {has})")

    def _task_of(self, kind: type[AnyTask], method: str, what: str) -> AnyTask:
        for task in self._tasks:
            if isinstance(task, kind):
                return task
        raise UsageError(f"{method}: {self._name} was not trained on {what}")

    def _matching_head(self) -> nn.Module:
        for task in self._tasks:
            head: nn.Module | None = getattr(task, "itm", None)
            if head is not None:
                return head
        raise UsageError(
            f"match: {self._name} was trained without a matching head; compare encode_image with "
            "encode_text, or choose among texts (choose)"
        )

    def _scorer(self) -> nn.Module | None:
        """Return the head that gives a pair one number, if there is one."""
        heads = (getattr(task, "match", None) for task in self._tasks)
        return next((head for head in heads if isinstance(head, PairScorer)), None)

    def _head(self, projection: str, project: bool) -> Callable[[Encoded], Tensor]:
        """Return what turns encoded pictures or texts into vectors."""
        if not project:
            return lambda encoded: encoded.pooled
        task = next((t for t in self._tasks if isinstance(getattr(t, "itc", None), ContrastiveHead)), None)
        if task is None and self.model.aligned:
            return own_features
        if task is None:
            raise UsageError(
                f"encode: {self._name} was trained without a contrastive head; project=False gives the "
                "model's own vectors"
            )
        # The retrieval task knows which token it was evaluated with.
        token = getattr(task, "evaluation_token", lambda encoded: encoded.pooled)
        return lambda encoded: getattr(task.itc, projection)(token(encoded))

    def _each(self, compute: Callable[[list[Item]], Tensor], items: list[Item]) -> Tensor:
        """Return the rows that `compute` gives for all items, `batch_size` at a time."""
        rows = []
        with torch.inference_mode(), autocast(self.device, self._precision):
            for start in range(0, len(items), self._batch_size):
                rows.append(compute(items[start : start + self._batch_size]).float().cpu())
        # Ordinary tensors, which may take part in training.
        return torch.cat(rows).clone() if rows else torch.empty(0)

    def _frames(self, seen: Sequence[Picture], rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Return the pictures of `rows`, [len(rows), 3, H, W] uint8, and their sizes if they are padded.

        A repeated one is decoded once.
        """
        distinct = sorted(set(rows))
        data = self.config.data
        frames, sizes = framed_pictures([seen[row] for row in distinct], data.image, data.video)
        chosen = torch.tensor([distinct.index(row) for row in rows], dtype=torch.int64)
        return frames[chosen], None if sizes is None else sizes[chosen]

    def _embed(self, pictures: Sequence[Picture]) -> Tensor | Visual:
        images, sizes = framed_pictures(pictures, self.config.data.image, self.config.data.video)
        sizes = None if sizes is None else sizes.to(self.device)
        return embed_pictures(self.model, images.to(self.device), sizes=sizes)

    def _tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids [N, L] and mask [N, L] of texts, cleaned and padded by the model's settings."""
        rules = self.config.data.text
        cleaned = []
        for text in texts:
            try:
                cleaned.append(clean(text, rules.clean, rules.max_words))
            except DataError as error:
                raise DataError(f"text {text!r}: {error}") from error
        ids, mask = self.task.tokenizer.encode(cleaned, rules.max_tokens)
        keep = ids.shape[1] if rules.padding == "max_length" else int(mask.sum(1).max())
        return ids[:, :keep].to(self.device), mask[:, :keep].to(self.device)

    def _batch_of(self, images: Tensor, sizes: Tensor | None, texts: Sequence[str]) -> Batch:
        ids, mask = self._tokens(texts)
        numbers = torch.arange(len(texts))
        return Batch(
            keys=[str(i) for i in numbers.tolist()],
            positions=numbers,
            match_ids=numbers,
            images=images.to(self.device),
            image_sizes=None if sizes is None else sizes.to(self.device),
            texts=list(texts),
            text_ids=ids,
            text_mask=mask,
        )
