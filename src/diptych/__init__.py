"""Diptych: vision-language pre-training, from raw datasets to reports."""

TYPE_CHECKING = False  # as in `typing`, whose import alone would cost more than all of this
if TYPE_CHECKING:
    from diptych.api import Answer as Answer
    from diptych.api import LoadedModel as LoadedModel
    from diptych.api import load as load

__version__ = "0.1.0"

_API = ("Answer", "LoadedModel", "load")


def __getattr__(name: str) -> object:
    """Import the parts of `diptych.api` on first use: `import diptych` alone stays cheap."""
    if name in _API:
        from importlib import import_module

        return getattr(import_module("diptych.api"), name)
    raise AttributeError(f"module 'diptych' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
