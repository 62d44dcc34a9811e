"""Rebuild the shipped emoji table: `python -m diptych.data.cards.emoji_build --raw DIR --out FILE`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diptych.data.cards.emoji_raw import read_raw
from diptych.data.cards.sprites import SHIPPED_SIZE, write_parquet
from diptych.errors import DiptychError

MAX_BYTES = 8 * 10**6
"""What the package may carry as built-in data."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m diptych.data.cards.emoji_build", description=__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder with the npm packages")
    parser.add_argument("--out", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--size", type=int, default=SHIPPED_SIZE, help="side of the pictures in pixels")
    options = parser.parse_args(arguments)
    try:
        concepts = list(read_raw(options.raw, options.size))
    except DiptychError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    write_parquet(concepts, options.out)
    written = options.out.stat().st_size
    sys.stdout.write(f"{options.out}: {len(concepts)} concepts, {written} bytes\n")
    if options.size == SHIPPED_SIZE and written > MAX_BYTES:
        sys.stderr.write(f"error: more than the {MAX_BYTES} bytes that may ship; lower WEBP_QUALITY\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
