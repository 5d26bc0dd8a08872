"""WebRTC on a machine whose only network is loopback: a laptop without Wi-Fi, a container without a network.

aioice offers the addresses of all networks but loopback, so that there two peers of one machine find no path. `offer_loopback`
lets it offer that of loopback where there are no others. (Read from aioice 0.13.0.)
"""

from aioice import ice

_addresses_of_networks = ice.get_host_addresses


def host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    """The addresses that a peer may try: those of this machine's networks, else that of loopback."""
    return _addresses_of_networks(use_ipv4, use_ipv6) or (["127.0.0.1"] if use_ipv4 else ["::1"])


def offer_loopback() -> None:
    """Let every later connection of this process do so. Idempotent."""
    ice.get_host_addresses = host_addresses
