"""Let WebRTC use the loopback address where a machine has no other network, such as a laptop without Wi-Fi.

The only module that changes aioice, checked against aioice 0.13.0: it collects the addresses of all networks except
loopback, so two peers on such a machine would find no path. `tests/streaming/test_publisher.py` fails when that changes.
"""

from aioice import ice

_addresses_of_networks = ice.get_host_addresses


def host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    """Return the addresses of this machine's networks, or the loopback address if there are none."""
    return _addresses_of_networks(use_ipv4, use_ipv6) or (["127.0.0.1"] if use_ipv4 else ["::1"])


def offer_loopback() -> None:
    """Use `host_addresses` for all later connections of this process. Idempotent."""
    ice.get_host_addresses = host_addresses
