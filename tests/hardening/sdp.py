"""Fuzz the WHIP routes with SDP offers and ICE fragments: each gets an answer, and no session is left behind."""

import asyncio
import ipaddress
import random
from typing import Any
from unittest.mock import patch

import httpx
from aioice.ice import StunProtocol
from starlette.applications import Starlette

from streaming.whip import WhipServer, WhipSettings
from tests.hardening.command import Counts, main
from tests.hardening.fuzzing import Growth, Outcome, mangled
from tests.support.streams import AUDIO, OFFER, TOKEN, WITH_DATA, authorize

MOST_GROWN_BYTES = 64 << 20
CANDIDATES = (
    "a=candidate:1 1 udp 2122260223 127.0.0.1 61764 typ host generation 0 ufrag abcd network-id 1\r\n"
    "a=candidate:2 1 tcp 1518214911 127.0.0.1 9 typ host tcptype active\r\n"
    "a=candidate:3 1 udp 1686052607 127.0.0.2 40000 typ srflx raddr 127.0.0.1 rport 61764\r\na=end-of-candidates\r\n"
)
SOUND = (
    OFFER,
    OFFER + CANDIDATES,
    WITH_DATA,
    OFFER.replace("BUNDLE 0", "BUNDLE 0 1") + AUDIO,
    WITH_DATA.replace("a=sctp-port:5000", "a=sctp-port:5000\r\n" + CANDIDATES.strip()),
)
FRAGMENT = (
    "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\nm=video 9 UDP/TLS/RTP/SAVPF 97\r\na=mid:0\r\n" + CANDIDATES
)
EXPECTED = {200, 201, 204, 400, 404, 412, 413, 415, 422, 503}


def only_here(send: Any) -> Any:
    """Wrap `send` so that packets to other machines are dropped: a mutated address may be anyone's."""

    def send_stun(self: Any, message: Any, addr: tuple[str, int]) -> None:
        if ipaddress.ip_address(addr[0].partition("%")[0]).is_loopback:
            send(self, message, addr)

    return send_stun


def fuzz(count: int, seed: int) -> Counts:
    """Send offers by POST; accepted ones get a damaged fragment, a DELETE, both or nothing."""
    return asyncio.run(_fuzz(count, seed)).told(MOST_GROWN_BYTES)


async def _fuzz(count: int, seed: int) -> Outcome:
    rng, outcome, growth = random.Random(seed), Outcome(), Growth(count)
    server = WhipServer(lambda camera, source: None, authorize, settings=WhipSettings(max_sessions=8))
    transport = httpx.ASGITransport(Starlette(routes=server.routes()), client=("127.0.0.1", 1))
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/sdp"}
    with patch.object(StunProtocol, "send_stun", only_here(StunProtocol.send_stun)):
        async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as client:
            for number in range(count):
                body = mangled(rng, rng.choice(SOUND), (*SOUND, FRAGMENT))
                answer = await _try(client, "POST", f"/whip/c{number % 20}", body, {}, outcome)
                if answer is not None and answer.status_code == 201:
                    await _go_on(client, rng, answer.headers["location"], outcome)
                growth.note(number)
            await server.close()
    await asyncio.sleep(0)
    outcome.grown_bytes = growth.bytes()
    if server.num_sessions or server._past:
        outcome.failures.append(f"left behind: {server.num_sessions} sessions, {len(server._past)} names")
    return outcome


async def _go_on(client: httpx.AsyncClient, rng: random.Random, location: str, outcome: Outcome) -> None:
    if rng.random() < 0.3:
        kind = {"Content-Type": "application/trickle-ice-sdpfrag"}
        await _try(client, "PATCH", location, mangled(rng, FRAGMENT, SOUND), kind, outcome)
    if rng.random() < 0.5:
        await _try(client, "DELETE", location, "", {}, outcome)


async def _try(
    client: httpx.AsyncClient, method: str, path: str, body: str, headers: dict[str, str], outcome: Outcome
) -> httpx.Response | None:
    content = body.encode(errors="surrogatepass")
    try:
        response = await client.request(method, path, content=content, headers=headers)
    except Exception as error:  # noqa: BLE001 - any exception is a finding
        outcome.failures.append(f"{method} {type(error).__name__}: {error}; {body!r}")
        return None
    outcome.counts[f"{method} {response.status_code}"] += 1
    if response.status_code not in EXPECTED:
        outcome.failures.append(f"{method} {response.status_code} {response.text[:200]}; {body!r}")
    return response


if __name__ == "__main__":
    main(fuzz, count=50_000, about=__doc__ or "")
