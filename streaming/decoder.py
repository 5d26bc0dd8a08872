"""One opened PyAV input: packets in, decoded frames with media time out.

Blocking throughout: everything here runs in a `Worker`. Decides which track is the video, what is damage and what the
end. Knows neither pacing nor reconnecting nor wall clocks.
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from streaming.errors import (
    MediaDamaged,
    MediaError,
    MediaLost,
    MediaNotFound,
    MediaStalled,
    MediaUnreadable,
    PictureTooLarge,
)
from streaming.filetimes import USUAL_INTERVAL_S, FileTimes, sane_interval
from streaming.http_input import HttpOpener
from streaming.libav import FAULTS, in_words, reason, shown
from streaming.picture import MAX_PIXELS
from streaming.redact import hint
from streaming.tracks import PixelAspect, best_track, films

_PRFT = struct.Struct("=q")  # AVProducerReferenceTime begins with the wall clock, int64 microseconds
_ENDS_EARLY_S = 1.0  # a file that lacks more than this (and 2 %) of its declared length is truncated
_ENDS_EARLY_PART = 0.02
_GENERATE_PTS = 0x1  # AVFMT_FLAG_GENPTS, which PyAV sets: it guesses wrongly where frames are reordered
_MAY_STEP = 0x200  # AVFMT_TS_DISCONT: recordings of broadcasts, whose times may jump
_SMALL_BYTES = 64 << 20
_GAP_S, _GAP_WHERE_TIMES_JUMP_S = 10.0, 3.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded frame. `media_s`: of a file, seconds since its first frame; of a camera, its own seconds or None."""

    frame: av.VideoFrame
    ticks: int | None
    media_s: float | None
    pixel_aspect: float
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
        timeout_s: float | None = None, opener: HttpOpener | None = None,
    ) -> None:  # fmt: skip
        """`url`: the path of a file, or of a live camera what FFmpeg shall open; by `opener`, where one is given."""
        self._opener = opener
        self._shown = shown(url)
        self.live = live
        self.num_frames = 0
        self.remarks: dict[str, str] = {}  # what was wrong with the medium and was put right, in words
        self._decode_errors = 0
        if "\0" in url:  # FFmpeg would read the part before it
            raise MediaNotFound(f"{self._shown}: no such file; check the path")
        try:
            self._container = av.open(
                url if live else f"file:{url}",  # no part of a file's name is a protocol
                format=format,
                options=dict(options or {}) if live else {**FILE_OPTIONS, **(options or {})},
                timeout=timeout_s,
                metadata_errors="replace",
                io_open=opener,
            )
        except (MediaError, *FAULTS) as error:
            if opener is not None:
                opener.close()
            raise _opening_error(url, live, error) from None
        try:
            with in_words(f"{self._shown} cannot be read as video"):
                self._prepare()
        except MediaError:
            self.close()
            raise

    def _prepare(self) -> None:
        """Chooses the track and sets up its decoder."""
        tracks = self._container.streams.video
        if not films(tracks):
            cover = ", only a cover picture" if tracks else ""
            raise MediaUnreadable(f"{self._shown} has no video track{cover}; name a medium that has one")
        stream = best_track(tracks, self._container.duration and self._container.duration / av.time_base)
        if stream is None:
            raise MediaUnreadable(
                f"{self._shown}: the codec of its video is not known here; "
                + ("set the camera to H.264" if self.live else "convert it: ffmpeg -i FILE -c:v libx264 NEW.mp4")
            )
        context = stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            raise PictureTooLarge(
                f"{self._shown}: {context.width}x{context.height} is more than {MAX_PIXELS} pixels; "
                "lower the resolution"
            )
        # Frame threads hand frames over late by as many frames as there are threads: fine for a file, not for a camera.
        # One thread a camera, or a hundred cameras would have a hundred times as many threads as there are cores.
        context.thread_type = "SLICE" if self.live else "AUTO"
        context.thread_count = 1 if self.live else 0
        context.options = {"max_pixels": str(MAX_PIXELS)}  # a larger one later on is refused before it is decoded
        self._container.flags &= ~_GENERATE_PTS
        self._stream = stream
        self._aspect = PixelAspect(stream)

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
        """What the medium says of itself. Raises MediaUnreadable."""
        with in_words(f"{self._shown} cannot be read as video"):
            stream, container = self._stream, self._container
            duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            if duration_s is None and container.duration:
                duration_s = container.duration / av.time_base
            rate = stream.guessed_rate or stream.average_rate
            return MediaInfo(
                duration_s=duration_s if duration_s is None or duration_s > 0 else None,
                rate_hz=float(rate) if rate else None,
                num_frames=stream.frames or None,
                width=stream.codec_context.width,
                height=stream.codec_context.height,
                codec=stream.codec_context.name,
            )

    @property
    def knows_its_length(self) -> bool:
        """False for raw streams, and for recordings of broadcasts, whose first and last timestamp are all there is."""
        return self.info().duration_s is not None and not self._container.format.flags & _MAY_STEP

    def measured_s(self) -> float | None:
        """The length by the packets, without decoding; None if there are none. Nothing can be read afterwards."""
        clock, num_packets = self._clock(), 0
        with suppress(*FAULTS):  # damage: reading the frames will say so
            for packet in self._container.demux(self._stream):
                if packet.size:
                    num_packets += 1
                    clock.place(packet.dts, packet.duration, packet.time_base)
        return clock.shown_s if num_packets else None

    def frames(self) -> Iterator[Decoded]:
        """Every frame that can be decoded, in order. The end of a healthy file ends the iteration; see the errors."""
        clock = None if self.live else self._clock()
        failure = ""
        packets = self._container.demux(self._stream)
        while True:
            try:
                if self._opener is not None:
                    self._opener.begin()
                packet = next(packets)
                reference = _reference_time(packet)
            except (StopIteration, av.EOFError):
                break
            except FAULTS as error:
                if self.live and isinstance(error, av.ExitError):
                    raise MediaStalled(f"{self._shown}: {reason(error)}") from None
                failure = reason(error)
                break
            for frame in self._decode(packet):
                media_s = _seconds(frame.pts, frame.time_base) if clock is None else clock.next(frame)
                self.num_frames += 1
                if self._opener is not None:
                    self._opener.playing()
                yield Decoded(frame, frame.pts, media_s, self._aspect.now(), reference)
        if clock is None:
            raise MediaLost(f"{self._shown}: {failure or 'the camera ended the stream'}")
        self._judge_end(failure, clock)

    def _decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        """A packet that cannot be decoded is counted and passed over: the decoder recovers at the next key frame."""
        try:
            return packet.decode()  # type: ignore[no-any-return]
        except av.EOFError:
            return []
        except FAULTS:
            self._decode_errors += 1
            return []

    def _clock(self) -> "FrameClock":
        rates = [float(rate) for rate in (self._stream.guessed_rate, self._stream.average_rate) if rate]
        gap_s = _GAP_WHERE_TIMES_JUMP_S if self._container.format.flags & _MAY_STEP else _GAP_S
        return FrameClock(rates, gap_s, self.remarks)

    def _judge_end(self, failure: str, clock: "FrameClock") -> None:
        if self.num_frames == 0:
            raise MediaUnreadable(
                f"{self._shown}: no frame could be decoded ({failure or 'damaged or empty'}). Copy the file "
                "again, or convert it: ffmpeg -i FILE -c:v libx264 NEW.mp4"
            )
        failure = failure or self._missing_end(clock)
        if failure:
            raise MediaDamaged(
                f"{self._shown} is truncated or damaged ({failure}). The {self.num_frames} frames "
                f"({clock.covered_s:.1f} s) before the damage were kept. Copy the file again, "
                "or repair it: ffmpeg -i FILE -c copy NEW.mp4"
            )

    def _missing_end(self, clock: "FrameClock") -> str:
        """In words how much is missing of the declared length, or "". An audio track's length says nothing."""
        declared_s = self.info().duration_s
        if declared_s is None or clock.joined or (not self._stream.duration and len(self._container.streams) > 1):
            return ""
        interval_s = clock.covered_s / max(1, self.num_frames - 1)
        missing_s = declared_s - max(clock.covered_s + interval_s, clock.reached_s + interval_s, clock.shown_s)
        if missing_s <= _ENDS_EARLY_S + interval_s + _ENDS_EARLY_PART * declared_s:
            return ""
        return f"{missing_s:.1f} of {declared_s:.1f} s are missing"

    def close(self) -> None:
        """Close it. Idempotent."""
        self._container.close()
        if self._opener is not None:
            self._opener.close()


