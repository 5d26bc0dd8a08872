"""What a network loses, between a publisher and the agent: no session ends, and no damaged picture is kept unmarked."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
import pytest
from aiortc import RTCRtpSender

from streaming.frame import Frame, FrameSettings
from streaming.publisher import FramesTrack, publish
from tests.support.relay import Network, relayed, sequence_of
from tests.support.streams import TOKEN, Site, whip_site
from tests.support.timed_pictures import draw_rgb, now_ms, read
from tests.support.waiting import until

RATE_HZ = 15.0
WIDTH, HEIGHT = 320, 192


async def timed(sent: list[int]) -> AsyncIterator[np.ndarray]:
    """Draw pictures without end. `sent`: when each was drawn, in milliseconds as they show it."""
    while True:
        sent.append(now_ms())
        yield draw_rgb(sent[-1], WIDTH, HEIGHT)


@dataclass
class Kept:
    """The frames that a session kept so far, and when the pictures sent to it were drawn."""

    site: Site
    sent: list[int]
    frames: list[Frame]
    shown: list[tuple[int | None, bool]]  # what `read` returns for each frame
    reader: "asyncio.Task[None]"

    @property
    def stats(self):
        return self.site.sources[0].stats

    def smeared_unmarked(self) -> int:
        return sum(wrong and not frame.damaged for frame, (_, wrong) in zip(self.frames, self.shown, strict=True))

    def last_drawn(self) -> int:
        """Return when the newest picture that a kept frame shows was drawn."""
        return max(drawn for drawn, _ in self.shown if drawn is not None)

    async def after(self, seconds: float) -> list[Frame]:
        """Return the frames that are kept of the next seconds' pictures, however long these take on this machine."""
        first, wanted = len(self.frames), len(self.sent) + round(seconds * RATE_HZ)
        await until(lambda: len(self.sent) >= wanted)
        await until(lambda: self.last_drawn() >= self.sent[wanted - 1])
        return self.frames[first:]


class Lossy:
    """Context manager: publish through `network` and keep `rate_hz` frames a second."""

    def __init__(self, network: Network, codec: str, rate_hz: float = 5.0) -> None:
        self._network, self._codec = network, codec
        self._settings = FrameSettings(rate_hz=rate_hz, handoff_frames=64)

    async def __aenter__(self) -> Kept:
        self._stack = AsyncExitStack()
        site = await self._stack.enter_async_context(whip_site(frames=self._settings))
        url = await self._stack.enter_async_context(relayed(site.url(), self._network))
        sent: list[int] = []
        track = FramesTrack(timed(sent), rate_hz=RATE_HZ)
        await self._stack.enter_async_context(publish(url, TOKEN, track, codec=self._codec, client=site.client))
        kept = Kept(site, sent, [], [], asyncio.create_task(asyncio.sleep(0)))

        async def keep() -> None:
            async for frame in site.sources[0].frames():
                kept.frames.append(frame)
                kept.shown.append(read(frame.image))

        kept.reader = asyncio.create_task(keep())
        self._stack.callback(kept.reader.cancel)
        await until(lambda: len(kept.frames) >= 5)
        return kept

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()


@pytest.fixture(params=["VP8", "H264"])
def codec(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def repeats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that ignores requests to repeat packets."""

    async def ignore(self: RTCRtpSender, sequence_number: int) -> None:
        return

    monkeypatch.setattr(RTCRtpSender, "_retransmit", ignore)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that gives a slow machine time to bring each packet."""
    monkeypatch.setattr("streaming.packets.PATIENCE_S", 10.0)


async def test_a_packet_that_is_lost_for_good_costs_few_frames(codec: str, repeats_nothing: None) -> None:
    network = Network()
    async with Lossy(network, codec) as kept:
        lost: list[int] = []

        def one(data: bytes) -> bool:
            if not lost:
                lost.append(sequence_of(data))
            return sequence_of(data) == lost[0]

        network.drops = one
        later = await kept.after(4.0)
        assert lost
        assert len(later) >= 13  # of 20: 0.7 s for the packet, a moment for the key frame
        assert kept.stats.packets_lost == 1
        assert kept.stats.key_frames_requested >= 1
        assert kept.stats.damaged > 0
        assert kept.smeared_unmarked() == 0
        assert kept.stats.state == "live"


async def test_a_packet_is_repeated_even_if_its_first_repeat_is_lost(codec: str, patient: None) -> None:
    network = Network()
    async with Lossy(network, codec) as kept:
        asked = kept.stats.key_frames_requested
        lost: list[int] = []

        def twice(data: bytes) -> bool:
            sequence = sequence_of(data)
            if lost and (sequence != lost[0] or len(lost) == 2):
                return False
            lost.append(sequence)
            return True

        network.drops = twice
        await until(lambda: network.num_dropped == 2)
        await kept.after(2.0)
        assert network.num_dropped == 2
        assert kept.stats.packets_lost == 0
        assert kept.stats.damaged == 0
        assert kept.stats.key_frames_requested == asked


async def test_an_outage_of_two_seconds(codec: str) -> None:
    network = Network()
    async with Lossy(network, codec) as kept:
        network.down = True
        last_ms = kept.sent[-1]
        await asyncio.sleep(2.0)
        assert kept.sent[-1] > last_ms
        assert kept.last_drawn() <= last_ms
        network.down = False
        assert len(await kept.after(3.0)) >= 8
        assert kept.smeared_unmarked() == 0
        assert kept.stats.state == "live"


async def test_many_packets_are_lost_for_good(codec: str, repeats_nothing: None) -> None:
    network = Network(loss=0.05)
    async with Lossy(network, codec) as kept:
        assert len(await kept.after(6.0)) >= 5
        assert kept.smeared_unmarked() == 0
        assert kept.stats.packets_lost > 0


async def test_jitter_and_disorder_cost_nothing(codec: str, patient: None) -> None:
    async with Lossy(Network(jitter_s=0.3), codec, math.inf) as kept:
        first = len(kept.frames)
        await until(lambda: len(kept.frames) >= first + 60)
        places = [kept.sent.index(ms) for ms, _ in kept.shown[first : first + 60] if ms is not None]
        assert len(places) == 60
        assert places[-1] - places[0] <= 59 + kept.stats.shed + kept.stats.dropped  # a slow machine may leave some out
        assert kept.stats.packets_lost == 0
        assert kept.stats.damaged == 0
        assert kept.smeared_unmarked() == 0


async def test_damaged_frames_are_kept_and_marked_if_no_key_frame_can_be_had(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ignore(self: RTCRtpSender, packet: object) -> None:
        return

    network = Network()
    async with Lossy(network, codec) as kept:
        monkeypatch.setattr(RTCRtpSender, "_handle_rtcp_packet", ignore)
        network.down = True
        await asyncio.sleep(1.0)
        network.down = False
        await until(lambda: any(frame.damaged for frame in kept.frames))
        first = next(number for number, frame in enumerate(kept.frames) if frame.damaged)
        assert kept.stats.key_frames_requested >= 4  # the sender was given time to answer
        await until(lambda: len(kept.frames) >= first + 8)
        assert all(frame.damaged for frame in kept.frames[first:])
        monkeypatch.undo()
        await until(lambda: not kept.frames[-1].damaged)
        assert kept.smeared_unmarked() == 0
