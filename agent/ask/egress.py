"""The only HTTP client that pictures are sent with. It refuses servers that a camera's `egress` setting does not allow.

A camera is `local_only` (loopback and private addresses) or `allowed` (any address). Every request of `guarded_client`
resolves its host name, checks every address, and connects to one of the checked addresses by number, so that a later change of
the name has no effect. Proxies of the environment and redirects are not followed.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal

import httpx

Egress = Literal["local_only", "allowed"]
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]  # (host, port) -> its addresses, as numbers

RESOLVE_TIMEOUT_S = 5.0

# An allow list: link-local, shared (100.64.0.0/10), "this network" and embedded forms of IPv6 are not among them.
_LOCAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)


class EgressRefused(Exception):
    """The camera's `egress` setting does not allow this host."""


class HostUnknown(Exception):
    """The host name has no address."""


def strictest(rules: Iterable[Egress]) -> Egress:
    """The rule that all these rules allow: local_only unless every one is `allowed`."""
    named = list(rules)
    return "allowed" if named and all(rule == "allowed" for rule in named) else "local_only"


def is_local(address: str) -> bool:
    """Whether this is a loopback or private address, such as "192.168.1.9", "::1" or "::ffff:10.0.0.1"."""
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is not None:
        number = number.ipv4_mapped
    return any(number in network for network in _LOCAL_NETWORKS if network.version == number.version)


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """Resolve a host name on this machine, the preferred address first. Raises HostUnknown."""
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise HostUnknown(f"no name server has told the address of '{host}' within {RESOLVE_TIMEOUT_S:g} s") from None
    except (OSError, UnicodeError) as error:
        raise HostUnknown(f"the host '{host}' is not known") from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


async def checked_addresses(host: str, port: int, rule: Egress, resolve: Resolver) -> Sequence[str]:
    """Resolve a host name and check the rule: under local_only all its addresses must be local.

    Raises EgressRefused or HostUnknown.
    """
    addresses = await resolve(host, port)
    if not addresses:
        raise HostUnknown(f"the host '{host}' has no address")
    if rule != "allowed" and not all(map(is_local, addresses)):
        raise EgressRefused(f"'{host}' is not only on this machine or its private network")
    return addresses


class _CheckedTransport(httpx.AsyncBaseTransport):
    """Sends each request to a checked address of its host, and tries the next one if nothing answers."""

    def __init__(self, rule: Egress, resolve: Resolver, verify: ssl.SSLContext) -> None:
        self._rule: Egress = rule
        self._resolve = resolve
        self._inner = httpx.AsyncHTTPTransport(verify=verify, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await checked_addresses(url.host, port, self._rule, self._resolve)
        # TLS still verifies the certificate against the host name, and the server still receives the name
        request.extensions = {**request.extensions, "sni_hostname": url.raw_host.decode("ascii")}
        for address in addresses[:-1]:
            try:
                return await self._send(request, url, address)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._send(request, url, addresses[-1])

    async def _send(self, request: httpx.Request, url: httpx.URL, address: str) -> httpx.Response:
        request.url = url.copy_with(host=address)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def guarded_client(
    rule: Egress, *, resolve: Resolver, verify: ssl.SSLContext, timeout: httpx.Timeout
) -> httpx.AsyncClient:
    """An HTTP client whose every connection is checked. It follows no redirects and uses no proxies."""
    transport = _CheckedTransport(rule, resolve, verify)
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)
