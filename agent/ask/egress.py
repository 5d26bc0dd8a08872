"""The only HTTP client with which pictures are sent. It refuses servers that a camera's settings do not allow.

A camera's `egress` setting is `local_only` (loopback and private addresses) or `allowed` (any address). Every request
of `guarded_client` resolves the host name, checks all its addresses, and then connects to one of these addresses. The
name is not resolved again in between, so a DNS change cannot redirect the request. Proxies set by environment variables
are not used, and redirects are not followed.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal

import httpx

Egress = Literal["local_only", "allowed"]
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]  # (host, port) -> its IP addresses

RESOLVE_TIMEOUT_S = 5.0

# An allow list. It leaves out link-local, shared (100.64.0.0/10) and "this network" addresses, and IPv6 addresses with
# an embedded IPv4 address.
_LOCAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)


class EgressRefused(Exception):
    """The cameras' `egress` settings do not allow this host."""


class HostUnknown(Exception):
    """The host name has no address."""


def strictest(rules: Iterable[Egress]) -> Egress:
    """Return the strictest of these rules: `allowed` if all are, else `local_only`. No rules: `local_only`."""
    named = list(rules)
    return "allowed" if named and all(rule == "allowed" for rule in named) else "local_only"


def is_local(address: str) -> bool:
    """Return whether this is a loopback or private address, such as "192.168.1.9", "::1" or "::ffff:10.0.0.1"."""
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is not None:
        number = number.ipv4_mapped
    return any(number in network for network in _LOCAL_NETWORKS if network.version == number.version)


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """Return a host's IP addresses by this machine's resolver, the preferred one first. Raises HostUnknown."""
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise HostUnknown(f"no name server has told the address of '{host}' within {RESOLVE_TIMEOUT_S:g} s") from None
    except (OSError, UnicodeError) as error:
        raise HostUnknown(f"the host '{host}' is not known") from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


async def checked_addresses(host: str, port: int, rule: Egress, resolve: Resolver) -> Sequence[str]:
    """Return the IP addresses of a host, checked: under `local_only`, all of them must be local.

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
    """Return an HTTP client that checks the addresses of every request against `rule`.

    It follows no redirects and uses no proxies. Requests raise EgressRefused or HostUnknown.
    """
    transport = _CheckedTransport(rule, resolve, verify)
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)
