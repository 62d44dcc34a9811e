"""The libraries of Hugging Face, imported on first use: Diptych starts, and does all else, without them."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from diptych.errors import UsageError


def transformers(*others: str) -> ModuleType:
    """Return the library `transformers`; `others` have to be there too.

    Raises:
        UsageError: one of them is not installed.
    """
    found = [_imported(name) for name in ("transformers", *others)]
    return found[0]


def peft() -> ModuleType:
    """Return the library `peft`.

    Raises:
        UsageError: it is not installed.
    """
    return _imported("peft")


def timm() -> ModuleType:
    """Return the library `timm`.

    Raises:
        UsageError: it is not installed.
    """
    return _imported("timm")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and notes of transformers from the terminal."""
    logging = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _imported(name: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"system mllm needs the library {name} ({error}); install it with pip install 'diptych[mllm]' "
            f"(timm is not among these: pip install timm)"
        ) from error
