"""One opened PyAV input: packets in, decoded frames with media time out.

Blocking throughout: everything here runs in a `Worker`. Decides what is damage and what the end. Knows neither pacing
nor reconnecting nor wall clocks.
"""

import logging
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av

from streaming.errors import MediaDamaged, MediaError, MediaLost, MediaNotFound, MediaStalled, MediaUnreadable
from streaming.redact import redact

logger = logging.getLogger(__name__)

_PRFT = struct.Struct("=q")  # AVProducerReferenceTime begins with the wall clock, int64 microseconds
_ENDS_EARLY_S = 1.0  # a file that lacks more than this (and 2 %) of its declared length is truncated
_ENDS_EARLY_PART = 0.02


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded frame. `media_s`: presentation time in the medium's own seconds, None if it has none."""

    frame: av.VideoFrame
    ticks: int | None
    media_s: float | None
    reference: tuple[float, int] | None  # (sender's unix seconds, ticks) if the packet carried a reference time


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a medium says of itself. None: it does not say."""

    duration_s: float | None
    rate_hz: float | None
    num_frames: int | None
    width: int
    height: int
    codec: str


class Input:
    """An open medium. `frames()` may be iterated once. Raises MediaError kinds from opening and from `frames()`."""

    def __init__(
        self, url: str, *, live: bool, format: str | None = None, options: Mapping[str, str] | None = None,  # noqa: A002
        timeout_s: float | None = None,
    ) -> None:  # fmt: skip
        self.url = url
        self.live = live
        self.num_frames = 0
        self._decode_errors = 0
        try:
            self._container = av.open(
                url, format=format, options=dict(options or {}), timeout=timeout_s, metadata_errors="replace"
            )
        except (av.FFmpegError, OSError) as error:
            raise _opening_error(url, live, error) from None
        if not self._container.streams.video:
            self._container.close()
            raise MediaUnreadable(f"{redact(url)} has no video track; name a medium that has one")
        self._stream = self._container.streams.video[0]
        # Frame threads hand frames over late by as many frames as there are threads: fine for a file, not for a camera.
        # One thread a camera, or a hundred cameras would have a hundred times as many threads as there are cores.
        self._stream.thread_type = "SLICE" if live else "AUTO"
        self._stream.codec_context.thread_count = 1 if live else 0

    @property
    def clock_rate_hz(self) -> float:
        """Ticks a second."""
        base = self._stream.time_base
        return base.denominator / base.numerator if base else 90_000.0

    def take_decode_errors(self) -> int:
        """Packets that could not be decoded since the last call."""
        taken, self._decode_errors = self._decode_errors, 0
        return taken

    def info(self) -> MediaInfo:
        stream, container = self._stream, self._container
        duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
        if duration_s is None and container.duration:
            duration_s = container.duration / av.time_base
        rate = stream.average_rate
        return MediaInfo(
            duration_s=duration_s,
            rate_hz=float(rate) if rate else None,
            num_frames=stream.frames or None,
            width=stream.width,
            height=stream.height,
            codec=stream.codec_context.name,
        )

    def frames(self) -> Iterator[Decoded]:
        """Every frame that can be decoded, in order. The end of a healthy file ends the iteration; see the errors."""
        reached_s: float | None = None
        first_s: float | None = None
        failure = ""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.EOFError):
                break
            except (av.FFmpegError, OSError) as error:
                if self.live and isinstance(error, av.ExitError):
                    raise MediaStalled(f"{redact(self.url)}: {_reason(error)}") from None
                failure = _reason(error)
                break
            reference = _reference_time(packet)
            for frame in self._decode(packet):
                media_s = frame.time
                if media_s is not None:
                    first_s = media_s if first_s is None else first_s
                    reached_s = media_s
                self.num_frames += 1
                yield Decoded(frame, frame.pts, media_s, reference)
        self._judge_end(failure, None if reached_s is None or first_s is None else reached_s - first_s)

    def _decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        """A packet that cannot be decoded is counted and passed over: the decoder recovers at the next key frame."""
        try:
            return packet.decode()  # type: ignore[no-any-return]
        except av.EOFError:
            return []
        except (av.FFmpegError, OSError) as error:
            self._decode_errors += 1
            logger.debug("%s: a packet could not be decoded: %s", redact(self.url), _reason(error))
            return []

    def _judge_end(self, failure: str, covered_s: float | None) -> None:
        if self.live:
            raise MediaLost(f"{redact(self.url)}: {failure or 'the camera ended the stream'}")
        if self.num_frames == 0:
            raise MediaUnreadable(
                f"{redact(self.url)}: no frame could be decoded ({failure or 'damaged or empty'}). Copy the file "
                "again, or convert it: ffmpeg -i FILE -c:v libx264 NEW.mp4"
            )
        failure = failure or self._missing_end(covered_s)
        if failure:
            raise MediaDamaged(
                f"{redact(self.url)} is truncated or damaged ({failure}). The {self.num_frames} frames "
                f"({covered_s or 0.0:.1f} s) before the damage were kept. Copy the file again, "
                "or repair it: ffmpeg -i FILE -c copy NEW.mp4"
            )

    def _missing_end(self, covered_s: float | None) -> str:
        """In words how much is missing of the declared length, or "". An audio track's length says nothing."""
        declared_s = self.info().duration_s
        if covered_s is None or declared_s is None or (not self._stream.duration and len(self._container.streams) > 1):
            return ""
        interval_s = covered_s / max(1, self.num_frames - 1)
        missing_s = declared_s - covered_s - interval_s
        if missing_s <= _ENDS_EARLY_S + interval_s + _ENDS_EARLY_PART * declared_s:
            return ""
        return f"{missing_s:.1f} of {declared_s:.1f} s are missing"

    def close(self) -> None:
        self._container.close()


def probe(path: str) -> MediaInfo:
    """What the file says of itself. Raises MediaNotFound, MediaUnreadable. Blocking."""
    medium = Input(path, live=False, options=FILE_OPTIONS)
    try:
        return medium.info()
    finally:
        medium.close()


# A playlist that poses as a video must not make us fetch addresses.
FILE_OPTIONS: Mapping[str, str] = {"protocol_whitelist": "file"}


def _reference_time(packet: av.Packet) -> tuple[float, int] | None:
    if packet.pts is None or not packet.has_sidedata("prft"):
        return None
    data = bytes(packet.get_sidedata("prft"))
    if len(data) < _PRFT.size:
        return None
    return _PRFT.unpack_from(data)[0] / 1e6, packet.pts


def _reason(error: Exception) -> str:
    """The error in words, without the address FFmpeg puts into it."""
    if isinstance(error, av.ExitError):  # PyAV's own time limit
        return "nothing came within the time limit"
    return getattr(error, "strerror", None) or type(error).__name__


def _opening_error(url: str, live: bool, error: Exception) -> MediaError:
    shown, reason = redact(url), _reason(error)
    if live:
        return MediaLost(f"{shown}: {reason}")
    if isinstance(error, FileNotFoundError):
        return MediaNotFound(f"{shown}: no such file; check the path")
    if isinstance(error, PermissionError | IsADirectoryError):
        return MediaUnreadable(f"{shown}: {reason}; name a video file this user may read")
    if Path(url).is_file() and Path(url).stat().st_size == 0:
        reason = "the file is empty"
    return MediaUnreadable(
        f"{shown} cannot be read as video ({reason}). If it was still being copied or recorded, wait for its end and "
        "copy it again; otherwise convert it: ffmpeg -i FILE -c:v libx264 NEW.mp4"
    )
