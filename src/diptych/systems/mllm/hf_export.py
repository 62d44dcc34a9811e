"""The language model of a trained model as a folder that transformers loads alone."""

from pathlib import Path

import torch
from torch import Tensor

from diptych.blocks.plora import PartialLora
from diptych.data.chat import ChatTokenizer
from diptych.systems.mllm.hugging_face import quiet, transformers
from diptych.systems.mllm.language import LanguageModel, is_adapter
from diptych.systems.mllm.smollm import SMOLLM


def plain_state(language: LanguageModel) -> dict[str, Tensor]:
    """Return the weights under the names of transformers; LoRA is added to them, partial LoRA left out.

    Partial LoRA is for positions of pictures only, which a language model alone does not have.
    """
    modules = dict(language.model.named_modules())
    state = {}
    for name, tensor in language.model.state_dict().items():
        if is_adapter(name):
            continue
        owner = name.rpartition(".base_layer.")[0]
        if owner and name.endswith(".weight"):
            delta = modules[owner].get_delta_weight("default")
            tensor = (tensor.float() + delta.float()).to(tensor.dtype)
        state[_plain(name, modules)] = tensor
    return state


def _plain(name: str, modules: dict[str, torch.nn.Module]) -> str:
    """Return a parameter's name without the parts that wrappers put into it."""
    kept: list[str] = []
    parts = name.split(".")
    for i, part in enumerate(parts):
        above = modules.get(".".join(parts[:i]))
        wraps = (part == "base" and isinstance(above, PartialLora)) or part == "base_layer"
        kept += [] if wraps else [part]
    return ".".join(kept)


def write_language(language: LanguageModel, tokenizer: ChatTokenizer, folder: Path) -> None:
    """Write config.json, weights, tokenizer and chat template, as `save_pretrained` does."""
    library = transformers()
    config = language.model.config
    with quiet():
        with torch.device("meta"):
            plain = library.AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(plain_state(language), assign=True, strict=True)
        plain.tie_weights()
        plain.to(language.head.weight.dtype).save_pretrained(folder)
    tokenizer.save(folder)
    note = (
        "The language model of a multimodal model of Diptych, with its adapters of text merged in. It loads "
        "with transformers alone. `export/` holds the whole model: `diptych.load('mllm', ...)` of this "
        "folder. "
        f"Where it began as {SMOLLM}: Apache-2.0, HuggingFaceTB.\n"
    )
    (folder / "README.md").write_text(note, encoding="utf-8")
