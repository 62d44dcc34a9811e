"""Classification among any names, with a model that was trained on something else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.errors import UsageError
from diptych.objectives.contrastive import ContrastiveHead
from diptych.systems.task import Task
from diptych.tasks.classes import read_classes
from diptych.tasks.classification import ClassificationTask
from diptych.tasks.classification_config import ClassificationConfig


class NameClassifiers:
    """Makes tasks that choose among names; remembers the last one, whose names are encoded."""

    def __init__(self, tasks: Sequence[Task], who: str) -> None:
        """Take the tasks that a model was trained on; `who` names it in messages."""
        self._tasks, self._who = tasks, who
        self._model = tasks[0].model
        heads = (getattr(task, "itc", None) for task in tasks)
        self._itc = next((head for head in heads if isinstance(head, ContrastiveHead)), None)
        self._last: tuple[Any, ClassificationTask] | None = None

    @property
    def able(self) -> bool:
        """Whether the model can compare pictures with names."""
        return "likelihood" in self._model.capabilities or self._itc is not None

    def task(
        self, classes: Sequence[str] | str | Path | None, prompts: Sequence[str] = ("{}",)
    ) -> ClassificationTask:
        """Return the task that chooses among classes, in eval mode.

        Args:
            classes: names; what `task.target` takes; None: the classes that the model was trained on.
            prompts: texts with `{}` for the name.

        Raises:
            UsageError: the model cannot compare pictures with names, or was trained on no classes.
        """
        if classes is None:
            trained = next((task for task in self._tasks if isinstance(task, ClassificationTask)), None)
            if trained is None:
                raise UsageError(f"classify: {self._who} was not trained on classes; give their names")
            return trained
        asked = str(classes) if isinstance(classes, str | Path) else tuple(map(str, classes))
        key = (asked, tuple(prompts))
        if self._last is None or self._last[0] != key:
            names = read_classes(asked, "classes") if isinstance(asked, str) else [[name] for name in asked]
            self._last = (key, self._made(names, prompts))
        return self._last[1]

    def _made(self, names: Sequence[Sequence[str]], prompts: Sequence[str]) -> ClassificationTask:
        if not self.able:
            raise UsageError(
                f"classify: {self._who} has nothing to compare pictures with names by: neither the "
                "capability 'likelihood' nor a contrastive head"
            )
        config = ClassificationConfig(prompts=tuple(prompts), eval_synonyms="mean")
        task = ClassificationTask(self._model, config, self._tasks[0].tokenizer, names)
        if task.itc is not None:
            assert self._itc is not None
            task.itc = self._itc
        return task.eval()
