"""CORS: off unless the setting lists origins; preflights need no token."""

from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from agent.settings.settings import Settings
from tests.support.agents import served

PANEL, OTHER = "https://panel.example", "https://evil.example"
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}


async def test_listed_origins_may_use_the_api(tmp_path: Path) -> None:
    async with (
        served(tmp_path, security={"cors_origins": [PANEL, "http://localhost:3000"]}) as site,
        httpx.AsyncClient(base_url=site.url, timeout=30) as http,
    ):
        preflight = await http.options("/v1/chat/completions", headers={"Origin": PANEL, **ASKED})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == PANEL
        assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
        for headers, status in ((site.headers(), 200), ({}, 401)):  # a page must be able to read refusals too
            answer = await http.get("/v1/cameras", headers={"Origin": PANEL, **headers})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, PANEL)
        assert "retry-after" in answer.headers["access-control-expose-headers"].lower()
        assert "access-control-allow-credentials" not in answer.headers
        refused = await http.options("/v1/chat/completions", headers={"Origin": OTHER, **ASKED})
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        answer = await http.get("/v1/cameras", headers={"Origin": OTHER, **site.headers()})
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in (await http.get("/metrics", headers={"Origin": PANEL})).headers


async def test_it_is_off_by_default_and_may_be_on_for_all(tmp_path: Path) -> None:
    async with served(tmp_path / "off") as site, httpx.AsyncClient(base_url=site.url, timeout=30) as http:
        preflight = await http.options("/v1/chat/completions", headers={"Origin": PANEL, **ASKED})
        assert preflight.status_code == 405
        assert not [name for name in preflight.headers if name.startswith("access-control")]
        publishing = await http.options("/whip/door", headers={"Origin": PANEL, **ASKED})  # as RFC 9725 has it
        assert publishing.headers["access-control-allow-origin"] == "*"
    async with (
        served(tmp_path / "all", security={"cors_origins": ["*"]}) as site,
        httpx.AsyncClient(base_url=site.url, timeout=30) as http,
    ):
        answer = await http.get("/v1/cameras", headers={"Origin": OTHER, **site.headers()})
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_below_a_path_of_a_proxy(tmp_path: Path) -> None:
    changes = {"public_url": "https://agent.example/vilamp", "security": {"cors_origins": [PANEL]}}
    async with served(tmp_path, **changes) as site, httpx.AsyncClient(base_url=site.url, timeout=30) as http:
        for prefix in ("", "/vilamp"):
            answer = await http.get(f"{prefix}/v1/cameras/", headers={"Origin": PANEL, **site.headers()})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PANEL)
        assert (await http.get("/vilamp/")).status_code == 200


@pytest.mark.parametrize(
    "origin", ["panel.example", "https://panel.example/", "https://panel.example/x", "null", "https://A.b"]
)
def test_invalid_origins_are_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Settings.model_validate({"security": {"cors_origins": [origin]}})
