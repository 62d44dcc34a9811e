"""Kind `randaugment_ops`: every operation of RandAugment on one picture, byte for byte."""

from tests.parity.runner import Case, Comparison, exact, output

from diptych.data.randaugment import FILL, apply_operation

FAULTY = ("AutoContrast", "Sharpness")
"""Recorded with the faults of the published code, so compared with the option that has them."""


def check(case: Case) -> list[Comparison]:
    """Apply each recorded operation with its recorded strength (or none) to the recorded picture."""
    image = case.tensors["in.image"].permute(2, 0, 1)[None]
    done = [exact("fill", case.meta["fill"], [FILL] * 3)]
    for label, arguments in sorted(case.meta["op_args"].items()):
        name = label.split(".")[0]
        strength = arguments[0] if arguments else 0.0
        ours = apply_operation(image, name, strength, published=name in FAULTY)[0].permute(1, 2, 0)
        done.append(output(label, ours, case.tensors[f"out.{label}"]))
    return done
