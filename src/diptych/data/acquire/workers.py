"""What the workers of a fetch are copied from. Importing this is cheap: a command begins with it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diptych.data.engines.origin import Origin

FORMS = frozenset({"webvid", "internvid", "didemo"})
"""Published lists that are about videos."""


def origin_of_workers(*, video: bool = False) -> "Origin":
    """Return what workers of a fetch are copied from; begun early, it loads what they need in the meantime.

    Args:
        video: the list is about videos.
    """
    from diptych.data.engines.origin import Origin

    media = "video_fetching" if video else "pictures"
    return Origin(("diptych.data.acquire.working", f"diptych.data.acquire.{media}"))
