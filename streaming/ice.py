"""Collect the addresses at which WebRTC sessions are reached: networks, fixed ports, public addresses, STUN and TURN.

aioice gives each session a random UDP port on every network address except loopback. `Ice` replaces this step (and
`tap.py` the checks of consent). It was checked against aioice 0.13.0; `tests/streaming/test_ice.py` fails if another
version behaves differently.
"""

import asyncio
import ipaddress
import logging
import random
import socket
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from aioice import Candidate, Connection, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol, server_reflexive_candidate
from aioice.turn import UDP_SOCKET_BUFFER_SIZE
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection

from streaming.sdp import IceServer

logger = logging.getLogger(__name__)

_GATHER_S = 3.0  # how long STUN and TURN servers may take; WHIP publishers wait for the answer meanwhile
_LOOPBACK = ("127.0.0.1", "::1")
_FIRST_STUN_BYTES = range(4)  # RFC 7983

Gather = Callable[..., Coroutine[Any, Any, list[Candidate]]]
P = TypeVar("P", bound=asyncio.DatagramProtocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class IceSettings:
    """The addresses and ports of this machine's WebRTC sessions.

    `udp_ports`: (first, last). All sessions share a single port; of several ports, each session takes a free one. None
    means random ports. `public_addresses`: IP addresses under which the same ports are reached from outside, where NAT
    or Docker lies between. `servers`: STUN and TURN servers that this machine itself uses, at most one of each.
    """

    udp_ports: tuple[int, int] | None = None
    public_addresses: tuple[str, ...] = ()
    servers: tuple[IceServer, ...] = ()


class Ice:
    """Prepares peer connections, so that they gather their candidates as the settings say."""

    def __init__(self, settings: IceSettings | None = None) -> None:
        self._settings = settings or IceSettings()
        self._shared: dict[str, SharedPort] = {}  # by address
        self._sharing = asyncio.Lock()

    def connection(self) -> RTCPeerConnection:
        """Return a new peer connection. It uses no STUN server but the configured one; aiortc's default is public."""
        servers = [RTCIceServer(each.url, each.username, each.credential) for each in self._settings.servers]
        return RTCPeerConnection(RTCConfiguration(iceServers=servers))

    def prepare(self, peer: RTCPeerConnection) -> None:
        """Call this when all media of the peer connection are known, and before its local description is set."""
        transports = [transceiver.receiver.transport for transceiver in peer.getTransceivers()]
        transports += [] if peer.sctp is None else [peer.sctp.transport]
        for connection in {transport.transport._connection for transport in transports}:
            connection.get_component_candidates = self._gatherer(connection)

    def close(self) -> None:
        """Close the shared UDP port. Call it after the sessions have ended."""
        for port in self._shared.values():
            port.close()
        self._shared.clear()

    def _gatherer(self, connection: Connection) -> Gather:
        relayed: Gather = connection.get_component_candidates  # without addresses, aioice asks the TURN server only

        async def gather(component: int, addresses: list[str]) -> list[Candidate]:
            usable = [address for address in addresses if _is_usable(address)]
            protocols = await self._bound(connection, usable or _LOOPBACK)
            connection._protocols += protocols
            asked = [relayed(component=component, addresses=[], timeout=_GATHER_S)]
            if connection.stun_server is not None:
                asked += [_reflexive(each, connection.stun_server) for each in protocols if _is_ipv4(each)]
            found = [candidate for candidates in await asyncio.gather(*asked) for candidate in candidates]
            if connection.turn_server is not None and not any(each.type == "relay" for each in found):
                logger.warning("the TURN server %s:%d gives no address", *connection.turn_server)
            if not protocols and not found:
                raise OSError(f"no UDP port of {self._ports_in_words()} is free on any address of this machine")
            return [*self._public(protocols), *(each.local_candidate for each in protocols), *found]

        return gather

    def _ports_in_words(self) -> str:
        first, last = self._settings.udp_ports or (0, 0)
        return "the system" if not first else f"streaming.udp_ports ({first}{'' if first == last else f'-{last}'})"

    async def _bound(self, connection: Connection, addresses: Iterable[str]) -> list[StunProtocol]:
        """Return a protocol of aioice for each address on which a UDP port is free."""
        bound = []
        for address in addresses:
            protocol = await self._bind(connection, address)
            if protocol is not None:
                protocol.local_candidate = _host_candidate(*protocol.transport.get_extra_info("sockname")[:2])
                bound.append(protocol)
        return bound

    async def _bind(self, connection: Connection, address: str) -> StunProtocol | None:
        first, last = self._settings.udp_ports or (0, 0)
        if first and first == last:
            async with self._sharing:
                shared = self._shared.get(address) or await _open(SharedPort, address, first)
                if shared is None:
                    return None
                self._shared[address] = shared
            return shared.join(StunProtocol(connection))
        start = random.randint(first, last)
        for port in (*range(start, last + 1), *range(first, start)):
            protocol = await _open(lambda: StunProtocol(connection), address, port)
            if protocol is not None:
                return protocol
        return None

    def _public(self, protocols: list[StunProtocol]) -> list[Candidate]:
        """Return a candidate for each public address and each port of its IP version."""
        local = {(_is_ipv4(each), each.local_candidate.port) for each in protocols}
        return [
            _host_candidate(address, port)
            for address in self._settings.public_addresses
            for is_ipv4, port in sorted(local)
            if is_ipv4 == (ipaddress.ip_address(address).version == 4)
        ]


class SharedPort(asyncio.DatagramProtocol):
    """One UDP socket for many sessions.

    The first packet from a remote address is a STUN message, whose user name or transaction tells its session. Later
    packets from that address belong to the same session. Others are dropped.
    """

    def __init__(self) -> None:
        self._members: list[StunProtocol] = []
        self._by_address: dict[tuple[str, int], StunProtocol] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)  # uvloop's has another base class

    def close(self) -> None:
        """Close the socket."""
        self.transport.close()

    def join(self, protocol: StunProtocol) -> StunProtocol:
        """Make the protocol of a session send and receive through this socket, until it closes. Return it."""
        self._members.append(protocol)
        protocol.connection_made(_Member(self, protocol))
        return protocol

    def leave(self, protocol: StunProtocol) -> None:
        """Give the protocol no more packets. Idempotent."""
        if protocol in self._members:
            self._members.remove(protocol)
            self._by_address = {address: each for address, each in self._by_address.items() if each is not protocol}
            asyncio.get_running_loop().call_soon(protocol.connection_lost, None)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        address = (addr[0], addr[1])
        recipient = self._of_stun(data) if data[:1] and data[0] in _FIRST_STUN_BYTES else None
        if recipient is not None:
            self._by_address[address] = recipient
        recipient = recipient or self._by_address.get(address)
        if recipient is not None:
            recipient.datagram_received(data, addr)

    def _of_stun(self, data: bytes) -> StunProtocol | None:
        """Return whose request or response this is; None if it is neither, or does not prove to know the password."""
        try:
            message = stun.parse_message(data)
        except ValueError:
            return None
        if message.message_class in (stun.Class.RESPONSE, stun.Class.ERROR):
            return next((each for each in self._members if message.transaction_id in each.transactions), None)
        name = str(message.attributes.get("USERNAME", "")).partition(":")[0]
        owner = next((each for each in self._members if each.receiver.local_username == name), None)
        if owner is None or "MESSAGE-INTEGRITY" not in message.attributes:
            return None
        return owner if message.check_message_integrity(owner.receiver.local_password.encode()) else None


