"""From decoded frames to RGB: only those that are kept, no larger than asked, and none that is absurd."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streaming import media, picture, session
from streaming.errors import PictureTooLarge
from streaming.frame import FrameSettings
from streaming.media import FileSource
from streaming.picture import fitted_size, to_rgb
from streaming.publisher import publish
from tests.streams import TOKEN, take, track, until, whip_site, write_clip


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The size of every frame that is converted from here on."""
    seen: list[tuple[int, int]] = []

    def counted(frame: av.VideoFrame, *args: Any) -> np.ndarray:
        seen.append((frame.width, frame.height))
        return to_rgb(frame, *args)

    monkeypatch.setattr(session, "to_rgb", counted)
    monkeypatch.setattr(media, "to_rgb", counted)
    return seen


async def test_a_publishers_frames_are_converted_only_when_kept(conversions: list[tuple[int, int]]) -> None:
    async with (
        whip_site(frames=FrameSettings(rate_hz=3.0)) as site,
        publish(site.url(), TOKEN, track(rate_hz=30.0), client=site.client),
    ):
        source = site.sources[0]
        frames = await take(source.frames(), 4)
        assert source.stats.received >= 20
        assert len(conversions) <= source.stats.kept
        assert len(frames) == 4


async def test_a_files_frames_are_converted_only_when_kept(tmp_path: Path, conversions: list[tuple[int, int]]) -> None:
    source = FileSource(str(write_clip(tmp_path / "clip.mp4")), "door", FrameSettings(rate_hz=1.0), pace="fast")
    frames = [frame async for frame in source.frames()]
    assert source.stats.received == 40
    assert len(frames) == len(conversions) == 4


async def test_a_frame_that_is_absurdly_large_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_PIXELS", 100 * 100)
    async with whip_site() as site, publish(site.url(), TOKEN, track(), client=site.client):
        source = site.sources[0]
        assert await take(source.frames(), 1) == []
        assert "lower the resolution" in source.stats.detail
        await until(lambda: site.server.counters.closed == {"too_large": 1})


def test_sizes() -> None:
    assert fitted_size(1920, 1080, 960, 960) == (960, 540)
    assert fitted_size(640, 480, 1920, 1080) == (640, 480)
    assert fitted_size(10_000, 1, 100, 100) == (100, 1)
    frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
    assert to_rgb(frame, 32, 32).shape == (24, 32, 3)
    with pytest.raises(PictureTooLarge):
        to_rgb(av.VideoFrame(9000, 9000, "yuv420p"), 1920, 1080)
