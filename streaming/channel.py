"""The data channel of a publisher's session: text messages in both directions, beside the video.

Overload policy: a message that is too large, not text, or above the rate limit is refused, and the consumer gets a
`Refusal` in its place (for the rate limit at most one a second). If the consumer is slow, the newest MAX_WAITING
messages wait for it, and older ones are dropped. Sending waits until the peer has accepted earlier messages; a channel
whose peer accepts nothing for SEND_TIMEOUT_S is closed.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from aiortc import RTCDataChannel
from aiortc.exceptions import InvalidStateError

from streaming.handoff import LatestSlot, SlotClosed

LABEL = "vilamp"  # channels with other labels are closed
MAX_SENT_BYTES = 60_000  # a peer that declares no limit accepts 65,536 (RFC 8841 section 6.1)
MAX_MESSAGE_BYTES = 16_384  # of a received message
RATE_HZ, BURST = 100.0, 200  # received messages a second, and at once
MAX_WAITING = 64
SEND_TIMEOUT_S = 10.0
_SEND_AHEAD_BYTES = 131_072  # buffered by the transport, not yet acknowledged

RefusalReason = Literal["too_large", "not_text", "too_fast"]


class ChannelClosed(Exception):
    """The channel is closed: the peer is gone, or does not accept messages."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Stands in the message stream for a message that was refused, with the reason."""

    reason: RefusalReason


class RateLimit:
    """Allows `burst` messages in immediate succession, and `rate_hz` a second on average.

    With a burst of 2 and 1 Hz: three messages at 0 s: yes, yes, no; two messages at 1 s: yes, no.
    """

    def __init__(self, rate_hz: float, burst: int) -> None:
        self._rate_hz = rate_hz
        self._burst = burst
        self._left = float(burst)
        self._at: float | None = None

    def allows(self, now: float) -> bool:
        """Return whether one more message is allowed at `now` (seconds of a monotonic clock), and count it if so."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate_hz)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Channel:
    """An open data channel with one consumer. `counts`: numbers of messages accepted, and of others by reason."""

    def __init__(self, channel: RTCDataChannel, counts: Counter[str], now: Callable[[], float]) -> None:
        """`counts` is updated. `now`: returns the seconds of a monotonic clock."""
        self._channel = channel
        self._counts = counts
        self._now = now
        self._rate = RateLimit(RATE_HZ, BURST)
        self._complaints = RateLimit(1.0, 1)
        self._inbox: LatestSlot[str | Refusal] = LatestSlot(MAX_WAITING)
        self._room = asyncio.Event()
        channel.bufferedAmountLowThreshold = _SEND_AHEAD_BYTES // 2
        channel.on("message", self._receive)
        channel.on("bufferedamountlow", self._room.set)
        channel.on("close", self.close)

    async def messages(self) -> AsyncIterator[str | Refusal]:
        """Yield the peer's messages in order until the channel closes, with a `Refusal` for each refused one."""
        with suppress(SlotClosed):
            while True:
                yield await self._inbox.get()

    async def send(self, text: str) -> None:
        """Send a message of at most MAX_SENT_BYTES in UTF-8. Waits until it can be buffered. Raises ChannelClosed."""
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                while self._channel.readyState == "open" and self._channel.bufferedAmount > _SEND_AHEAD_BYTES:
                    self._room.clear()
                    await self._room.wait()
            self._channel.send(text)
        except TimeoutError:
            self.close()
            raise ChannelClosed("the peer takes no messages") from None
        except (InvalidStateError, ValueError) as error:  # closed, or more than the peer accepts
            self.close()
            raise ChannelClosed(str(error) or "the channel has closed") from None

    def close(self) -> None:
        """Close the channel. `messages` still yields the messages that wait, and then ends."""
        self._inbox.close()
        self._room.set()
        if self._channel.readyState == "open":
            self._channel.close()

    def _receive(self, message: str | bytes) -> None:
        refused = self._refused(message)
        self._counts[refused or "taken"] += 1
        if refused == "too_fast" and not self._complaints.allows(self._now()):
            return
        if not self._inbox.put(
            message if refused is None and isinstance(message, str) else Refusal(refused or "not_text")
        ):
            self._counts["lost"] += 1

    def _refused(self, message: str | bytes) -> RefusalReason | None:
        if not self._rate.allows(self._now()):
            return "too_fast"
        if not isinstance(message, str):
            return "not_text"
        too_large = len(message) > MAX_MESSAGE_BYTES or len(message.encode()) > MAX_MESSAGE_BYTES
        return "too_large" if too_large else None


Converse = Callable[[Channel], Coroutine[Any, Any, None]]
"""Serves an open channel; cancelled when the session ends."""
