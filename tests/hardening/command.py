"""The command line of the fuzzers."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

Counts = dict[str, Any]


def main(fuzz: Callable[[int, int], Counts], *, count: int, about: str) -> None:
    """Parse `--count` and `--seed`, run `fuzz(count, seed)`, print its counts and exit.

    The exit status is 1 if the list `failures` in the counts is not empty.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--count", type=int, default=count, help=f"how many inputs (default: {count})")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same inputs (default: 0)")
    args = parser.parse_args()
    counts = fuzz(args.count, args.seed)
    print(json.dumps(counts))
    sys.exit(1 if counts["failures"] else 0)
