"""Tasks: downstream ones here, pre-training tasks with their system. To add one: its file, one line here."""

TASKS: dict[str, str] = {
    "eve_pretrain": "diptych.systems.eve.pretrain:EvePretrainTask",
    "multi": "diptych.tasks.multi:MultiTask",
    "retrieval": "diptych.tasks.retrieval:RetrievalTask",
}
"""Configuration name (`task.name`) -> "module:class", imported on first use."""
