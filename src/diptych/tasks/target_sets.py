"""Sets of targets for tasks; they are with the systems, whose pre-training needs them too."""

from diptych.systems.target_sets import Synonyms, Targets

__all__ = ["Synonyms", "Targets"]
