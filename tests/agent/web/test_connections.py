"""Limits on the number and duration of connections, with real sockets. Responses have no time limit."""

import asyncio
import resource
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent
from urllib.parse import urlsplit

import httpx
import pytest

from agent.web import connections
from agent.web.connections import LIMITS_S, MAX_CONNECTIONS, connection_limit, raise_descriptor_limit
from agent.web.server import CannotListen, listening, reach_of, url_of
from agent.web.tls import CERT_FILE
from tests.support.agents import Served, remember, served, settings_in
from tests.support.network import has_ipv6
from tests.support.processes import python_in

HALF = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Half: "


def connected(site: Served) -> socket.socket:
    """Open a plain connection and send nothing."""
    address = urlsplit(site.url)
    opened = socket.create_connection((address.hostname, address.port), timeout=30)
    opened.setblocking(False)
    return opened


async def told(site: Served, text: bytes) -> socket.socket:
    opened = connected(site)
    await asyncio.get_running_loop().sock_sendall(opened, text)
    return opened


async def rest_of(opened: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    heard = b""
    while True:
        try:
            part = await asyncio.get_running_loop().sock_recv(opened, 65_536)
        except ConnectionResetError:
            return heard
        if not part:
            return heard
        heard += part


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set every time limit to a tenth of a second."""
    for phase in LIMITS_S:
        monkeypatch.setitem(LIMITS_S, phase, 0.1)


async def test_connections_with_unfinished_heads_make_room_for_others(tmp_path: Path) -> None:
    """During a flood of connections without a request, other clients are answered and frames are stored."""
    async with served(tmp_path, max_connections=16) as site:
        with ExitStack() as flood:
            for _ in range(100):
                flood.enter_context(await told(site, HALF))
            async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=30) as http:
                assert (await http.get("/healthz")).status_code == 200
                await remember(site.agent, "door", 3)
                assert (await http.get("/v1/cameras/door")).json()["encoded"] == 3
            assert len(site.server.server_state.connections) <= 17


async def test_a_new_connection_is_refused_when_all_others_are_busy(tmp_path: Path) -> None:
    async with served(tmp_path, max_connections=2) as site:
        stream = f"GET /v1/alerts/stream HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {site.token()}\r\n\r\n".encode()
        with await told(site, stream) as one, await told(site, stream) as two:
            for each in (one, two):
                assert (await asyncio.get_running_loop().sock_recv(each, 12)) == b"HTTP/1.1 200"
            with connected(site) as third:
                assert (await rest_of(third)).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        HALF,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 9\r\n\r\n{",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{",  # a body that nobody reads
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
@pytest.mark.usefixtures("short")
async def test_a_request_that_does_not_arrive_in_time_is_dropped(tmp_path: Path, begun: bytes) -> None:
    """The limits for a head, a body and the next request hold however slowly bytes trickle in."""
    async with served(tmp_path) as site:
        with await told(site, begun.replace(b"{token}", site.token().encode())) as opened:
            ended = asyncio.create_task(rest_of(opened))
            while not ended.done():
                try:
                    await asyncio.get_running_loop().sock_sendall(
                        opened, b"\r\n" if begun.endswith(b"\n\r\n") else b"x"
                    )
                except OSError:
                    break
                await asyncio.wait([ended], timeout=0.05)
            await ended


@pytest.mark.usefixtures("short")
async def test_streams_and_answers_outlast_the_limits(tmp_path: Path) -> None:
    async with served(tmp_path, keep_alive_s=0.05) as site:
        await remember(site.agent, "door", 4)
        loop = asyncio.get_running_loop()
        body = b'{"stream": true, "messages": [{"role": "user", "content": "What came?"}]}'
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {site.token()}\r\n"
        async with site.agent.answering.queue.turns.turn():  # so that the answer cannot begin
            with await told(site, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body) as opened:
                began, heard = loop.time(), b""
                while loop.time() < began + 2.5:  # longer than two looks at every connection
                    part = await loop.sock_recv(opened, 65_536)
                    assert part
                    heard += part
                assert heard.count(b": still here") > 5


@pytest.mark.usefixtures("short")
async def test_a_client_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = urlsplit(site.url)
        with opened:
            opened.connect((address.hostname, address.port))
            opened.setblocking(False)
            sending = asyncio.create_task(_ask_for_ever(opened))
            while not any(each.flow.write_paused for each in site.server.server_state.connections):
                await asyncio.sleep(0.01)
            while site.server.server_state.connections:
                await asyncio.sleep(0.01)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def _ask_for_ever(opened: socket.socket) -> None:
    while True:
        await asyncio.get_running_loop().sock_sendall(opened, b"GET /page/app.js HTTP/1.1\r\nHost: a\r\n\r\n")


async def test_unfinished_tls_handshakes_make_room_for_others(tmp_path: Path) -> None:
    async with served(tmp_path, max_connections=8, tls={"self_signed": True}) as site:
        with ExitStack() as flood:
            for _ in range(40):
                flood.enter_context(connected(site))
            context = ssl.create_default_context(cafile=str(tmp_path / CERT_FILE))
            async with httpx.AsyncClient(base_url=site.url, verify=context, timeout=30) as http:
                assert (await http.get("/healthz")).status_code == 200
            assert len(site.server.acceptors[0]._opening) <= 9


async def test_the_oldest_connection_is_closed_when_descriptors_run_out(tmp_path: Path) -> None:
    """Connections use up the process's descriptors; the oldest is closed and the next request is answered."""
    async with served(tmp_path, max_connections=10_000) as site:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with ExitStack() as flood:
            idle = [flood.enter_context(await told(site, HALF)) for _ in range(20)]
            while len(site.server.server_state.connections) < len(idle):
                await asyncio.sleep(0.01)
            spare = [flood.enter_context(socket.socket()) for _ in range(3)]
            for each in spare:
                each.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(each.fileno() for each in [*idle, *spare]) + 1, hard))
            try:
                address = urlsplit(site.url)
                for each in spare:
                    await asyncio.get_running_loop().sock_connect(each, (address.hostname, address.port))
                asked = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                await asyncio.get_running_loop().sock_sendall(spare[-1], asked)
                assert (await rest_of(spare[-1])).startswith(b"HTTP/1.1 200")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_may_use_a_quarter_of_the_raised_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        raised = raise_descriptor_limit()
        assert raised == min(hard, connections.MAX_DESCRIPTORS)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (raised, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [connection_limit(each) for each in (16, 1024, 4096, 65_536)] == [8, 256, 1024, MAX_CONNECTIONS]


@pytest.mark.parametrize(
    ("host", "reached", "words"),
    [
        ("::", ["127.0.0.1", "::1"], "IPv4 and IPv6"),
        ("[::1]", ["::1"], ""),
        ("0.0.0.0", ["127.0.0.1"], "every IPv4 address"),
        ("localhost", [], ""),
    ],
)
def test_host_decides_which_addresses_are_listened_on(
    tmp_path: Path, host: str, reached: list[str], words: str
) -> None:
    if host == "[::1]" and not has_ipv6():
        with pytest.raises(CannotListen, match=r"cannot listen on \[::1\]:0 .*choose another --host"):
            listening(settings_in(tmp_path, host=host))
        return
    with listening(settings_in(tmp_path, host=host)) as listener:
        assert words in reach_of(listener)
        assert (words == "") == (reach_of(listener) == "")
        address = urlsplit(url_of(listener, None))
        assert address.hostname in ("127.0.0.1", "::1")
        for each in [address.hostname, *reached]:
            if each != "::1" or has_ipv6():
                socket.create_connection((each, address.port), timeout=10).close()


def test_shown_url_reaches_the_server_in_a_network_without_ipv6(tmp_path: Path) -> None:
    code = f"""
        import socket
        from pathlib import Path
        from urllib.parse import urlsplit
        from agent.settings.settings import Settings
        from agent.web.server import CannotListen, listening, url_of
        with listening(Settings(data_dir=Path({str(tmp_path)!r}), host="::", port=0)) as listener:
            url = urlsplit(url_of(listener, None))
            socket.create_connection((url.hostname, url.port), timeout=10).close()
            print("reached at", url.hostname)
    """
    assert python_in("no-ipv6", dedent(code)) == "reached at 127.0.0.1"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/healthz", "/v1/alerts/stream"])
async def test_a_malformed_chunked_body_gets_one_response_and_no_traceback(
    tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The head is valid and the chunks are not. A second response would raise an exception inside uvicorn."""
    async with served(tmp_path) as site:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {site.token()}\r\nTransfer-Encoding: chunked"
        head = head.replace("POST", "POST" if "chat" in path else "GET")
        with await told(site, f"{head}\r\n\r\nzz\r\n".encode()) as opened:
            heard = await rest_of(opened)
        assert heard.startswith(b"HTTP/1.1 400")
        async with httpx.AsyncClient(base_url=site.url, timeout=30) as http:
            assert (await http.get("/healthz")).status_code == 200
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_websocket_upgrade_gets_a_plain_response(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        upgrade = (
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
        )
        with await told(site, f"GET /v1/cameras HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n".encode()) as opened:
            assert (await asyncio.get_running_loop().sock_recv(opened, 12)) == b"HTTP/1.1 401"
