"""Let WebRTC use the loopback address where a machine has no other network, such as a laptop without Wi-Fi.

aioice collects the addresses of all networks except loopback, so two peers on such a machine would find no path to each
other. This is the only module that changes aioice. It was checked against aioice 0.13.0;
`tests/streaming/test_publisher.py` fails if another version behaves differently.
"""

from aioice import ice

_addresses_of_networks = ice.get_host_addresses


def host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    """Return the addresses of this machine's networks, or the loopback address if there are none."""
    return _addresses_of_networks(use_ipv4, use_ipv6) or (["127.0.0.1"] if use_ipv4 else ["::1"])


def offer_loopback() -> None:
    """Make aioice use `host_addresses` for all later connections of this process. Idempotent."""
    ice.get_host_addresses = host_addresses
