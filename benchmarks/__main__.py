"""Run all benchmarks one after another, in a short form of a few minutes or (`--full`) as docs/benchmarks.md shows them.

    python -m benchmarks [--full] [--out out/benchmarks] [--only selection cameras]

Each runs in its own process, so that none inherits the memory, caches or threads of another.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One call of one script. `short` holds further arguments of the short form."""

    name: str
    module: str
    always: str = ""
    short: str = ""
    writes: bool = True
    one_thread: bool = False


BENCHMARKS = (
    Benchmark("memory", "memory", short="--frames 1000 10000", one_thread=True),
    Benchmark("selection", "selection", short="--repeats 7", one_thread=True),
    Benchmark("answering", "answering", short="--drawn 60 --threads 1 --repeats 3"),
    Benchmark("recompute", "against_recompute", short="--frames 100 300 --repeats 1"),
    Benchmark(
        "published_shape",
        "published_shape",
        "--scale 16 --threads 1",
        short="--frames 256 --most-tokens 0 --batch 1 --repeats 1",
    ),
    Benchmark("cameras", "cameras", short="--settle 8 --seconds 20"),
    Benchmark("flood", "cameras", "--flood", short="--settle 30 --seconds 45"),
    Benchmark("fixed_camera", "fixed_camera", short="--seeds 11 --frames 300 --worlds 1"),
    Benchmark("needles", "needles", short="--seeds 11 --sizes 300 600 --per-bin 5 --repeats 1"),
    Benchmark("pointing", "pointing", short="--seeds 11 --worlds 2 --seconds 90"),
    Benchmark("ablations", "ablations", short="--seeds 11 --worlds 1 --frames 300 --questions 5"),
    Benchmark("askers", "askers", short="--seconds 0.2 --judge-seconds 0.1"),
    Benchmark("timeline", "timeline", short="--frames 1000"),
    Benchmark("ingest", "ingest", short="--seconds 10 --only clients"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the long form")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"), help="where JSON and plots go")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in BENCHMARKS], metavar="NAME")
    args = parser.parse_args()
    chosen = [each for each in BENCHMARKS if not args.only or each.name in args.only]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failed = []
    with Progress(*columns, console=Console()) as progress:
        bar = progress.add_task("benchmarks", total=len(chosen))
        for benchmark in chosen:
            progress.update(bar, description=benchmark.name)
            progress.console.rule(benchmark.name)
            if run(benchmark, args.full, args.out, progress.console):
                failed.append(benchmark.name)
            progress.advance(bar)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def run(benchmark: Benchmark, full: bool, out: Path, console: Console) -> int:
    """Run one benchmark and show its output above the progress bar. Returns its exit code."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark.module}", *benchmark.always.split()]
    command += [] if full else benchmark.short.split()
    command += ["--out", str(out)] if benchmark.writes else []
    environ = {**os.environ, **(ONE_THREAD if benchmark.one_thread else {})}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout or ():
        console.print(line.rstrip(), markup=False, highlight=False)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
