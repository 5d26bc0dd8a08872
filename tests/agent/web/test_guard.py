"""Guessing tokens is slowed, counted and logged; a valid token always works."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest

from agent.metrics import Metrics
from agent.web import guard
from agent.web.guard import MAX_DELAYED, MAX_WRONG, Guesses, address_of
from tests.support.agents import served

WRONG = {"Authorization": "Bearer wrong-000000000000"}


async def test_guesses_are_slowed_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(tmp_path) as site, httpx.AsyncClient(base_url=site.url, timeout=30) as http:
        for _ in range(MAX_WRONG):
            assert (await http.get("/v1/cameras", headers=WRONG)).status_code == 401
        loop = asyncio.get_running_loop()
        for method, path in (("GET", "/v1/cameras"), ("POST", "/whip/door"), ("POST", "/v1/chat/completions")):
            began = loop.time()
            slowed = await http.request(method, path, headers=WRONG)
            assert (slowed.status_code, slowed.headers["retry-after"]) == (429, "1")
            assert slowed.json()["error"]["code"] == "too_many_wrong_tokens"
            assert loop.time() - began > 0.9
        assert (await http.get("/v1/cameras", headers=site.headers())).status_code == 200  # others there go on
        assert (await http.get("/healthz", headers=WRONG)).status_code == 200
        assert (await http.get("/v1/cameras")).status_code == 401  # no token is no guess
        metrics = (await http.get("/metrics", headers=site.headers())).text
    assert f"vilamp_wrong_tokens_total {MAX_WRONG + 3}.0" in metrics
    said = [record for record in caplog.records if record.name == "agent.web.guard"]
    assert [(record.levelno, record.address) for record in said] == [(logging.WARNING, "127.0.0.1")]  # type: ignore[attr-defined]


async def test_guesses_in_parallel_are_not_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While many refusals are delayed, a token is not even looked at, unless it was used from that address before."""
    monkeypatch.setattr(guard, "DELAY_S", 3.0)  # longer than the requests below take on a slow machine
    async with served(tmp_path) as site, httpx.AsyncClient(base_url=site.url, timeout=30) as http:
        assert (await http.get("/v1/cameras", headers=site.headers("asker"))).status_code == 200
        for _ in range(MAX_WRONG):
            await http.get("/v1/cameras", headers=WRONG)
        held = [asyncio.create_task(http.get("/v1/cameras", headers=WRONG)) for _ in range(MAX_DELAYED)]
        guesses = _guesses_of(site.app.middleware_stack)
        while guesses.delayed["127.0.0.1"] < MAX_DELAYED:
            await asyncio.sleep(0.005)
        never_used = await http.get("/v1/cameras", headers=site.headers("owner"))
        used = await http.get("/v1/cameras", headers=site.headers("asker"))
        assert (never_used.status_code, used.status_code) == (429, 200)
        assert {(await each).status_code for each in held} == {429}
        assert (await http.get("/v1/cameras", headers=site.headers("owner"))).status_code == 200
        assert not guesses.delayed


def _guesses_of(app: object) -> Guesses:
    while not isinstance(found := getattr(app, "_guesses", None), Guesses):
        app = getattr(app, "_app", None) or app.app  # type: ignore[attr-defined]
    return found


async def test_expired_links_do_not_count_as_guesses(tmp_path: Path) -> None:
    async with served(tmp_path) as site, httpx.AsyncClient(base_url=site.url, timeout=30) as http:
        expired = site.auth.issue("publish:door", site.agent.clock() - 100, 10)
        for _ in range(MAX_WRONG + 5):
            refused = await http.get("/whip/door", headers={"Authorization": f"Bearer {expired.secret}"})
            assert refused.status_code == 401
            assert "expired" in refused.json()["detail"]


async def test_without_security_nothing_is_counted(tmp_path: Path) -> None:
    async with (
        served(tmp_path, security={"enabled": False}) as site,
        httpx.AsyncClient(base_url=site.url, timeout=30) as http,
    ):
        for _ in range(MAX_WRONG + 5):
            assert (await http.get("/v1/cameras", headers=WRONG)).status_code == 200


def test_only_the_last_minute_counts() -> None:
    guesses = Guesses()
    assert [guesses.add_wrong("a", float(second)) for second in range(0, 200, 10)] == [False] * 20
    assert not any(guesses.add_wrong("b", 300.0) for _ in range(MAX_WRONG))
    assert guesses.add_wrong("b", 301.0)
    assert not guesses.add_wrong("b", 400.0)
    for number in range(10_000):  # of so many addresses only the last are remembered
        guesses.add_wrong(str(number), 500.0)
        guesses.add_valid(str(number), "Bearer x")
    assert len(guesses._wrong) <= 4096
    assert len(guesses._used) <= 4096
    metrics = Metrics()
    metrics.watch([guesses.reader()])
    assert b"vilamp_wrong_tokens_total 10042.0" in metrics.text()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::99", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("behind a proxy", "behind a proxy"),
    ],
)
def test_guesses_are_counted_by_network_address(host: str, address: str) -> None:
    assert address_of({"type": "http", "client": (host, 1)}) == address
    assert address_of({"type": "http", "client": None}) == ""
