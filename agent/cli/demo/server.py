"""The demo's server: `vilamp serve` in a process of its own, with its own data folder."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from agent.cli.common import CliError
from agent.web.auth import local_token

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
_GREETING = "ViLaMP Live answers at "


@dataclass(frozen=True, slots=True)
class DemoServer:
    """A running server: its address and tokens."""

    url: str
    ask_token: str
    publish_token: str
    owner_token: str
    process: asyncio.subprocess.Process


def demo_config(camera: str, rate_hz: float, zone: str, model: str, port: int) -> dict[str, object]:
    """Return the server's configuration: one camera that publishes, sampled so that a kept frame is a world second."""
    return {
        "port": port,
        "cameras": {camera: {"rate_hz": rate_hz, "timezone": zone}},
        "model": {"path": model, "num_threads": 1},
        "log_level": "info",
    }


@asynccontextmanager
async def running_server(out: Path, config: dict[str, object]) -> AsyncIterator[DemoServer]:
    """Run `vilamp serve` with the data in `out/data` and the log in `out/server.log`. Raises CliError when it does not start."""
    (out / "demo.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    options = ["--config", str(out / "demo.yaml"), "--data-dir", str(out / "data")]
    # the settings of the user's shell are not the demo's
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VILAMP_")}
    async with serving(options, out / "data", out / "server.log", environ) as server:
        yield server


@asynccontextmanager
async def serving(
    options: Sequence[str], data_dir: Path, log_file: Path, environ: Mapping[str, str]
) -> AsyncIterator[DemoServer]:
    """Run `vilamp serve` with these options. data_dir: where its tokens will be. Raises CliError when it does not start."""
    command = ["-m", "agent.cli", "serve", *options]
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=log, env=environ
        )
        drain: asyncio.Task[None] | None = None
        try:
            url = await _greeting(process, log_file)
            drain = asyncio.create_task(_drain(process))
            ask, publish, owner = (local_token(data_dir, scope) for scope in ("ask", "publish:*", "admin"))
            yield DemoServer(url, ask or "", publish or "", owner or "", process)
        finally:
            await _stop(process)
            if drain is not None:
                await drain


async def _greeting(process: asyncio.subprocess.Process, log: Path) -> str:
    """Return the URL in the server's first lines. Raises CliError with the end of its log."""
    lines = _stdout(process)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while line := await lines.readline():
                if line.decode().startswith(_GREETING):
                    return line.decode().removeprefix(_GREETING).strip()
    except TimeoutError:
        raise CliError(f"the server did not start within {START_TIMEOUT_S:.0f} s; see {log}") from None
    await process.wait()
    raise CliError(f"the server ended with code {process.returncode}: {_last_line(log) or f'see {log}'}")


def _last_line(log: Path) -> str:
    return "".join(log.read_text(errors="replace").strip().splitlines()[-1:])


def _stdout(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise CliError("the server was started without a pipe")
    return process.stdout


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Read and drop what the server prints: a full pipe would stop it."""
    while await _stdout(process).read(4096):
        pass


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
