"""Whole agents for tests: a tiny checkpoint, a memory in a temporary folder, and a server on a free port."""

import asyncio
import atexit
import functools
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette

from agent.app import Agent
from agent.ask.model import load_model
from agent.keep.memory import open_memory
from agent.settings.settings import Settings
from agent.web.app import build_app
from agent.web.auth import Auth
from agent.web.server import Server, configuration, listening, url_of
from agent.web.tls import prepare_tls
from streaming.frame import Frame, SourceStats
from tests.support.tiny import make_checkpoint

START = 1_795_363_445.0  # 2026-11-22 16:04:05 UTC


@functools.cache
def checkpoint() -> Path:
    """Return the folder of a tiny checkpoint, made once per process."""
    folder = Path(tempfile.mkdtemp(prefix="vilamp-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_checkpoint(folder)


@functools.cache
def tiny_model() -> Any:
    """Return the tiny checkpoint as a loaded model. It holds no state, so agents share it."""
    return load_model(Settings(model={"path": str(checkpoint()), "num_threads": 1}))


def settings_in(folder: Path, **changes: Any) -> Settings:
    """Return settings of an agent that keeps its data in `folder`."""
    given: dict[str, Any] = {
        "data_dir": folder,
        "port": 0,
        "model": {"path": str(checkpoint()), "num_threads": 1},
        "answering": {"max_new_tokens": 8},
    }
    return Settings.model_validate({**given, **changes})


@asynccontextmanager
async def running(
    folder: Path,
    *,
    clock: Callable[[], float] | None = None,
    running_s: Callable[[], float] | None = None,
    **changes: Any,
) -> AsyncIterator[Agent]:
    """Run an agent without a server. `clock` and `running_s` replace the wall clock and the monotonic clock."""
    settings = settings_in(folder, **changes)
    model = tiny_model()
    clocks = {} if clock is None else {"clock": clock, "running_s": running_s or clock}
    async with Agent(settings, open_memory(settings, model), model, **clocks).running() as agent:
        yield agent


@dataclass
class Served:
    """An agent with its HTTP server."""

    agent: Agent
    auth: Auth
    url: str
    app: Starlette
    server: Server

    def token(self, name: str = "asker") -> str:
        """Return the secret of a token made at the first start: "owner", "asker" or "publisher"."""
        return next(token.secret for token in self.auth.tokens if token.name == name)

    def headers(self, name: str = "asker") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(name)}"}


@asynccontextmanager
async def served(
    folder: Path, *, keep_alive_s: float = 15.0, max_connections: int | None = None, **changes: Any
) -> AsyncIterator[Served]:
    """Run an agent and its HTTP server on a free port of 127.0.0.1."""
    async with running(folder, **changes) as agent:
        auth = Auth.open(folder, enabled=agent.settings.security.enabled, extra=agent.settings.security.tokens)
        began = asyncio.Event()

        async def started(url: str) -> None:
            began.set()

        with listening(agent.settings) as listener:
            tls = prepare_tls(agent.settings.tls, folder, now=time.time())
            url = url_of(listener, tls)
            app = build_app(agent, auth, agent.settings, keep_alive_s=keep_alive_s, url=url)
            server = Server(configuration(app, agent.settings, tls), started, max_connections)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await began.wait()
            try:
                yield Served(agent, auth, url, app, server)
            finally:
                server.should_exit = True
                await serving


def picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Draw a picture that differs for every number: uint8 (H, W, 3)."""
    rng = np.random.default_rng(number)
    image = np.full((height, width, 3), rng.integers(0, 200, 3), np.uint8)
    x, y = int(rng.integers(0, width - 16)), int(rng.integers(0, height - 16))
    image[y : y + 16, x : x + 16] = rng.integers(0, 256, 3)
    return image


class ListSource:
    """A source that sends the given frames, then ends; with `stay` it remains open until closed."""

    def __init__(self, camera: str, frames: Sequence[Frame], *, stay: bool = False) -> None:
        self.camera = camera
        self.stats = SourceStats(state="live")
        self._frames = frames
        self._stay = stay
        self._closed = asyncio.Event()

    async def frames(self) -> AsyncIterator[Frame]:
        for frame in self._frames:
            self.stats.received += 1
            self.stats.kept += 1
            yield frame
        if self._stay:
            await self._closed.wait()
        self.stats.state = "ended"

    async def close(self) -> None:
        self._closed.set()


def frames(count: int, *, start: float = START, step_s: float = 1.0, first: int = 0) -> list[Frame]:
    """Make `count` different frames, `step_s` seconds apart."""
    return [Frame(start + n * step_s, picture(first + n), "arrival") for n in range(count)]


async def remember(agent: Agent, camera: str, count: int, **timing: Any) -> None:
    """Send `count` frames from a camera into the agent and wait until they are encoded."""
    await agent.cameras.watch(camera, ListSource(camera, frames(count, **timing)))
    await agent.encoded()
