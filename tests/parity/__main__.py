"""`python -m tests.parity DIR`: compare Diptych with recorded outputs of the original implementations."""

import argparse
import sys
from pathlib import Path

from tests.parity.runner import Tolerances, run_directory


def main(arguments: list[str] | None = None) -> int:
    """Run every case of the directories; return 0 if all pass, 1 on any miss, 2 without cases."""
    standard = Tolerances()
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="folder with <case>.json files"
    )
    parser.add_argument("--tolerance", type=float, default=standard.output, help="outputs, absolute")
    parser.add_argument("--loss-tolerance", type=float, default=standard.loss, help="losses, relative")
    parser.add_argument(
        "--gradient-tolerance", type=float, default=standard.gradient, help="gradients, relative"
    )
    options = parser.parse_args(arguments)
    tolerances = Tolerances(options.tolerance, options.loss_tolerance, options.gradient_tolerance)
    run = missed = 0
    for directory in options.directories:
        for verdict in run_directory(directory):
            print(verdict.line(tolerances), flush=True)
            for comparison in verdict.misses(tolerances):
                print(f"      {comparison.sort} {comparison.what}: {comparison.error:.3e}")
            run, missed = run + 1, missed + (not verdict.passed(tolerances))
    if not run:
        print(f"no cases (*.json) in {', '.join(map(str, options.directories))}", file=sys.stderr)
        return 2
    print(f"{run - missed} of {run} cases pass")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
