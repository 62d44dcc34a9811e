"""Which experts served an evaluation, as it is written down."""

from typing import Any

from diptych.blocks.collective import ALONE, World
from diptych.systems.protocol import VisionLanguageModel


def routing_layers(model: VisionLanguageModel, world: World = ALONE) -> dict[str, Any]:
    """Return the content of experts.json by its name, summed over ranks; nothing without experts."""
    counts: dict[int, list[list[int]]] = {}
    for stats in world.collect(model.routing()):
        known = counts.get(stats.layer, [[0] * len(stats.image), [0] * len(stats.text)])
        counts[stats.layer] = [
            [a + b for a, b in zip(old, new, strict=True)]
            for old, new in zip(known, (stats.image, stats.text), strict=True)
        ]
    layers = [{"layer": layer, "image": image, "text": text} for layer, (image, text) in counts.items()]
    return {"experts": {"layers": layers}} if layers else {}
