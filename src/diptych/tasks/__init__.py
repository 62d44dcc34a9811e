"""Tasks: downstream ones here, pre-training tasks with their system. To add one: its file, one line here."""

TASKS: dict[str, str] = {
    "captioning": "diptych.tasks.captioning:CaptioningTask",
    "classification": "diptych.tasks.classification:ClassificationTask",
    "eve_pretrain": "diptych.systems.eve.pretrain:EvePretrainTask",
    "glue": "diptych.tasks.glue:GlueTask",
    "instruct": "diptych.tasks.instruct:InstructTask",
    "mllm_words": "diptych.systems.mllm.words:WordsTask",
    "mllm_eval": "diptych.tasks.mllm_eval:MllmEvalTask",
    "multi": "diptych.tasks.multi:MultiTask",
    "multiple_choice": "diptych.tasks.multiple_choice:MultipleChoiceTask",
    "nlvr": "diptych.tasks.nlvr:NlvrTask",
    "qformer_align": "diptych.tasks.qformer_align:QFormerAlignTask",
    "retrieval": "diptych.tasks.retrieval:RetrievalTask",
    "retrieval_levels": "diptych.tasks.retrieval_levels:RetrievalLevelsTask",
    "retrieval_matching": "diptych.tasks.retrieval_matching:RetrievalMatchingTask",
    "snps3_pretrain": "diptych.systems.snps3.pretrain:SnpS3PretrainTask",
    "soho_pretrain": "diptych.systems.soho.pretrain:SohoPretrainTask",
    "uniperceiver_words": "diptych.systems.uniperceiver.pretrain:WordsTask",
    "vqa": "diptych.tasks.vqa:VqaTask",
}
"""Configuration name (`task.name`) -> "module:class", imported on first use."""
