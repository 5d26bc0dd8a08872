"""Which servers pictures may be sent to, by address and by name."""

import asyncio
import re
from pathlib import Path

import pytest

from agent.ask import egress
from agent.ask.egress import (
    EgressRefused,
    HostUnknown,
    checked_addresses,
    is_local,
    strictest,
    system_resolver,
)
from tests.support.remote import PUBLIC, Names


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.9", "::1", "fd00::7",
                "::ffff:10.0.0.1"]
)  # fmt: skip
def test_local_addresses(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "172.32.0.1", "192.169.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
                "255.255.255.255", "::", "2001:db8::1", "fe80::1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "2002:7f00:1::",
                "::127.0.0.1", "localhost", "127.1", "", "10.0.0.1.example"]
)  # fmt: skip
def test_other_addresses_are_not_local(address: str) -> None:
    assert not is_local(address)


def test_strictest_rule_of_several_cameras_applies() -> None:
    assert strictest(["allowed", "allowed"]) == "allowed"
    assert strictest(["allowed", "local_only", "allowed"]) == "local_only"
    assert strictest([]) == "local_only"


@pytest.mark.parametrize("addresses", [[PUBLIC], ["127.0.0.1", PUBLIC], [PUBLIC, "10.0.0.1"], ["::1", "2001:db8::1"]])
async def test_name_with_one_public_address_is_refused(addresses: list[str]) -> None:
    with pytest.raises(EgressRefused, match=r"vlm\.example"):
        await checked_addresses("vlm.example", 80, "local_only", Names(addresses))
    assert await checked_addresses("vlm.example", 80, "allowed", Names(addresses)) == addresses


async def test_name_without_an_address_is_unknown() -> None:
    with pytest.raises(HostUnknown, match="no address"):
        await checked_addresses("vlm.example", 80, "allowed", Names([]))
    with pytest.raises(HostUnknown, match="not known"):
        await system_resolver("a" * 70 + ".invalid", 80)  # a label that no name server is asked about


async def test_silent_name_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(egress, "RESOLVE_TIMEOUT_S", 0.01)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", silent)
    with pytest.raises(HostUnknown, match=r"no name server has told the address of 'vlm\.example' within"):
        await system_resolver("vlm.example", 80)


@pytest.mark.parametrize("written", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "localhost"])
async def test_every_spelling_of_localhost_is_local(written: str) -> None:
    assert await checked_addresses(written, 80, "local_only", system_resolver)


def test_only_egress_makes_http_clients() -> None:
    """No other file of the agent makes a client that could send pictures."""
    makes = re.compile(r"\bhttpx\.(AsyncClient|AsyncHTTPTransport|Client|HTTPTransport|get|post|put|stream|request)\(")
    found = {
        path.name for path in (Path(__file__).parents[3] / "agent").rglob("*.py") if makes.search(path.read_text())
    }
    # client.py is `vilamp ask`, which sends questions; webhooks.py posts alert events, which hold no picture;
    # walk.py calls its own application in the same process; servers.py and models.py list models for the set-up
    assert found == {"egress.py", "client.py", "webhooks.py", "walk.py", "servers.py", "models.py"}