def length_s(path: str) -> float | None:
    """The length of a video file in seconds, steps of its timestamps taken out; None where it does not say.

    Reads a small file whole, and a large one where its container only guesses. Raises MediaNotFound, MediaUnreadable.
    Blocking.
    """
    medium = Input(path, live=False)
    try:
        declared_s = medium.info().duration_s
        if medium.knows_its_length and Path(path).stat().st_size > _SMALL_BYTES:
            return declared_s
        return medium.measured_s() or declared_s
    except OSError as error:
        raise _opening_error(path, False, error) from None
    finally:
        medium.close()


class FrameClock:
    """When the frames of a file are shown, in seconds since the first; says what it had to put right."""

    def __init__(self, rates_hz: list[float], gap_s: float, remarks: dict[str, str]) -> None:
        """`rates_hz`: what the file says of its rate. Without a frame for `gap_s` its timestamps are taken to have stepped,
        or for ten times the interval that it speaks of."""
        self.covered_s = 0.0  # from the first frame to the last
        self.shown_s = 0.0  # the same, and as long as the last one is shown
        self.reached_s = 0.0  # the largest timestamp, as written in the file
        intervals_s = [sane_interval(1.0 / rate_hz) for rate_hz in rates_hz if rate_hz > 0] or [USUAL_INTERVAL_S]
        self._times = FileTimes(0.0, intervals_s[0], gap_s=max(gap_s, 10 * max(intervals_s)))
        self._remarks = remarks
        self._has_presentation_times = False

    @property
    def joined(self) -> bool:
        """True once timestamps have stepped."""
        return self._times.num_joined > 0

    def next(self, frame: av.VideoFrame) -> float:
        """The time of the frame, which the decoder hands over in presentation order."""
        self._has_presentation_times = self._has_presentation_times or frame.pts is not None
        # Containers such as AVI only number the packets. The decoder passes these numbers on in rising order.
        ticks = frame.pts if self._has_presentation_times else frame.dts
        return self.place(ticks, frame.duration, frame.time_base)

    def place(self, ticks: int | None, duration: int | None, time_base: Fraction | None) -> float:
        """The time of the next frame or packet, of which `ticks` are rising numbers."""
        duration_s = _seconds(duration or None, time_base)
        media_s = _seconds(ticks, time_base)
        if media_s is not None:
            self.reached_s = max(self.reached_s, media_s)
        elif self.covered_s == 0.0:
            rate_hz = 1.0 / sane_interval(duration_s)
            self._remarks["times"] = f"it has no timestamps: taken as {rate_hz:.4g} frames per second"
        num_joined = self._times.num_joined
        self.covered_s = self._times.next(media_s, duration_s)
        self.shown_s = self.covered_s + sane_interval(duration_s)
        if self._times.num_joined > num_joined:
            self._remarks["times"] = (
                f"its timestamps step forward or back ({self._times.num_joined} times, by up to "
                f"{self._times.longest_step_s:.3g} s): the parts follow one another without a gap"
            )
        elif num_joined and not self._times.num_joined:
            self._remarks["times"] = "its pictures are far apart, which at first looked like a step of its timestamps"
        return self.covered_s


