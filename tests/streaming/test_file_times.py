"""Files with missing, wrong or stepping timestamps: frames in order, the right length, and a remark."""

import fractions
import itertools
import math
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.clock import FileTimes
from streaming.decoder import length_s
from streaming.frame import Frame, FrameSettings
from streaming.media import FileSource
from tests.support.clips import encoded, write_raw, write_timed
from tests.support.streams import index_of, jpeg, picture

RATE_HZ = 25
STEP_S = 1 / RATE_HZ


def seconds(num: int, start: float = 0.0, step_s: float = STEP_S) -> list[float]:
    return [start + index * step_s for index in range(num)]


async def read(path: Path) -> tuple[list[float], list[Frame], str]:
    """Return the times of all frames since the first, the frames, and the remarks."""
    source = FileSource(str(path), "door", FrameSettings(rate_hz=math.inf), pace="fast", start_time=0.0)
    frames = [frame async for frame in source.frames()]
    assert all(b.time > a.time for a, b in itertools.pairwise(frames))
    return [round(frame.time, 3) for frame in frames], frames, " ".join(source.stats.remarks.values())


def in_order(frames: Iterable[Frame], num: int) -> bool:
    """Return whether they are `picture(0)`, `picture(1)` and so on, up to one step of brightness."""
    shown = [index_of(frame.image) for frame in frames]
    return len(shown) == num and all((index - i) % 20 in (0, 1, 19) for i, index in enumerate(shown))


@pytest.mark.parametrize(("codec", "b_frames"), [("libx264", 2), ("libx264", 0), ("mpeg4", 2), ("libx264", 5)])
async def test_reordered_frames_in_a_container_without_presentation_times(
    tmp_path: Path, codec: str, b_frames: int
) -> None:
    path = write_timed(tmp_path / "clip.avi", seconds(100), codec=codec, b_frames=b_frames, time_base=TICK)
    times, frames, said = await read(path)
    assert times == pytest.approx(seconds(100), abs=0.002)
    assert in_order(frames, 100)
    assert said == ""


TICK = fractions.Fraction(1, RATE_HZ)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mov", ".flv", ".mpg"])
async def test_reordered_frames_elsewhere(tmp_path: Path, suffix: str) -> None:
    codec = "mpeg2video" if suffix == ".mpg" else "libx264"
    path = write_timed(tmp_path / f"clip{suffix}", seconds(50), codec=codec, b_frames=2, time_base=TICK)
    times, frames, said = await read(path)
    assert times == pytest.approx(seconds(50), abs=0.002)
    assert in_order(frames, 50)
    assert said == ""


@pytest.mark.parametrize(("suffix", "codec"), [(".h264", "libx264"), (".hevc", "libx265"), (".m2v", "mpeg2video")])
@pytest.mark.parametrize("b_frames", [0, 2])
async def test_a_raw_stream_runs_at_its_own_rate(tmp_path: Path, suffix: str, codec: str, b_frames: int) -> None:
    rate_hz = 50 if suffix == ".m2v" else 10
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    packets = encoded((picture(i) for i in range(40)), codec=codec, rate_hz=rate_hz, b_frames=b_frames, options=options)
    times, frames, said = await read(write_raw(tmp_path / f"clip{suffix}", packets))
    assert times == pytest.approx(seconds(40, step_s=1 / rate_hz), abs=0.002)
    assert in_order(frames, 40)
    assert suffix == ".m2v" or f"no timestamps: {rate_hz} frames per second assumed" in said


async def test_a_raw_stream_without_a_rate_runs_at_25_hz(tmp_path: Path) -> None:
    (tmp_path / "clip.mjpeg").write_bytes(b"".join(jpeg(index) for index in range(30)))
    times, frames, _ = await read(tmp_path / "clip.mjpeg")
    assert times == pytest.approx(seconds(30), abs=0.002)
    assert len(frames) == 30


