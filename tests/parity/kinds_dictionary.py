"""Kind `visual_dictionary` of SOHO: nearest codes, and the moving averages over several steps.

Cases of two ranks are run as one process on the joined batch, which has to give the same; tests/blocks has
the two processes.
"""

from collections.abc import Mapping

import torch
from tests.parity.runner import Case, Comparison, exact, gradient, output
from torch import Tensor

from diptych.blocks.dictionary import DictionaryConfig, VisualDictionary
from diptych.systems.soho.convert import DICTIONARY


def build(case: Case) -> VisualDictionary:
    """Build the dictionary of a case with its buffers."""
    config = case.meta["config"]
    rule = DictionaryConfig(codes=config["num_tokens"], decay=config["decay"], eps=config.get("eps", 1e-5))
    dictionary = VisualDictionary(config["token_dim"], rule.published())
    dictionary.load_state_dict({DICTIONARY[name]: tensor for name, tensor in case.under("w.").items()})
    return dictionary.train(config.get("mode", "train") == "train")


def joined(tensors: Mapping[str, Tensor], name: str, ranks: int) -> Tensor:
    """Return a tensor of a step, or those of its ranks one behind the other."""
    if ranks == 1:
        return tensors[name]
    return torch.cat([tensors[f"rank{rank}.{name}"] for rank in range(ranks)])


def check_step(
    dictionary: VisualDictionary,
    given: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    name: str,
    ranks: int,
) -> list[Comparison]:
    """Run a step and compare what it returns, its gradient and the buffers behind it."""
    x = joined(given, "x", ranks).clone().requires_grad_()
    found = dictionary(x)
    done = [
        output(f"{name}quantize", found.vectors, joined(expected, "quantize", ranks)),
        exact(f"{name}indices", found.indices, joined(expected, "indices", ranks)),
    ]
    if "x" in wanted:
        (found.vectors * given["cotangent"]).sum().backward()
        done.append(gradient(f"{name}x", x.grad, wanted["x"]))
    buffers = {theirs: getattr(dictionary, ours) for theirs, ours in DICTIONARY.items()}
    return done + [output(f"{name}{b}", t, expected[b]) for b, t in buffers.items() if b in expected]


def check(case: Case) -> list[Comparison]:
    """Compare every step of the case."""
    config = case.meta["config"]
    dictionary, ranks = build(case), config.get("world_size", 1)
    names = [f"step{i}." for i in range(config["steps"])] if "steps" in config else [""]
    return [
        c
        for name in names
        for c in check_step(
            dictionary,
            case.under(f"in.{name}"),
            case.under(f"out.{name}"),
            case.under(f"grad.{name}"),
            name,
            ranks,
        )
    ]
