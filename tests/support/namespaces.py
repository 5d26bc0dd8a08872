"""Networks of a test's own: an agent and a publisher, each behind the NAT of a router, and the internet between them.

    agent 10.77.1.2 - router 10.77.1.1 | 198.18.0.1 - internet 198.18.0.3 - 198.18.0.2 | router 10.88.1.1 - publisher 10.88.1.2

The agent's router forwards TCP port 8080 and UDP port 8189 to the agent. Made of network namespaces, veth pairs and
nftables, which need root.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

AGENT_PUBLIC, INTERNET = "198.18.0.1", "198.18.0.3"
HTTP_PORT, UDP_PORT = 8080, 8189
_NAMES = ("agent", "router1", "internet", "router2", "publisher")


class CannotMake(Exception):
    """This machine cannot make the networks; the message says why."""


def inside(name: str) -> list[str]:
    """Return the beginning of a command line that runs in the namespace."""
    return ["ip", "netns", "exec", f"vilamp-{os.getpid()}-{name}"]


@contextmanager
def networks() -> Iterator[None]:
    """Make the networks for the block. Raises CannotMake."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("nft")):
        raise CannotMake("needs root, iproute2 and nftables")
    namespaces = {name: f"vilamp-{os.getpid()}-{name}" for name in _NAMES}
    try:
        for name in namespaces.values():
            _run(f"ip netns add {name}; ip -n {name} link set lo up")
        _run(_LINKS.format(**namespaces))
        yield
    finally:
        for name in namespaces.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


_LINKS = """
    ip link add va netns {agent} type veth peer name vl netns {router1}
    ip link add vp netns {publisher} type veth peer name vl netns {router2}
    ip link add v1 netns {router1} type veth peer name b1 netns {internet}
    ip link add v2 netns {router2} type veth peer name b2 netns {internet}
    ip -n {internet} link add name lan type bridge
    ip -n {internet} link set b1 master lan up
    ip -n {internet} link set b2 master lan up
    ip -n {internet} address add 198.18.0.3/24 dev lan
    ip -n {internet} link set lan up
    ip -n {router1} address add 198.18.0.1/24 dev v1; ip -n {router1} link set v1 up
    ip -n {router1} address add 10.77.1.1/24 dev vl; ip -n {router1} link set vl up
    ip -n {router2} address add 198.18.0.2/24 dev v2; ip -n {router2} link set v2 up
    ip -n {router2} address add 10.88.1.1/24 dev vl; ip -n {router2} link set vl up
    ip -n {agent} address add 10.77.1.2/24 dev va; ip -n {agent} link set va up
    ip -n {agent} route add default via 10.77.1.1
    ip -n {publisher} address add 10.88.1.2/24 dev vp; ip -n {publisher} link set vp up
    ip -n {publisher} route add default via 10.88.1.1
    for router in {router1} {router2}; do
      ip netns exec $router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
      ip netns exec $router nft add table ip nat
      ip netns exec $router nft 'add chain ip nat after {{ type nat hook postrouting priority 100 ; }}'
      ip netns exec $router nft 'add chain ip nat refused {{ type filter hook input priority 0 ; }}'
      ip netns exec $router nft 'add rule ip nat refused meta l4proto udp drop'
    done
    ip netns exec {router1} nft 'add rule ip nat after oifname "v1" masquerade'
    ip netns exec {router2} nft 'add rule ip nat after oifname "v2" masquerade'
    ip netns exec {router1} nft 'add chain ip nat before {{ type nat hook prerouting priority -100 ; }}'
    ip netns exec {router1} nft 'add rule ip nat before iifname "v1" tcp dport 8080 dnat to 10.77.1.2'
    ip netns exec {router1} nft 'add rule ip nat before iifname "v1" udp dport 8189 dnat to 10.77.1.2'
"""


def _run(script: str) -> None:
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMake(done.stderr.strip())
