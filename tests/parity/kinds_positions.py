"""Kind `pos_embed_interp`: resizing a checkpoint's position table by the converter's load rules."""

from tests.parity.runner import Case, Comparison, output

from diptych.blocks.positions import grid_side
from diptych.systems.eve.convert import LoadRules, from_published


def check(case: Case) -> list[Comparison]:
    """Resize each input table to the grid of the output of the same name."""
    done = []
    for name, expected in sorted(case.under("out.").items()):
        table = case.tensors[f"in.{name}"]
        rules = LoadRules(grid=grid_side(len(expected)))
        state = from_published({"backbone.pos_embed_vision": table}, rules).state
        done.append(output(name, state["model.visual.positions"], expected))
    return done
