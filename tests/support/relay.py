"""A network that loses packets, between a WHIP publisher and the agent: a UDP relay and an HTTP front that leads to it.

`relayed(url, network)` returns the URL of a WHIP endpoint that passes offers on to `url` without their candidates, and
answers with the relay's address as the only candidate, so that all packets pass through the relay.
"""

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.streams import serve

Address = tuple[str, int]


@dataclass
class Network:
    """What happens to packets. `loss` and `jitter_s` concern the publisher's media only, `down` everything.

    loss: part of the packets that is lost. jitter_s: every packet is late by up to so many seconds. drops: returns whether a
    packet of media from the publisher is lost.
    """

    loss: float = 0.0
    jitter_s: float = 0.0
    down: bool = False
    drops: Callable[[bytes], bool] = lambda data: False
    seed: int = 1
    num_dropped: int = 0
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def delay_s(self, data: bytes, from_publisher: bool) -> float | None:
        """Return how late the packet arrives, None if it is lost."""
        media = from_publisher and is_media(data)
        if self.down or (media and (self.chance.random() < self.loss or self.drops(data))):
            self.num_dropped += 1
            return None
        return self.chance.uniform(0, self.jitter_s) if media else 0.0


def is_media(data: bytes) -> bool:
    """Return whether a packet is RTP (not RTCP, STUN or DTLS)."""
    return len(data) > 12 and 128 <= data[0] < 192 and not 192 <= data[1] <= 223


def sequence_of(data: bytes) -> int:
    return int.from_bytes(data[2:4], "big")


class _Side(asyncio.DatagramProtocol):
    """A socket of the relay. `pass_on(data, sender)` is called for each packet."""

    def __init__(self, pass_on: Callable[[bytes, Address], None]) -> None:
        self._pass_on = pass_on

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._pass_on(data, addr[:2])

    def error_received(self, exc: Exception) -> None:
        return


class _Relay:
    def __init__(self, network: Network, agent: Address) -> None:
        self._network = network
        self._agent = agent
        self._publisher: Address | None = None
        self._transports: list[asyncio.DatagramTransport] = []

    async def start(self) -> Address:
        loop = asyncio.get_running_loop()
        for handler in (self._from_publisher, self._from_agent):
            transport, _ = await loop.create_datagram_endpoint(
                lambda handler=handler: _Side(handler), local_addr=(self._agent[0], 0)
            )
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
            self._transports.append(transport)
        return self._transports[0].get_extra_info("sockname")[:2]

    def stop(self) -> None:
        for transport in self._transports:
            transport.close()

    def _from_publisher(self, data: bytes, sender: Address) -> None:
        self._publisher = sender
        self._send(1, data, self._agent, from_publisher=True)

    def _from_agent(self, data: bytes, sender: Address) -> None:
        if self._publisher is not None:
            self._send(0, data, self._publisher, from_publisher=False)

    def _send(self, side: int, data: bytes, to: Address, *, from_publisher: bool) -> None:
        delay_s = self._network.delay_s(data, from_publisher)
        if delay_s is None:
            return
        transport = self._transports[side]

        def send(data: bytes, to: Address) -> None:
            if not transport.is_closing():
                transport.sendto(data, to)

        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, send, data, to)
        else:
            send(data, to)


@asynccontextmanager
async def relayed(url: str, network: Network) -> AsyncIterator[str]:
    relays: list[_Relay] = []

    async def publish(request: Request) -> Response:
        offer = (await request.body()).decode()
        offer = re.sub("a=(candidate:|end-of-candidates).*\r?\n", "", offer)
        headers = {"Content-Type": "application/sdp", "Authorization": request.headers.get("authorization", "")}
        agent = request.headers.get("user-agent")
        if agent is not None:
            headers["User-Agent"] = agent
        answered = await client.post(url, content=offer, headers=headers)
        if answered.status_code != 201:
            return Response(answered.content, answered.status_code, {"Content-Type": answered.headers["content-type"]})
        host, port = re.findall(r"a=candidate:\S+ 1 udp \d+ (\d+\.\d+\.\d+\.\d+) (\d+) typ host", answered.text)[0]
        relay = _Relay(network, (host, int(port)))
        relays.append(relay)
        host, port = await relay.start()
        one = f"a=candidate:1 1 udp 2130706431 {host} {port} typ host\r\n"
        answer = re.sub("(a=candidate:.*\r\n)+", one, answered.text)
        location = answered.headers["location"]
        return Response(answer, 201, {"Content-Type": "application/sdp", "Location": location})

    async def session(request: Request) -> Response:
        if request.method == "PATCH":  # no candidate of the publisher gets around the relay
            return Response(status_code=204)
        target = httpx.URL(url).join(request.url.path)
        headers = {"Authorization": request.headers.get("authorization", "")}
        return Response(status_code=(await client.request(request.method, target, headers=headers)).status_code)

    path = httpx.URL(url).path
    routes = [
        Route(path, publish, methods=["POST"]),
        Route(path + "/{id}", session, methods=["PATCH", "DELETE", "GET"]),
    ]
    async with httpx.AsyncClient(timeout=20.0) as client, serve(Starlette(routes=routes)) as base:
        try:
            yield base + path
        finally:
            for relay in relays:
                relay.stop()
