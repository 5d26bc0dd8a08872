"""An agent and a publisher, each behind NAT, connect: by a forwarded port, and by what a STUN server tells them."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import namespaces
from tests.support.namespaces import AGENT_PUBLIC, HTTP_PORT, INTERNET, UDP_PORT, inside

TOKEN = "a-token-of-this-test"
STUN = f"stun:{INTERNET}:3478"
PIPE = asyncio.subprocess.PIPE
PUBLISH = """
import asyncio, json, sys
from streaming.ice import IceSettings
from streaming.publisher import publish
from streaming.sdp import IceServer
from tests.support.streams import track

async def main(url, token, *servers):
    ice = IceSettings(servers=tuple(map(IceServer, servers)))
    async with publish(url, token, track(), ice=ice) as publication:
        await publication.wait_connected(8.0)
        await asyncio.sleep(3)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def networks() -> Iterator[None]:
    try:
        with namespaces.networks():
            yield
    except namespaces.CannotMake as error:
        pytest.skip(f"no network namespaces: {error}")


@asynccontextmanager
async def agent(folder: Path, **streaming: object) -> AsyncIterator[None]:
    """Run the agent behind its router, and yield when it answers."""
    token = {"name": "test", "token": TOKEN, "scopes": ["publish:*", "ask"]}
    config = {"host": "0.0.0.0", "port": HTTP_PORT, "data_dir": str(folder), "streaming": streaming}
    path = folder / "vilamp.json"
    path.write_text(json.dumps({**config, "security": {"tokens": [token]}}))
    command = [*inside("agent"), sys.executable, "-m", "agent.cli", "serve", "--config", str(path)]
    server = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env={**os.environ, "HOME": str(folder)})
    try:
        assert server.stdout is not None
        assert b"answers at" in await asyncio.wait_for(server.stdout.readline(), 60)
        await asyncio.sleep(1)
        yield
    finally:
        server.terminate()
        await asyncio.wait_for(server.communicate(), 20)


async def publishes(*servers: str) -> str:
    """Publish to the agent's public address for three seconds. Return "" or the error."""
    url = f"http://{AGENT_PUBLIC}:{HTTP_PORT}/whip/door"
    command = [*inside("publisher"), sys.executable, "-c", PUBLISH, url, TOKEN, *servers]
    publisher = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    _, errors = await asyncio.wait_for(publisher.communicate(), 60)
    return "" if publisher.returncode == 0 else errors.decode()


async def test_a_forwarded_port_and_a_public_address(networks: None, tmp_path: Path) -> None:
    async with agent(tmp_path, udp_ports=UDP_PORT, public_addresses=[AGENT_PUBLIC]):
        assert await publishes() == ""


async def test_a_forwarded_port_without_a_public_address(networks: None, tmp_path: Path) -> None:
    async with agent(tmp_path, udp_ports=UDP_PORT):
        assert "no connection for video" in await publishes()


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="no coturn: apt-get install coturn")
async def test_a_stun_server_for_the_agent_and_the_publisher(networks: None, tmp_path: Path) -> None:
    arguments = ["-n", "--stun-only", f"--listening-ip={INTERNET}", "--no-tls", "--no-dtls", "--no-cli"]
    command = [*inside("internet"), "turnserver", *arguments, "--pidfile=/dev/null", "--log-file=stdout"]
    coturn = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        async with agent(tmp_path, ice_servers=[{"urls": [STUN], "used_by": "agent"}]):
            assert await publishes(STUN) == ""
    finally:
        coturn.kill()
        await coturn.communicate()