@pytest.mark.parametrize("step_s", [-0.5, -7.0, -3600.0, -95_443.7, 5.0, 30.0, 3600.0, 90_000.0])
async def test_recordings_joined_end_to_end(tmp_path: Path, step_s: float) -> None:
    """Two transport streams in one file, with unrelated timestamps."""
    first = write_timed(tmp_path / "a.ts", seconds(50, start=0.0))
    second = write_timed(tmp_path / "b.ts", seconds(50, start=2.0 + step_s if step_s > 0 else 0.0))
    if step_s < 0:
        first = write_timed(tmp_path / "a.ts", seconds(50, start=-step_s))
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    times, frames, said = await read(path)
    assert times[-1] == pytest.approx(99 * STEP_S, abs=0.1)
    assert len(frames) == 100
    assert "its timestamps jump (1 times" in said


@pytest.mark.parametrize("step_s", [1.0, 15.0, 300.0])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
async def test_a_time_lapse_that_declares_25_frames_a_second(tmp_path: Path, suffix: str, step_s: float) -> None:
    path = write_timed(tmp_path / f"lapse{suffix}", seconds(20, step_s=step_s))
    times, frames, said = await read(path)
    assert times[2:] == pytest.approx(seconds(18, 2 * step_s, step_s), abs=0.002)
    assert in_order(frames, 20)
    assert "timestamps jump" not in said
    assert length_s(str(path)) == pytest.approx(19 * step_s, abs=step_s)


@pytest.mark.parametrize(("suffix", "step_s"), [(".mkv", 20.0), (".mkv", 200_000.0), (".mp4", 20.0), (".mp4", 3600.0)])
async def test_a_step_forward_in_other_containers(tmp_path: Path, suffix: str, step_s: float) -> None:
    given_s = [*seconds(50), *seconds(50, start=2.0 + step_s)]
    times, frames, said = await read(write_timed(tmp_path / f"clip{suffix}", given_s, time_base=MILLI))
    assert times[-1] == pytest.approx(99 * STEP_S, abs=0.05)
    assert in_order(frames, 100)
    assert f"by up to {step_s:.3g} s" in said


MILLI = fractions.Fraction(1, 1000)


async def test_a_transport_stream_across_the_wrap_of_its_clock(tmp_path: Path) -> None:
    """33 bits at 90 kHz wrap after 26.5 hours."""
    path = write_timed(tmp_path / "clip.ts", seconds(100, start=2**33 / 90_000 - 2.0 - 1.4))
    times, frames, said = await read(path)
    assert times == pytest.approx(seconds(100), abs=0.005)
    assert in_order(frames, 100)
    assert said == ""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
async def test_uneven_frames_keep_their_times(tmp_path: Path, suffix: str) -> None:
    given_s = [0.0, 0.04, 0.08, 0.5, 0.54, 2.0, 2.04, 4.5, 4.54, 4.58]
    times, _, said = await read(write_timed(tmp_path / f"clip{suffix}", given_s, time_base=MILLI))
    assert times == pytest.approx(given_s, abs=0.002)
    assert said == ""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
async def test_long_gaps_that_are_not_steps(tmp_path: Path, suffix: str) -> None:
    quiet = [*seconds(20), 8.0, 8.04, 8.08]
    slow = [0.0, 30.0, 60.0, 90.0, 150.0]
    for given_s, rate_hz in ((quiet, 25), (slow, fractions.Fraction(1, 30))):
        path = write_timed(tmp_path / f"clip{suffix}", given_s, time_base=MILLI, rate_hz=rate_hz)
        times, _, said = await read(path)
        assert times == pytest.approx(given_s, abs=0.002)
        assert said == ""


async def test_a_single_picture_that_lasts_is_not_truncated(tmp_path: Path) -> None:
    times, _, said = await read(write_timed(tmp_path / "clip.mp4", [0.0], time_base=MILLI, rate_hz=1))
    assert (times, said) == ([0.0], "")


@pytest.mark.parametrize(("suffix", "start"), [(".mp4", 100.0), (".mkv", 100.0), (".mkv", 1_700_000.0)])
async def test_where_a_file_starts_does_not_matter(tmp_path: Path, suffix: str, start: float) -> None:
    path = write_timed(tmp_path / f"clip{suffix}", seconds(50, start=start), time_base=MILLI)
    times, frames, said = await read(path)
    assert times == pytest.approx(seconds(50), abs=0.002)
    assert in_order(frames, 50)
    assert said == ""


