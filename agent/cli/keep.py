"""`vilamp memory`, `vilamp erase` and `vilamp export`. They use a running agent, or its data folder if none runs."""

import argparse
import json
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from agent.alerts.store import ALERTS_FILE, AlertStore, erase_from_alerts
from agent.cli.ask import advise, checked_camera, connect, server_named, server_of, window_of, zone_of
from agent.cli.client import Client, ServerError, understood
from agent.cli.common import EXIT_USAGE, CliError, say, settings_of
from agent.keep.caps import this_machine
from agent.keep.erasing import Erasing, NotErasedYet, Request
from agent.keep.export import NothingToExport, TooManyFrames, export, log_text
from agent.keep.holdings import memory_summary
from agent.settings.settings import Settings
from agent.times import format_time
from agent.untrusted.plain import plain_json, plain_line
from memory.errors import StorageBusy, StorageError
from memory.offline import OfflineMemory


@contextmanager
def opened(args: argparse.Namespace, settings: Settings, scope: str) -> Iterator[Client | OfflineMemory]:
    """Context manager: yield a client of the running agent, or its memory on disk if no agent runs. Raises CliError.

    If the user named an agent that cannot be reached, that is an error, and the memory on disk is not opened.
    """
    named = server_named(args)
    server = named or server_of(settings)
    with connect(server, settings, scope) as client:
        try:
            client.get_json("/v1/memory")
        except ServerError as error:
            if named or error.status is not None:
                raise CliError(advise(error, server)) from error
        else:
            try:
                with understood():
                    yield client
            except ServerError as error:
                raise CliError(advise(error, server)) from error
            return
    try:
        with OfflineMemory(settings.data_dir / "memory") as memory:
            yield memory
    except StorageBusy as error:
        raise CliError(f"{error}, but no agent answers at {server}: name it with --server") from error
    except StorageError as error:
        raise CliError(f"no agent answers at {server}, and {error} (--data-dir, --server)") from error


def run_memory(args: argparse.Namespace) -> int:
    """Print what is stored for each camera. Return the exit code. Raises CliError."""
    settings, zone = settings_of(args), zone_of(args)
    with opened(args, settings, "ask") as source:
        if isinstance(source, Client):
            held = source.get_json("/v1/memory")
        else:
            free_bytes = shutil.disk_usage(settings.data_dir).free
            stats = {name: source.stats(name) for name in source.cameras()}
            held = memory_summary(stats, settings, this_machine(settings.data_dir), free_bytes)
        if args.json:
            say(plain_json(held))
        else:
            print_held(held, zone)
    return 0


def print_held(held: dict[str, Any], zone: str) -> None:
    """Print a table of what is stored (`held`, the JSON of `GET /v1/memory`), with one line per camera and a total."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("camera", "frames", "encoded", "hot", "archive", "size", "oldest", "newest", "a day", "of its caps"):
        table.add_column(name, justify="left" if name in ("camera", "oldest", "newest") else "right", no_wrap=True)
    for each in held["data"]:
        counts = [f"{each[name]:,}" for name in ("frames", "encoded", "hot", "archive")]
        oldest, newest = (_when(each[name], zone) for name in ("oldest", "newest"))
        per_day = "-" if each["bytes_per_day"] is None else size_text(each["bytes_per_day"])
        use = Text(f"{each['cap_use']:.0%} ({plain_line(each['cap'])})")
        table.add_row(Text(plain_line(each["camera"])), *counts, size_text(each["bytes"]), oldest, newest, per_day, use)
    folder = held["folder"]
    table.add_row("all", f"{folder['frames']:,}", "", "", "", size_text(folder["bytes"]), "", "", "", "")
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for each in held["data"]:
        say(plain_line(each["reach"]))
    caps = {"frames": folder["max_frames"], "bytes": folder["max_bytes"] and size_text(folder["max_bytes"])}
    named = [f"{value:,} {name}" if name == "frames" else str(value) for name, value in caps.items() if value]
    if named:
        say(f"together at most {' and '.join(named)}")


def _when(moment: float | None, zone: str) -> str:
    return "-" if moment is None else format_time(moment, zone)


def size_text(num_bytes: float) -> str:
    """Return a size as text with a unit: "1.5 KiB" for 1536."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def run_erase(args: argparse.Namespace) -> int:
    """Ask the user to confirm, then erase the frames. Return the exit code. Raises CliError."""
    settings = settings_of(args)
    zone = zone_of(args, settings=settings)
    after, before = window_of(args, zone, time.time(), settings)
    if args.all == (after is not None or before is not None) or (not args.all and None in (after, before)):
        raise CliError("give both --after and --before, or --all for everything of this camera", EXIT_USAGE)
    request = Request(checked_camera(args.camera), after, before)
    span = "everything" if args.all else f"what was seen from {_when(after, zone)} to {_when(before, zone)}"
    if not args.yes:
        confirm(f"Erase {span} of camera {request.camera}, for good? [y/N] ")
    with opened(args, settings, "admin") as source:
        erased = _erase(source, settings, request)
    counts = ", ".join(f"{plain_line(name)} {plain_line(count)}" for name, count in erased.items())
    say(plain_json({"camera": request.camera, "erased": erased}) if args.json else f"erased: {counts}")
    return 0


