"""How long `import diptych` and `diptych --help` take, beside an empty interpreter and `import torch`.

Run with `python benchmarks/startup.py [--json FILE] [--repeats N]`. Goals: under 0.5 s and under 1 s.
The fastest of N runs counts: other work on the machine only ever adds time.
"""

import argparse
import subprocess
import sys
import time

from reporting import add_json, report, versus

HELP = ["-c", "import sys; from diptych.cli.main import run; sys.exit(run(['--help']))"]
MEASURED = [("import diptych", ["-c", "import diptych"]), ("diptych --help", HELP)]
PEERS = [("python -c pass", ["-c", "pass"]), ("import torch", ["-c", "import torch"])]


def fastest(arguments: list[str], repeats: int) -> float:
    """Return the seconds of the fastest of several runs of the interpreter with these arguments."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure, print the table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_json(parser)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    peers = {name: fastest(arguments, options.repeats) for name, arguments in PEERS}
    rows = [
        versus(name, fastest(arguments, options.repeats), seconds, "s", peer, less=True)
        for name, arguments in MEASURED
        for peer, seconds in peers.items()
    ]
    report(rows, options.json)


if __name__ == "__main__":
    main()
