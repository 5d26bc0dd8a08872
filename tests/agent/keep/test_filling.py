"""The disk that will be full before the caps hold the memory: said ahead, with what to change."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.keep.caps import Machine
from agent.keep.filling import Growth, filling_problem, full_in_s
from agent.settings.settings import Settings
from tests.support.agents import settings_in

MIB = 1 << 20


def test_worked_example() -> None:
    growths = [Growth("a", 10, 50), Growth("b", 5, 1000)]
    assert full_in_s(growths, 100, None) == pytest.approx(10)
    assert full_in_s(growths, 2000, None) is None  # the cameras' caps hold it
    assert full_in_s(growths, 100, 90) is None  # the folder's cap holds it
    assert full_in_s([], 0, None) is None


sizes = st.just(0.0) | st.floats(0.01, 1e6)


@given(
    st.lists(st.builds(Growth, st.just("x"), st.just(0.0) | st.floats(0.01, 1e3), sizes), max_size=4), st.floats(1, 1e6)
)
def test_it_is_when_what_has_been_written_fills_the_disk(growths: list[Growth], free: float) -> None:
    def written(seconds: float) -> float:
        return sum(min(g.bytes_per_s * seconds, g.room_bytes) for g in growths if g.bytes_per_s)

    seconds = full_in_s(growths, free, None)
    if seconds is None:
        assert written(1e30) <= free * (1 + 1e-9)
    elif math.isfinite(seconds):
        assert written(seconds) == pytest.approx(free, rel=1e-6)


def held(**changes: Any) -> dict[str, Any]:
    given = {"camera": "door", "frames": 1000, "bytes": 100 * MIB, "oldest": 0.0, "newest": 3600.0}
    return {**given, "bytes_per_day": 2400 * MIB, **changes}


def problem_of(cameras: list[dict[str, Any]], settings: Settings, free_bytes: float) -> str | None:
    return filling_problem(cameras, settings, Machine(disk_bytes=10**12, ram_bytes=16 * 10**9), free_bytes)


def test_it_is_said_with_what_to_change(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, cameras={"door": {"max_frames": 10**6, "max_bytes": "50GiB"}})
    problem = problem_of([held()], settings, 300 * MIB)
    assert problem is not None
    assert "the disk will be full in 3 h" in problem
    assert "memory.max_bytes" in problem
    assert "cameras.door.max_bytes" in problem
    assert problem_of([held()], settings, 200 * 1024 * MIB) is None
    assert problem_of([held(newest=60.0)], settings, 300 * MIB) is None  # too short to go by
    assert problem_of([held(bytes_per_day=None, newest=None)], settings, 300 * MIB) is None
    capped = settings_in(tmp_path, memory={"max_bytes": "300MiB"}, cameras={"door": {"max_frames": 10**6}})
    assert problem_of([held()], capped, 300 * MIB) is None
    few = settings_in(tmp_path, cameras={"door": {"max_frames": 2000}})
    assert problem_of([held()], few, 300 * MIB) is None
