"""Where vision encoders come from: their architecture and weights in a folder or file."""

import json
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from diptych.blocks.video_vit import VideoVitConfig
from diptych.errors import CheckpointError, ConfigError
from diptych.systems.files import read_state_dict
from diptych.systems.mllm.hugging_face import quiet, transformers
from diptych.systems.mllm.vision import TransformersEncoder, VisionConfig, VisionEncoder

_CONFIG, _FACTS, _WEIGHTS = "config.json", "model.yaml", "model.safetensors"
_MODEL = "model."


def read_settings(config: VisionConfig) -> VisionConfig:
    """Return the configuration with `settings` filled in from `path`, where they are empty.

    Raises:
        ConfigError: neither is given.
        CheckpointError: no encoder there.
    """
    if config.kind == "umt":
        if config.path:
            raise ConfigError(
                f"system.vision.path = {config.path}: weights of kind umt come with init_from (a run or "
                "export of system qformer, or what `diptych convert` makes of published files); leave the "
                "path empty"
            )
        sizes = VideoVitConfig.model_validate(config.settings)
        return config.with_(settings=sizes.model_dump(mode="json"))
    if config.settings:
        return config
    if not config.path or config.kind == "timm":
        raise ConfigError(
            "system.vision: give path, or settings (for timm the arguments of create_model: "
            "{model_name: vit_base_patch16_224})"
        )
    folder = Path(config.path)
    settings = _read_json(folder / _CONFIG) if config.kind == "transformers" else _system(folder)
    return config.with_(settings=settings)


def load_weights(encoder: VisionEncoder, config: VisionConfig) -> None:
    """Fill an encoder from `path`.

    Raises:
        CheckpointError: not readable, or weights of another architecture.
    """
    path, inner = Path(config.path), encoder.get_submodule("model")
    if config.kind == "transformers":
        assert isinstance(encoder, TransformersEncoder)
        state = _of_transformers(path)
    elif config.kind == "timm":
        state = read_state_dict(path)
    else:
        found = read_state_dict(_export(path) / _WEIGHTS)
        state = {name.removeprefix(_MODEL): t for name, t in found.items() if name.startswith(_MODEL)}
    if isinstance(encoder, TransformersEncoder) and encoder.norm is not None:
        _fill_norm(encoder, state, path)
    own = inner.state_dict()
    lacking = sorted(name for name in own if name not in state)
    wrong = sorted(name for name in own if name in state and own[name].shape != state[name].shape)
    if lacking or wrong:
        raise CheckpointError(
            f"system.vision.path = {path}: its weights do not fit the encoder (missing: {lacking[:4]}; "
            f"of another shape: {wrong[:4]})"
        )
    inner.load_state_dict({name: state[name] for name in own})


def _fill_norm(encoder: TransformersEncoder, state: dict[str, Tensor], path: Path) -> None:
    """Fill the last norm, which stands beside the model, from its place behind the layers."""
    assert encoder.norm is not None
    wanted = set(encoder.norm.state_dict())
    for name in ("post_layernorm", "layernorm", "norm"):
        found = {key.removeprefix(f"{name}."): t for key, t in state.items() if key.startswith(f"{name}.")}
        if found.keys() == wanted:
            encoder.norm.load_state_dict(found)
            return
    raise CheckpointError(
        f"system.vision.path = {path}: no weights of the last norm (system.vision.final_norm)"
    )


def _of_transformers(folder: Path) -> dict[str, Tensor]:
    library = transformers()
    if not (folder / _CONFIG).is_file():
        raise CheckpointError(f"system.vision.path = {folder}: expected a folder with {_CONFIG} and weights")
    try:
        with quiet():
            model = library.AutoModel.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"system.vision.path = {folder}: cannot be read ({reason})") from error
    tower = getattr(model, "vision_model", model)
    state: dict[str, Tensor] = tower.state_dict()
    return state


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); expected the configuration of an encoder of transformers"
        ) from error
    if not isinstance(found, dict) or "model_type" not in found:
        raise CheckpointError(f"{path}: expected an object with model_type")
    return found


def _export(folder: Path) -> Path:
    """Return the export that a folder is or holds."""
    found = next((f for f in (folder, folder / "export") if (f / _FACTS).is_file()), None)
    if found is None:
        raise CheckpointError(
            f"system.vision.path = {folder}: expected an export of Diptych ({_FACTS} with {_WEIGHTS}) or a "
            "finished run"
        )
    return found


def _system(folder: Path) -> dict[str, Any]:
    path = _export(folder) / _FACTS
    try:
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); export the model again") from error
    system = facts.get("system") if isinstance(facts, dict) else None
    if not isinstance(system, dict):
        raise CheckpointError(f"{path}: expected the settings of a model with a section `system`")
    return system
