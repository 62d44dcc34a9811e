"""`diptych convert internlm2`: checkpoints of InternLM2 as folders of a Llama, for transformers alone."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from diptych.errors import CheckpointError, UsageError
from diptych.systems.importing import ImportOptions, Parts
from diptych.systems.mllm.internlm import to_llama
from diptych.systems.mllm.ixc import heads_of, language_settings, read_tokenizer, read_weights, told_by

_TYPES = {"torch.bfloat16": "bfloat16", "torch.float16": "float16"}


class InternLm2Converter:
    """What `diptych.train.published` calls; it makes no export, but a language model to build on."""

    def read(self, checkpoint: Path, options: ImportOptions) -> Parts:
        """Refuse: a language model alone is nothing that Diptych evaluates.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"{checkpoint}: InternLM2 is a language model alone; "
            f"`diptych convert internlm2 {checkpoint} OUT`, then system.language.path=OUT"
        )

    def publish(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Refuse: use the converter of the whole model.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "internlm2 is converted one way only; `diptych convert ixc2-4khd --to-published` goes back"
        )

    def write_folder(self, checkpoint: Path, out: Path, tokenizer: Path | None) -> list[str]:
        """Write a folder with config.json, model.safetensors and the tokenizer; return the keys left out.

        Args:
            checkpoint: folder with config.json and the files of weights, or one file of weights.
            out: the folder; one that is there is replaced when the new one is whole.
            tokenizer: its tokenizer.json; None: the folder gets none.

        Raises:
            CheckpointError: not readable, or no InternLM2 (partial LoRA has no place in a plain Llama).
            DataError: the tokenizer cannot be read.
        """
        published, told = read_weights(checkpoint), told_by(checkpoint)
        heads = heads_of(published, told, None)
        state, ignored = to_llama(published, heads)
        if any(name.endswith(".down.weight") for name in state):
            raise CheckpointError(
                f"{checkpoint}: it has partial LoRA, so it is InternLM-XComposer2: "
                "`diptych convert ixc2-4khd`"
            )
        words = None if tokenizer is None else read_tokenizer(tokenizer)
        kept = _TYPES.get(str(state["model.norm.weight"].dtype), "float32")
        settings = {
            "architectures": ["LlamaForCausalLM"],
            **language_settings(published, told, heads),
            "dtype": kept,
        }
        aside = out.with_name(f".{out.name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            save_file(
                {n: t.contiguous() for n, t in state.items()}, aside / "model.safetensors", {"format": "pt"}
            )
            (aside / "config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            if words is not None:
                words.save(aside)
            shutil.rmtree(out, ignore_errors=True)
            aside.replace(out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return ignored


CONVERTER = InternLm2Converter()
