"""From a camera's settings to its source: user and password, and what happens to files behind addresses."""

import asyncio
from pathlib import Path

from agent.settings.settings import CameraSettings, effective
from agent.settings.source import load_settings
from streaming.frame import FrameSettings
from streaming.media import open_source
from tests.support.agents import running
from tests.support.rtsp import rtsp_server
from tests.support.streams import take, write_clip
from tests.support.waiting import until
from tests.support.web import web

PASSWORD = "p@ss/w?r#d%:"


async def test_user_and_password_are_fields() -> None:
    async with rtsp_server(password=PASSWORD) as rtsp:
        url = f"rtsp://127.0.0.1:{rtsp.port}/live"
        camera = CameraSettings(url=url, username="ann", password=PASSWORD)  # type: ignore[arg-type]
        source = open_source(camera.address, "gate", FrameSettings(rate_hz=20.0))
        assert await take(source.frames(), 1)
        await source.close()


def test_the_password_is_shown_nowhere() -> None:
    environ = {
        "VILAMP_CAMERAS__GATE__URL": "rtsp://gate/1",
        "VILAMP_CAMERAS__GATE__USERNAME": "ann",
        "VILAMP_CAMERAS__GATE__PASSWORD": PASSWORD,
    }
    settings = load_settings(None, environ=environ)
    assert PASSWORD not in f"{effective(settings)}{settings!r}"


async def test_a_file_by_address_is_played_once(tmp_path: Path) -> None:
    whole, cut = (write_clip(tmp_path / f"{name}.mkv", num=20).read_bytes() for name in ("whole", "cut"))
    with web() as site:
        site.pages |= {"/whole.mkv": (200, {}, whole), "/cut.mkv": (200, {}, cut[: len(cut) // 2])}
        cameras = {name: {"url": site.url(f"/{name}.mkv"), "rate_hz": 5} for name in ("whole", "cut")}
        async with running(tmp_path / "data", cameras=cameras) as agent:
            await until(lambda: agent.cameras.played == {"whole", "cut"})
            assert agent.store.stats("whole").frames == 10
            assert (agent.cameras.problem("whole") or "").startswith("its file has been played to the end")
            assert "is truncated or damaged" in (agent.cameras.problem("cut") or "")
            asked = len(site.asked)
            await asyncio.sleep(1.5)
            assert len(site.asked) == asked
