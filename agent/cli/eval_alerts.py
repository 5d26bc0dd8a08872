"""`vilamp eval-alerts`: measure how well alert rules work on simulated video, and print tables, write JSON or plot.

The video shows a simulated world, in which every event is known. Each rule is measured in three variants: with only its
gate (the cheap score of each frame), with only its judge (the language model), and with both.
"""

import argparse
import asyncio
import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.common import CliError

if TYPE_CHECKING:
    from rich.console import Console

    from model.video_model import VideoModel

ARM_NAMES = {"gate": "gate only", "judge": "judge only", "both": "both"}


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, and write the JSON and the chart if requested. Return 0. Raises CliError."""
    from rich.console import Console

    model = _model(args)
    report = {"model": model.info.name, "machine": _machine(), **_evaluate(model, args)}
    print_report(Console(), report)
    try:
        if args.json is not None:
            args.json.write_text(json.dumps(report) + "\n", encoding="utf-8")
        if args.plot is not None:
            plot(report, args.plot)
    except OSError as error:
        raise CliError(f"{error.filename}: cannot be written: {error.strerror}") from error
    return 0


def _evaluate(model: "VideoModel", args: argparse.Namespace) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from agent.evaluation.alerts import evaluate
    from agent.settings.rules import GateSettings

    tasks: dict[str, TaskID] = {}
    with Progress(console=Console(stderr=True)) as progress:

        def on_step(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        num_frames, alone = round(60 * args.minutes), round(60 * args.judge_only_minutes)
        return asyncio.run(
            evaluate(model, args.seeds, num_frames, gate=GateSettings(), judge_alone_frames=alone, on_step=on_step)
        )


def _model(args: argparse.Namespace) -> "VideoModel":
    from agent.ask.model import load_model
    from agent.settings.settings import ModelSettings, Settings
    from model.video_model import VideoModel

    try:
        model = load_model(Settings(model=ModelSettings(path=args.model, num_threads=args.num_threads)))
    except (OSError, ValueError) as error:
        raise CliError(f"{args.model}: {error}") from error
    if not isinstance(model, VideoModel):
        raise CliError(f"{args.model} has no language model that could judge")
    return model


def _machine() -> dict[str, Any]:
    """Return the processor, cores, threads and load of this machine, on which the times were measured."""
    from model.machine import torch_threads

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch_threads(),
        "load_1min": load,
    }


def print_report(console: "Console", report: dict[str, Any]) -> None:
    """Print two tables of the results: by variant (gate only, judge only, both), and by type of rule for both."""
    from rich.table import Table

    title = f"{report['minutes']:g} minutes of worlds {', '.join(map(str, report['seeds']))}, one rule at a time"
    columns = ("", "rule hours", "events", "recall", "false alerts / h", "judge calls", "delay median / p95 / max")
    arms = Table(*columns, title=title)
    for name, figures in report["arms"].items():
        arms.add_row(ARM_NAMES[name], *_row(figures))
    console.print(arms)
    rules = Table(*columns, title="gate and judge, by type of rule")
    for name, figures in report["arms"]["both"]["by_rule"].items():
        rules.add_row(name, *_row(figures))
    console.print(rules)


def _row(figures: dict[str, Any]) -> list[str]:
    recall = "-" if figures["recall"] is None else f"{figures['recall']:.1%}"
    delay = figures["delay_s"]
    times = "-" if delay["max"] is None else f"{delay['median']:.1f} / {delay['p95']:.1f} / {delay['max']:.1f} s"
    return [
        f"{figures['rule_hours']:.1f}",
        str(figures["events"]),
        recall,
        f"{figures['false_alerts_per_rule_hour']:.2f}",
        f"{figures['judge_share']:.1%}",
        times,
    ]


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw a chart into the file `path`. Raises CliError.

    The chart shows the score of a rule's gate (how unusual the similarity is) over time beside the true events, and how
    results depend on the gate's threshold.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise CliError("--plot needs matplotlib: pip install matplotlib") from None
    traces = report["traces"]
    figure = Figure(figsize=(11, 2.4 * len(traces) + 3.2), layout="constrained")
    axes = figure.subplots(len(traces) + 1, 1)
    for each, axis in zip(traces, axes, strict=False):
        _plot_trace(axis, each, report["gate"])
    _plot_sweep(axes[-1], report)
    figure.savefig(path, dpi=110)


def _plot_trace(axis: Any, trace: dict[str, Any], gate: dict[str, float]) -> None:
    minutes = [second / 60 for second in range(len(trace["scores"]))]
    axis.plot(minutes, [max(score, 0.5) for score in trace["scores"]], lw=0.8)
    for start, last in trace["events"]:
        axis.axvspan(start / 60, last / 60, color="tab:orange", alpha=0.4)
    axis.axhline(gate["on"], color="tab:red", lw=0.8, ls="--")
    axis.set(title=f'world {trace["seed"]}: "{trace["condition"]}" (orange: true events; dashed: gate.on)')
    axis.set(xlabel="minutes", ylabel="gate score", yscale="log")


def _plot_sweep(axis: Any, report: dict[str, Any]) -> None:
    rows = report["sweep"]
    on = [row["on"] for row in rows]
    axis.plot(on, [100 * row["recall_in_time"] for row in rows], "o-", label="events at which it is open in time, %")
    axis.plot(on, [row["openings_per_hour"] for row in rows], "s-", label="openings per hour")
    axis.plot(on, [100 * row["open_share"] for row in rows], "^-", label="frames at which it is open, %")
    axis.axvline(report["gate"]["on"], color="tab:red", lw=0.8, ls="--")
    axis.set(
        title="what the gate's threshold does (dashed: the default)", xlabel="gate.on", xscale="log", ylim=(0, 105)
    )
    axis.set_xticks(on, [f"{value:g}" for value in on])
    axis.set_xticks([], minor=True)
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