class _Member(asyncio.DatagramTransport):
    """The shared socket as the transport of one session."""

    def __init__(self, shared: SharedPort, protocol: StunProtocol) -> None:
        super().__init__()
        self._shared = shared
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._shared.transport.get_extra_info(name, default)

    def sendto(self, data: Any, addr: Any = None) -> None:
        if not self._shared.transport.is_closing():  # a STUN request may be repeated after the end
            self._shared.transport.sendto(data, addr)

    def close(self) -> None:
        self._shared.leave(self._protocol)


def _is_usable(address: str) -> bool:
    """Return whether a socket can be bound to the address. It cannot if its interface is down."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


async def _open(protocol: Callable[[], P], address: str, port: int) -> P | None:
    """Return a protocol with a UDP socket on the address and port, None if it cannot be bound. Port 0: any free one."""
    loop = asyncio.get_running_loop()
    try:
        transport, opened = await loop.create_datagram_endpoint(protocol, local_addr=(address, port))
    except OSError as error:
        logger.debug("no UDP socket on %s port %d: %s", address, port, error)
        return None
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_SOCKET_BUFFER_SIZE)
    return opened


async def _reflexive(protocol: StunProtocol, server: tuple[str, int]) -> list[Candidate]:
    """Return the address at which the STUN server sees the protocol's socket."""
    try:
        async with asyncio.timeout(_GATHER_S):
            candidate, _ = await server_reflexive_candidate(protocol, server)
    except (OSError, TimeoutError, stun.TransactionError) as error:
        logger.warning("the STUN server %s:%d gives no address: %s", *server, str(error) or "no answer")
        return []
    return [candidate]


def _host_candidate(address: str, port: int) -> Candidate:
    return Candidate(
        foundation=candidate_foundation("host", "udp", address), component=1, transport="udp",
        priority=candidate_priority(1, "host"), host=address, port=port, type="host",
    )  # fmt: skip


def _is_ipv4(protocol: StunProtocol) -> bool:
    return ipaddress.ip_address(protocol.local_candidate.host).version == 4
