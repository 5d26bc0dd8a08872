"""Serving as `vilamp serve` does: the greeting, HTTPS, a port in use, and a quiet end."""

import asyncio
import os
import re
import signal
import ssl
from pathlib import Path

import httpx
import pytest

from agent.settings.settings import Settings
from agent.web.auth import TOKENS_FILE
from agent.web.server import CannotListen, listening, serve
from agent.web.tls import CERT_FILE
from tests.support.agents import settings_in


async def test_https_with_a_certificate_made_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statuses: list[int] = []

    async def started(url: str) -> None:
        context = ssl.create_default_context(cafile=str(tmp_path / CERT_FILE))
        asking.append(asyncio.create_task(ask(url, context)))

    async def ask(url: str, context: ssl.SSLContext) -> None:
        async with httpx.AsyncClient(base_url=url, verify=context) as http:
            statuses.extend([(await http.get(path)).status_code for path in ("/readyz", "/v1/models")])
        os.kill(os.getpid(), signal.SIGTERM)

    asking: list[asyncio.Task[None]] = []
    serving = asyncio.create_task(serve(settings_in(tmp_path, tls={"self_signed": True}), started=started))
    await serving  # ends in peace
    await asyncio.gather(*asking)
    assert statuses == [200, 401]
    said = capsys.readouterr().out
    assert said.startswith("ViLaMP Live answers at https://127.0.0.1:")
    assert "certificate SHA-256: " in said
    assert len(tokens_in(said)) == 4  # three tokens and the page's link, at the first start only
    assert re.search(r"^open it in a browser: https://127\.0\.0\.1:\d+/#token=vl_", said, re.MULTILINE)


def tokens_in(said: str) -> list[str]:
    """Find whole tokens; the random part of a token may contain its prefix again."""
    return re.findall(r"\bvl_[\w-]{43}", said)


async def greeting(settings: Settings, capsys: pytest.CaptureFixture[str]) -> str:
    """The output of one start."""

    async def started(url: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    await serve(settings, started=started)
    return capsys.readouterr().out


async def test_tokens_are_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = {"tokens": [{"name": "gate", "token": "not-to-be-shown-1234", "scopes": ["ask"]}]}
    first = await greeting(settings_in(tmp_path, security=ours), capsys)
    assert len(tokens_in(first)) == 4
    assert "not-to-be-shown" not in first
    again = await greeting(settings_in(tmp_path, security=ours), capsys)
    assert "vl_" not in again
    assert f"tokens: {tmp_path / TOKENS_FILE}" in again
    assert "security is off" in await greeting(settings_in(tmp_path, security={"enabled": False}), capsys)


async def test_a_port_in_use_is_reported_before_anything_is_loaded(tmp_path: Path) -> None:
    with listening(settings_in(tmp_path)) as taken:
        settings = settings_in(tmp_path, port=taken.getsockname()[1], model={"path": str(tmp_path / "absent")})
        with pytest.raises(CannotListen, match="choose another"):
            await serve(settings)


async def test_a_missing_checkpoint_is_reported(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, model={"path": str(tmp_path / "absent")})
    with pytest.raises((ValueError, OSError), match="absent"):
        await serve(settings)
