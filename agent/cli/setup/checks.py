"""Checks of this machine for a set-up: disk and reach of the memory, MQTT broker, clock and ports."""

import ctypes
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiomqtt

from agent.cli.setup.findings import Finding
from agent.keep.caps import this_machine
from agent.keep.disk import disk_problem
from agent.keep.holdings import memory_summary
from agent.keep.reach import DAY_S, reach_words, reaches
from agent.runtime.unreachable import why_unreachable
from agent.settings.mqtt import EMBEDDED, MqttSettings
from agent.settings.settings import Settings
from agent.web.server import CannotListen, listening
from memory.errors import StorageError
from memory.offline import OfflineMemory
from memory.records import CameraStats

EARLIEST = 1_704_067_200.0  # 2024-01-01: a clock that shows an earlier time was never set
MQTT_TIMEOUT_S = 5.0
_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2): nothing steers the clock
_TIMEX_BYTES = 512  # more than any architecture's struct timex has


def clock_finding() -> Finding:
    """Return whether this machine's clock is set, and steered by NTP."""
    if time.time() < EARLIEST:
        return Finding("clock", "clock", "error", "the system clock has not been set", "set it, or switch NTP on")
    if _is_unsteered():
        return Finding("clock", "clock", "warning", "nothing keeps the system clock right", "switch NTP on")
    return Finding("clock", "clock", "ok", "set")


def _is_unsteered() -> bool:
    """Return whether Linux says that no NTP client steers the clock. False where that is not known."""
    with suppress(OSError, AttributeError):
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))) == _UNSYNCHRONISED
    return False


def port_findings(settings: Settings) -> Iterator[Finding]:
    """Yield whether the ports that the agent will listen on are free."""
    try:
        listening(settings).close()
        yield Finding("ports", "port", "ok", f"{settings.host}:{settings.port} is free")
    except CannotListen as error:
        yield Finding("ports", "port", "error", str(error), "stop what uses the port, or set port")
    if settings.mqtt.url == EMBEDDED and settings.mqtt.embedded_port:
        where = f"{settings.mqtt.embedded_host}:{settings.mqtt.embedded_port}"
        try:
            socket.create_server((settings.mqtt.embedded_host, settings.mqtt.embedded_port)).close()
            yield Finding("ports", "embedded broker", "ok", f"{where} is free")
        except OSError as error:
            words = f"{where}: {error.strerror or error}"
            yield Finding("ports", "embedded broker", "error", words, "set mqtt.embedded_port, or use that broker")


def disk_findings(settings: Settings) -> Iterator[Finding]:
    """Yield whether the data folder can be written and has room."""
    folder = _existing(settings.data_dir)
    problem = disk_problem(folder)
    if problem is not None:
        advice = "free space there, or set data_dir to a folder that this user may write"
        yield Finding("disk", "disk", "error", f"{folder}: {problem}", advice)
        return
    usage = shutil.disk_usage(folder)
    words = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB free in {settings.data_dir}"
    yield Finding("disk", "disk", "ok", words)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.absolute().parents) if each.is_dir())


def stored(settings: Settings) -> dict[str, Any]:
    """Return what the data folder holds, like `GET /v1/memory` of a running agent."""
    stats: dict[str, CameraStats] = {}
    with suppress(StorageError), OfflineMemory(settings.data_dir / "memory") as memory:
        stats = {name: memory.stats(name) for name in memory.cameras()}
    free_bytes = shutil.disk_usage(_existing(settings.data_dir)).free
    return memory_summary(stats, settings, this_machine(settings.data_dir), free_bytes)


def reach_findings(held: dict[str, Any], settings: Settings) -> Iterator[Finding]:
    """Yield how far back each camera's memory reaches and will reach. held: the JSON of `GET /v1/memory`."""
    oldest = {each["camera"]: each["oldest"] for each in held["data"]}
    machine = this_machine(settings.data_dir)
    for name, reach in reaches(held["data"], settings, machine, held["folder"]["free_bytes"]).items():
        words = reach_words(name, oldest.get(name), reach, settings.camera(name).timezone)
        short = reach.will_s < DAY_S
        raised = {"a share of the disk": "set memory.max_bytes", "free disk space": "free disk space"}
        advice = raised.get(reach.limit, f"raise {reach.limit}") if short and reach.limit != "keep" else ""
        yield Finding("memory", f"memory {name}", "warning" if advice else "ok", words, advice)


async def mqtt_finding(settings: MqttSettings) -> Finding:
    """Return whether the broker accepts a connection with the configured login. `settings.url` must be set."""
    if settings.url == EMBEDDED:
        return Finding("mqtt", "mqtt", "ok", "the embedded broker starts with the agent")
    host, port = settings.address()
    version = aiomqtt.ProtocolVersion.V5 if settings.version == "5" else aiomqtt.ProtocolVersion.V311
    try:
        async with aiomqtt.Client(
            host,
            port,
            username=settings.user,
            password=settings.secret(),
            protocol=version,
            tls_context=settings.tls_context(),
            timeout=MQTT_TIMEOUT_S,
        ):
            return Finding("mqtt", "mqtt", "ok", f"{host}:{port} accepts the connection")
    except (aiomqtt.MqttError, OSError, ValueError) as error:
        why = why_unreachable(error) or str(error)
        return Finding("mqtt", "mqtt", "error", f"{host}:{port}: {why}", "check mqtt.url, user and password")
