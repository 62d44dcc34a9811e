"""The causal language model of transformers, with its adapters.

Legend: R rows of tokens, L tokens of a row, D width.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from diptych.blocks.plora import PicturePositions, add_plora
from diptych.data.chat import ChatTokenizer
from diptych.errors import ConfigError, UsageError
from diptych.systems.mllm.config import LanguageConfig
from diptych.systems.mllm.hugging_face import peft, quiet, transformers
from diptych.systems.mllm.internlm import SHARED
from diptych.systems.mllm.smollm import SMOLLM, smollm_folder

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_OF_FILES = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Entries of config.json about files, not about the model."""


def language_folder(path: str) -> str:
    """Return what transformers loads for `system.language.path`."""
    if path == SMOLLM and not Path(path).exists():
        return str(smollm_folder())
    return path


def with_settings(config: LanguageConfig) -> LanguageConfig:
    """Return the configuration with the content of config.json in `settings`.

    Raises:
        ConfigError: nothing says which model it is.
    """
    if not config.path:
        if not config.settings:
            raise ConfigError("system.language: give path or settings")
        return config
    read = _read(config.path, "AutoConfig")
    # What differs from transformers' defaults, and what tells which model it is.
    kept = {name: value for name, value in read.to_diff_dict().items() if name not in _OF_FILES}
    return config.with_(settings={**kept, "model_type": read.model_type, **config.settings})


def language_tokenizer(config: LanguageConfig) -> ChatTokenizer | None:
    """Return the tokenizer of `path` with the template of the settings; None without a path."""
    if not config.path:
        return None
    folder = Path(language_folder(config.path))
    if not folder.is_dir():
        folder = _downloaded(config.path)
    tokenizer = ChatTokenizer.from_folder(folder, config.template)
    if config.learn_rest:
        tokenizer.settings["learn_rest"] = True
    return tokenizer


def _downloaded(name: str) -> Path:
    """Return the folder in the cache of the Hugging Face hub with a model's tokenizer."""
    transformers()
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=["tokenizer*", "*.jinja", "config.json"])
        )
    except Exception as error:  # whatever networks and names can do wrong
        raise UsageError(
            f"system.language.path = {name}: no such folder, and not to be had from the Hugging Face hub "
            f"({type(error).__name__}); expected a folder with config.json and weights, or {SMOLLM}"
        ) from error


def _read(path: str, kind: str, **options: Any) -> Any:
    library = transformers()
    try:
        with quiet():
            return getattr(library, kind).from_pretrained(language_folder(path), **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"system.language.path = {path}: transformers cannot load it ({reason}); expected a folder with "
            f"config.json and weights of a causal language model, a name on the hub, or {SMOLLM}"
        ) from error


class LanguageModel(nn.Module):
    """A causal language model that reads vectors, with the places of pictures among them.

    Attributes:
        model: the model of transformers; its layers may be wrapped by adapters.
        width: D.
        vocab_size: of its table of words.
        max_tokens: positions that it was made for.
    """

    def __init__(self, config: LanguageConfig) -> None:
        """Load it from `path`, or build it with fresh weights where there is none (or none are wanted)."""
        super().__init__()
        self.config = config
        dtype = _DTYPES[config.dtype]
        # On the device `meta`, where configurations are checked, there are no weights to be filled.
        if config.path and torch.empty(0).device.type != "meta":
            options = {"dtype": dtype, "attn_implementation": config.attention, **_changes(config)}
            self.model: Any = _read(config.path, "AutoModelForCausalLM", **options)
        else:
            library = transformers()
            settings = library.AutoConfig.for_model(**with_settings(config).settings)
            with quiet():
                self.model = library.AutoModelForCausalLM.from_config(
                    settings, dtype=dtype, attn_implementation=config.attention
                )
        settings = self.model.config.get_text_config()
        self.width, self.vocab_size = int(settings.hidden_size), int(settings.vocab_size)
        self.max_tokens = int(getattr(settings, "max_position_embeddings", 2**20))
        self.positions = self._adapt(config)

    def _adapt(self, config: LanguageConfig) -> PicturePositions | None:
        """Put adapters into the layers; peft's first, since it does not look into others."""
        lora, plora = config.lora, config.plora
        if lora.rank:
            library = peft()
            told = library.LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=list(lora.names),
            )
            try:
                library.inject_adapter_in_model(told, self.model)
            except ValueError as error:
                raise ConfigError(f"system.language.lora.names = {list(lora.names)}: {error}") from error
        positions = None
        if plora.rank:
            positions = add_plora(
                self.model,
                plora.names,
                rank=plora.rank,
                alpha=plora.alpha,
                dropout=plora.dropout,
                share=SHARED if plora.shared else (),
            )
        for name, parameter in self.model.named_parameters():
            if is_adapter(name):
                parameter.data = parameter.data.float()
        return positions

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder's blocks, the first one first."""
        lists = [list(m) for m in self.model.base_model.modules() if isinstance(m, nn.ModuleList)]
        return max(lists, key=len)

    @property
    def head(self) -> nn.Module:
        """What turns states into scores of words."""
        return cast(nn.Module, self.model.get_output_embeddings())

    def embed(self, ids: Tensor) -> Tensor:
        """Return the vectors of words, [.., D]."""
        words: Tensor = self.model.get_input_embeddings()(ids)
        return words

    def forward(
        self,
        inputs: Tensor,
        *,
        mask: Tensor | None,
        positions: Tensor | None = None,
        pictures: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Return the states behind the last norm, [R, L, D].

        Args:
            inputs: [R, L, D] vectors.
            mask: [R, all] bool, True at what is no padding (what the cache holds included); [R, L, L] bool:
                which tokens each reads; None: all before it.
            positions: [R, L] int64; None: 0 .. L - 1.
            pictures: [R, L] bool: where pictures are; None: nowhere.
            cache: keys and values of transformers that are read and added to; None: none.
        """
        if self.positions is not None:
            self.positions.set(pictures)
        attention: Tensor | None = mask
        if mask is not None and mask.ndim == 3:
            # Numbers to be added suit every kind of attention; the smallest (in bf16 too) instead of -inf, so
            # that rows that read nothing (padding) stay finite.
            low = max(torch.finfo(inputs.dtype).min, torch.finfo(torch.bfloat16).min)
            attention = torch.zeros(mask.shape, dtype=inputs.dtype, device=mask.device)
            attention = attention.masked_fill(~mask, low)[:, None]
        elif mask is not None:
            attention = mask.long()
        with self.types(inputs.device):
            found: Tensor = self.model.base_model(
                inputs_embeds=inputs,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            ).last_hidden_state
        return found

    def scores(self, states: Tensor) -> Tensor:
        """Return scores of words [.., V] float32 of states [.., D]."""
        with self.types(states.device):
            found: Tensor = self.head(states)
        return found.float()

    @contextlib.contextmanager
    def types(self, device: torch.device) -> Iterator[None]:
        """Multiply in bf16 where weights are kept so, whatever the rest does."""
        if self.config.dtype == "bf16":
            with torch.autocast(device.type, torch.bfloat16):
                yield
        else:
            yield

    def new_cache(self) -> Any:
        """Return an empty cache of keys and values."""
        return transformers().DynamicCache(config=self.model.config)


def is_adapter(name: str) -> bool:
    """Tell whether a parameter is of an adapter, by its name."""
    return "lora_" in name or name.endswith((".down.weight", ".up.weight"))


def _changes(config: LanguageConfig) -> dict[str, Any]:
    """Return settings beside `path`, as transformers takes them."""
    return dict(config.settings)
