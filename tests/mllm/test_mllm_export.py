"""Exports: reloading without the folders of the parts, and the folder that transformers loads alone."""

import pytest
import torch
from tests.mllm.mllm_toy import context, questions, toy_task

from diptych.api import load
from diptych.config.layers import resolve
from diptych.data.conversations import Wording
from diptych.data.text import Tokenizer
from diptych.errors import UsageError
from diptych.systems.mllm.config import LanguageConfig
from diptych.systems.mllm.hugging_face import quiet, transformers
from diptych.systems.mllm.language import LanguageModel
from diptych.tasks.instruct_data import conversations_of
from diptych.train.config import RunConfig
from diptych.train.export import exported_settings, write_export
from diptych.train.hf_folder import write_hf_folder


@pytest.fixture
def exported(tmp_path):
    """Return a toy task and the folder that it was exported to."""
    task = toy_task().eval()
    values = {
        "system": task.model.config.model_dump(mode="json"),
        "task": task.config.model_dump(mode="json"),
        "data": {"path": "data", "image": {"size": 16}, "examples": "questions"},
    }
    config = resolve(RunConfig, values).config
    plain = Tokenizer.train(
        ["what color is the cat", "red blue yes no", "where is the dog and the cat"] * 3, 60
    )
    folder = write_export(tmp_path / "run" / "export", task.state_dict(), plain, exported_settings(config))
    return task, folder


def test_an_export_needs_nothing_else_and_says_the_same(exported):
    task, folder = exported
    model = load("mllm", folder, device="cpu")
    batch = questions()
    chats = [chat.asks() for chat in conversations_of(batch, Wording())]
    assert model.task.answers(batch, chats) == task.answers(batch, chats)
    assert model.can("chat")
    assert not model.can("answer")


def test_transformers_loads_the_language_model_alone(exported, tmp_path):
    task, folder = exported
    out = write_hf_folder(folder, tmp_path / "hf")
    with quiet():
        alone = transformers().AutoModelForCausalLM.from_pretrained(out)
        words = transformers().AutoTokenizer.from_pretrained(out)
    ids = torch.tensor([[6, 7, 8, 9, 10]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        ours = task.network.language
        states = ours(ours.embed(ids), mask=mask, pictures=torch.zeros_like(mask))
        torch.testing.assert_close(alone(input_ids=ids).logits, ours.scores(states), atol=1e-5, rtol=1e-4)
    messages = [{"role": "user", "content": "what color"}]
    theirs = words.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    chat = conversations_of(questions(1), Wording())[0].asks().blind()
    assert theirs == task.tokenizer.encode_chat(chat, [], answer=True).ids
    # The whole, from the same folder.
    whole = load("mllm", out, device="cpu")
    batch = questions(2)
    with torch.no_grad():
        assert (
            whole.task.compute_loss(batch, context(batch)).total
            == task.compute_loss(batch, context(batch)).total
        )


def test_a_folder_of_transformers_is_a_language_model_for_training(exported, tmp_path):
    _, folder = exported
    out = write_hf_folder(folder, tmp_path / "hf")
    config = LanguageConfig(path=str(out))
    assert LanguageModel(config).width == 32
    from diptych.systems.mllm.language import language_tokenizer

    assert language_tokenizer(config).eos_id == language_tokenizer(config)._raw.token_to_id("<|im_end|>")


def test_other_models_have_no_such_folder(tmp_path):
    with pytest.raises(UsageError, match="transformers cannot load it"):
        LanguageModel(LanguageConfig(path=str(tmp_path)))
