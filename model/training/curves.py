"""Plot the curves of a training run: reads `curves.jsonl` and writes a PNG."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PARTS = ("image_text", "patches", "pairs", "ap")
FAMILIES = ("present", "existence", "colour", "count", "where", "when", "last_seen", "order", "left_behind", "room")


def plot_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot a run's reports and write the picture to `path`.

    Left: losses and average precision of the encoders. Right: share of right answers by question family. x: number of
    the report.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    towers = [line for line in lines if line["stage"] == "towers"]
    answers = [line for line in lines if line["stage"] == "answers"]
    for name in PARTS:
        points = [(line["step"], line[name]) for line in towers if name in line]
        left.plot(*zip(*points, strict=True), label=name) if points else None
    for name in FAMILIES:
        points = [(number, line[name]) for number, line in enumerate(answers) if name in line]
        right.plot(*zip(*points, strict=True), label=name) if points else None
    left.set(title="encoders: losses and retrieval AP", xlabel="step", yscale="log")
    right.set(title="right answers on training worlds, by family", xlabel="report", ylim=(0, 1))
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, ncols=2)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Plot the file of curves named on the command line. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curves", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args(argv)
    plot_curves([json.loads(line) for line in args.curves.read_text().splitlines()], args.picture)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
