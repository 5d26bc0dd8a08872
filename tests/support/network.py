"""Ports for servers that tests start, and what this machine's network can do."""

import itertools
import os
import socket

import psutil

# Below the ports that the system gives to sockets bound to port 0; each process of a run has its own.
PORTS_PER_PROCESS = 1000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_candidates = itertools.cycle(range(PORTS_PER_PROCESS))
BLOCKED_BY_BROWSERS = 10_080  # the only port of the range that Chromium refuses to open ("unsafe port")


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens, and which no other test of this run is given."""
    first = 10_000 + PORTS_PER_PROCESS * (_WORKER % 20)
    while True:
        port = first + (next(_candidates) + os.getpid()) % PORTS_PER_PROCESS
        if port == BLOCKED_BY_BROWSERS:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def has_ipv6() -> bool:
    """Return whether this machine can listen on the IPv6 loopback address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def has_only_loopback() -> bool:
    """Return whether no network interface of this machine has an IPv4 address besides 127.0.0.0/8."""
    addresses = [each for listed in psutil.net_if_addrs().values() for each in listed if each.family == socket.AF_INET]
    return all(each.address.startswith("127.") for each in addresses)
