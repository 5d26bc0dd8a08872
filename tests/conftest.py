"""Settings of every test run, the marks `waits` and `server`, and a vision server that all tests share."""

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import InMemoryExampleDatabase

from tests.support.vlm_server import Spy, spying

# Read when torch is first imported, also by child processes: tests run in several processes on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Failed examples are kept for the next run, except in a read-only checkout.
kept: dict[str, Any] = {} if os.access(Path(__file__).parent, os.W_OK) else {"database": InMemoryExampleDatabase()}
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], **kept)
settings.load_profile("untimed")


WAITS = re.compile(r"\b(until|sleep|wait|wait_for|expect|Popen|timeout)\(")
IMPORTS = re.compile(r"^ *(?:from|import) [^\n(]*(?:\([^)]*\))?", re.MULTILINE)
SERVERS = re.compile(
    r"\b(subprocess|socket|uvicorn|aiortc|aiomqtt|playwright|running|served|agent\.evaluation|model\.training\.run)\b"
    r"|tests\.hardening|tests\.support\.(bridges|brokers|browser|odd_brokers|processes|proxies|robots|rtsp|rules|streams|vlm_server)\b"
)


@functools.cache
def marks_of(path: Path) -> list[str]:
    """Return the marks of a test module, decided by what it calls and imports."""
    text = path.read_text(encoding="utf-8")
    waits = WAITS.search(text)
    server = any(SERVERS.search(each) for each in IMPORTS.findall(text))
    return ["waits"] * bool(waits) + ["server"] * server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in marks_of(item.path):
            item.add_marker(mark)


@pytest.fixture(scope="session")
def vision_server() -> Iterator[Spy]:
    """A vision server process, started once per test process."""
    with spying() as server:
        yield server


@pytest.fixture
def spy(vision_server: Spy, monkeypatch: pytest.MonkeyPatch) -> Spy:
    """The vision server without earlier requests. The agent retries almost without a pause."""
    monkeypatch.setattr("agent.ask.remote_client.FIRST_PAUSE_S", 0.01)
    vision_server.forget()
    return vision_server