async def test_frames_shown_before_they_are_decoded(tmp_path: Path) -> None:
    options = {"movflags": "negative_cts_offsets"}
    path = write_timed(tmp_path / "clip.mp4", seconds(50), time_base=TICK, options=options, b_frames=2)
    times, frames, said = await read(path)
    assert times == pytest.approx(seconds(50), abs=0.002)
    assert in_order(frames, 50)
    assert said == ""


async def test_an_edit_list_that_begins_later(tmp_path: Path) -> None:
    """An editor cut the beginning: the file still holds it, with an edit list that hides it."""
    path = write_timed(tmp_path / "clip.mp4", seconds(100), b_frames=2, time_base=TICK, options={"use_editlist": "1"})
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    duration, media_time = struct.unpack_from(">Ii", data, place)
    track_ticks_per_s = 12_800
    struct.pack_into(">Ii", data, place, duration - 1000, media_time + track_ticks_per_s)
    path.write_bytes(data)
    times, frames, said = await read(path)
    assert times == pytest.approx(seconds(75), abs=0.002)
    assert index_of(frames[0].image) == 25 % 20
    assert said == ""


def test_timestamps_below_zero() -> None:
    times = FileTimes(50.0, 0.04)
    assert [times.next(media_s) for media_s in (-2.0, -1.96, -1.0, 0.0)] == pytest.approx([50.0, 50.04, 51.0, 52.0])


def test_repeated_and_stuck_timestamps() -> None:
    doubled = FileTimes(0.0, 0.04)
    times = [doubled.next(media_s) for media_s in (0.0, 0.04, 0.04, 0.08, 0.12)]
    assert times == pytest.approx([0.0, 0.04, 0.041, 0.08, 0.12])
    stuck = FileTimes(0.0, 0.04)
    times = [stuck.next(0.0) for _ in range(101)]
    assert times[-1] == pytest.approx(4.0, abs=0.1)
    assert (doubled.num_joined, stuck.num_joined) == (0, 0)


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.floats()), st.one_of(st.none(), st.floats())), max_size=50),
    st.floats(),
)
def test_times_rise_for_any_timestamps(frames: list[tuple[float | None, float | None]], interval_s: float) -> None:
    times = FileTimes(1_700_000_000.0, interval_s)
    made = [times.next(media_s, duration_s) for media_s, duration_s in frames]
    assert all(b > a for a, b in itertools.pairwise(made))
    assert all(math.isfinite(time) for time in made)


async def test_corrections_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recordings = [write_timed(tmp_path / f"{index}.ts", seconds(20)).read_bytes() for index in range(4)]
    (tmp_path / "all.ts").write_bytes(b"".join(recordings))
    _, _, said = await read(tmp_path / "all.ts")
    assert "3 times" in said
    assert caplog.text.count("camera door: its timestamps jump") == 1


@pytest.mark.parametrize(
    ("name", "step_s"),
    [
        ("a.mp4", 0),
        ("a.mkv", 0),
        ("a.avi", 0),
        ("a.ts", 0),
        ("a.flv", 0),
        ("a.mp4", 3600),
        ("a.mkv", 86_400),
        ("a.ts", 3600),
    ],
)
def test_the_length_of_a_file(tmp_path: Path, name: str, step_s: float) -> None:
    given_s = [*seconds(50), *seconds(50, start=2.0 + step_s)]
    path = write_timed(tmp_path / name, given_s, b_frames=2, time_base=TICK if name.endswith("avi") else MILLI)
    assert length_s(str(path)) == pytest.approx(4.0, abs=0.13)


def test_the_length_of_a_raw_stream(tmp_path: Path) -> None:
    packets = encoded((picture(i) for i in range(40)), rate_hz=10, b_frames=2)
    assert length_s(str(write_raw(tmp_path / "clip.h264", packets))) == pytest.approx(4.0, abs=0.01)
