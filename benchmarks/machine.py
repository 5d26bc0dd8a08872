"""Helpers of all benchmarks: a description of the machine, timing of calls, and the files of results.

Results go to docs/measured (with `--out OUT`: OUT/measured) as JSON, plots to docs/pictures (OUT/pictures). The JSON holds
the date, the machine, the number of threads and the load beside the measured values.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def cpu_name() -> str:
    """Return the CPU's model name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the option --out, which every benchmark with results has."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("docs"),
        help="JSON goes to OUT/measured, plots to OUT/pictures (default: docs)",
    )


def measured_path(out: Path, name: str) -> Path:
    """Path of a JSON file with results below the folder `out`. Creates its folder."""
    return _inside(out / "measured", name)


def picture_path(out: Path, name: str) -> Path:
    """Path of a plot below the folder `out`. Creates its folder."""
    return _inside(out / "pictures", name)


def _inside(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def machine(**more: Any) -> dict[str, Any]:
    """Describe hardware, software and the load of the last minute."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_1min_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **more,
    }


def show(machine: Mapping[str, Any]) -> None:
    """Print it in one line."""
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)


def write_result(path: Path, machine: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Write JSON to `path`, with the date of the measurement."""
    path.parent.mkdir(parents=True, exist_ok=True)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    path.write_text(json.dumps({"when": when, "machine": machine, "measured": measured}, indent=1) + "\n")
    print(f"written to {path}")


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def summary_ms(seconds: list[float]) -> dict[str, float]:
    """Return median, best and worst of single calls, in milliseconds."""
    values = 1000 * np.array(seconds)
    return {
        "median_ms": round(float(np.median(values)), 2),
        "best_ms": round(float(values.min()), 2),
        "worst_ms": round(float(values.max()), 2),
        "repeats": len(seconds),
    }


def report(name: str, summary: Mapping[str, float]) -> None:
    """Print one line of a `summary_ms`."""
    best, worst = summary["best_ms"], summary["worst_ms"]
    print(f"  {name:40} {summary['median_ms']:10.2f} ms   (best {best:.2f}, worst {worst:.2f})", flush=True)
