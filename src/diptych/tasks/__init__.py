"""Tasks: downstream ones here, one file each; pre-training tasks live with their system. Adding one: a line here."""

TASKS: dict[str, str] = {
    "eve_pretrain": "diptych.systems.eve.pretrain:EvePretrainTask",
    "retrieval": "diptych.tasks.retrieval:RetrievalTask",
}
"""Configuration name (`task.name`) -> "module:class", imported on first use."""