def probe(path: str) -> MediaInfo:
    """What the file says of itself. Raises MediaNotFound, MediaUnreadable. Blocking."""
    medium = Input(path, live=False)
    try:
        return medium.info()
    finally:
        medium.close()


# Demuxers that read other files or addresses than the one that is named, or a device. A file that is a playlist must not
# make us open what it lists.
_INDIRECT = frozenset({
    "hls", "dash", "concat", "sdp", "rtsp", "rtp", "sap", "imf", "image2", "image2pipe", "lavfi", "vobsub",
    "webm_dash_manifest", "smoothstreaming", "hds", "alsa", "oss", "fbdev", "kmsgrab", "x11grab", "v4l2", "video4linux2",
    "pulse", "jack", "libcdio", "iec61883", "dvdvideo", "vapoursynth", "avisynth",
})  # fmt: skip


_TEXT = frozenset({"tty", "bin", "xbin", "adf", "idf"})  # letters drawn as pictures: a text is no video


def direct_formats(*others: str) -> str:
    """Names of the demuxers that read the file itself, and of `others`, as FFmpeg takes them."""
    names = {part for name in av.formats_available for part in name.split(",")}
    return ",".join(sorted((names - _INDIRECT - _TEXT) | set(others)))


FILE_OPTIONS: Mapping[str, str] = {"protocol_whitelist": "file", "format_whitelist": direct_formats()}


def _seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    return None if ticks is None or not time_base else float(ticks * time_base)


def _reference_time(packet: av.Packet) -> tuple[float, int] | None:
    if packet.pts is None or not packet.has_sidedata("prft"):
        return None
    data = bytes(packet.get_sidedata("prft"))
    if len(data) < _PRFT.size:
        return None
    return _PRFT.unpack_from(data)[0] / 1e6, packet.pts


def _opening_error(url: str, live: bool, error: BaseException) -> MediaError:
    if isinstance(error, MediaError):
        return error
    name, why = shown(url), reason(error)
    if live:
        advice = hint(url)
        return MediaLost(f"{name}: {why}{f' ({advice})' if advice else ''}")
    if isinstance(error, FileNotFoundError):
        return MediaNotFound(f"{name}: no such file; check the path")
    if isinstance(error, PermissionError | IsADirectoryError):
        return MediaUnreadable(f"{name}: {why}; name a video file this user may read")
    if isinstance(error, av.ArgumentError):
        why = "it is a playlist, another list of files or a text, which are not read, or damaged"
    elif _is_empty(url):
        why = "the file is empty"
    return MediaUnreadable(
        f"{name} cannot be read as video ({why}). If it was still being copied or recorded, wait for its end and "
        "copy it again; otherwise convert it: ffmpeg -i FILE -c:v libx264 NEW.mp4"
    )


def _is_empty(path: str) -> bool:
    try:
        return Path(path).is_file() and Path(path).stat().st_size == 0
    except (OSError, ValueError):
        return False