def confirm(question: str) -> None:
    """Ask the user a yes-or-no question on the terminal. Raise CliError unless the answer is yes."""
    if not sys.stdin.isatty():
        raise CliError("there is no terminal to ask for confirmation: give --yes", EXIT_USAGE)
    if input(question).strip().lower() not in ("y", "yes"):
        raise CliError("nothing was erased")


def _erase(source: Client | OfflineMemory, settings: Settings, request: Request) -> dict[str, Any]:
    if isinstance(source, Client):
        bounds = {"after": request.after, "before": request.before}
        given = {name: value for name, value in bounds.items() if value is not None}
        query = urlencode(given or {"all": "true"})
        answer = source.send_json("DELETE", f"/v1/cameras/{quote(request.camera)}/frames?{query}")
        return dict(answer["erased"])
    if request.camera not in source.cameras():
        raise CliError(f'no frames of a camera "{request.camera}" are stored')
    erasing = Erasing(settings.data_dir, newest=lambda camera: source.stats(camera).newest)
    erasing.add("frames", source.erase)
    alert_store = AlertStore(settings.data_dir / ALERTS_FILE) if (settings.data_dir / ALERTS_FILE).exists() else None
    try:
        if alert_store is not None:
            erasing.add("alerts", erase_from_alerts(alert_store))
        # the agent clears retained MQTT messages about these frames at its next start
        return erasing.erase(request, again=True)
    except NotErasedYet as error:
        raise CliError(f"{error} (at the next start, or by running this again)") from error
    finally:
        if alert_store is not None:
            alert_store.close()


def run_export(args: argparse.Namespace) -> int:
    """Write the frames as a video, and beside it a JSON log that lists them. Return the exit code. Raises CliError."""
    settings, now = settings_of(args), time.time()
    after, before = window_of(args, zone_of(args, settings=settings), now, settings)
    if after is None:
        raise CliError("give --after, and --before unless the span ends now", EXIT_USAGE)
    video: Path = args.out
    if video.suffix != ".mp4":
        raise CliError(f'"{video}" must end in .mp4; the log is written beside it as .json', EXIT_USAGE)
    window = (after, now if before is None else before)
    try:
        with opened(args, settings, "ask") as source:
            log = _export(source, settings, checked_camera(args.camera), window, video, now)
        video.with_suffix(".json").write_text(log, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{video} cannot be written: {error.strerror or error}") from error
    written = json.loads(log)
    say(f"{video}: {len(written['frames'])} frames; log: {video.with_suffix('.json')}")
    if written["missing"]:
        say(f"{len(written['missing'])} frames could not be read; the log names them", file=sys.stderr)
    return 0


def _export(
    source: Client | OfflineMemory,
    settings: Settings,
    camera: str,
    window: tuple[float, float],
    video: Path,
    now: float,
) -> str:
    """Write the frames of the time window to `video`, and return the text of the JSON log that lists them."""
    if isinstance(source, OfflineMemory):
        zone = settings.camera(camera).timezone
        try:
            return log_text(export(source, camera, *window, zone=zone, now=now, video=video))
        except (NothingToExport, TooManyFrames) as error:
            raise CliError(str(error)) from error
    query = urlencode({"after": window[0], "before": window[1]})
    with tempfile.TemporaryDirectory(dir=video.parent, prefix=".vilamp-") as folder:
        archive = Path(folder) / "clip.zip"
        source.download(f"/v1/cameras/{quote(camera)}/export?{query}", archive)
        with zipfile.ZipFile(archive) as parts:
            names = {Path(name).suffix: name for name in parts.namelist()}
            Path(parts.extract(names[".mp4"], folder)).replace(video)
            return parts.read(names[".json"]).decode()
