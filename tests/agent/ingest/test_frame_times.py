"""The times of a camera's frames while the system's clock is set: in a real memory, through restarts."""

import itertools
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ingest.backlog import Backlog
from agent.ingest.clock import Clock
from agent.ingest.intake import Intake
from agent.metrics import Metrics
from memory.limits import Limits
from memory.store import MemoryStore
from streaming.frame import Frame
from tests.support.agents import START, ListSource, picture, served

HOUR_S = 3600.0


class World:
    """A machine with a clock that can be wrong, a memory, and a camera that sends a frame a second."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder, self.limits = folder, limits or Limits()
        self.seconds = 0
        self.ahead_s = 0.0  # of the truth
        self.truth: dict[int, float] = {}  # by frame
        self.start()

    def start(self) -> None:
        self.store = MemoryStore(self.folder, embedding_dim=4, limits=self.limits, patch_shape=(2, 3))
        self.clock = Clock(lambda: START + self.seconds + self.ahead_s, lambda: self.seconds)
        self.intake = Intake("door", self.store, Backlog(100), Metrics(), clock=self.clock)

    async def run(self, seconds: int, *, send: bool = True) -> None:
        for _ in range(seconds):
            self.seconds += 1
            self.store.expire(self.clock.read().age_from)
            if send:
                time = START + self.seconds + self.ahead_s
                await self.intake.run(ListSource("door", [Frame(time, picture(self.seconds), "arrival")]))
                assert self.intake.newest_id is not None
                self.truth[self.intake.newest_id] = START + self.seconds
            await self.intake.settle()

    async def restart(self, pause_s: int = 5) -> None:
        self.store.close()
        self.seconds += pause_s
        self.start()

    def wrong_s(self) -> list[float]:
        """By how much each frame's time is wrong, in the order in which they came."""
        records = self.store.records("door")
        assert [record.frame_id for record in records] == sorted(record.frame_id for record in records)
        assert all(a.time < b.time for a, b in itertools.pairwise(records))
        return [record.time - self.truth[record.frame_id] for record in records]

    def clocks(self) -> list[str]:
        return [record.metadata["clock"] for record in self.store.records("door")]


async def test_an_hour_ahead_at_boot_and_set_back_while_frames_come(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.ahead_s = HOUR_S
    await world.run(20)
    assert world.wrong_s() == pytest.approx([HOUR_S] * 20)
    world.ahead_s = 0.0
    await world.run(5)
    assert world.clocks()[-5:] == ["uncertain"] * 5
    assert world.clock.problem is not None
    assert "set back by 3600 s" in world.clock.problem
    await world.run(15)
    assert world.wrong_s() == pytest.approx([0.0] * 40, abs=0.01)  # every frame, also those before the correction
    assert set(world.clocks()) == {"corrected", "arrival"}
    assert world.clocks()[-1] == "arrival"
    await world.restart()
    assert world.wrong_s() == pytest.approx([0.0] * 40, abs=0.01)
    await world.run(10)
    assert world.wrong_s() == pytest.approx([0.0] * 50, abs=0.01)
    assert world.clock.problem is None


async def test_an_hour_ahead_and_set_back_while_the_agent_was_away(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.ahead_s = HOUR_S
    await world.run(20)
    world.ahead_s = 0.0
    await world.restart()
    await world.run(5)
    steps = [later - earlier for earlier, later in itertools.pairwise(world.wrong_s()[-5:])]
    assert steps == pytest.approx([0.0] * 4, abs=0.01)  # a second apart, and not a thousandth
    await world.run(15)
    wrong = world.wrong_s()
    assert wrong[:20] == pytest.approx([wrong[0]] * 20)
    assert abs(wrong[0]) < 10  # how long the agent was away is not known
    assert wrong[20:] == pytest.approx([0.0] * 20, abs=0.01)
    assert set(world.clocks()[:20]) == {"uncertain"}
    assert world.clocks()[-1] == "arrival"


async def test_a_glitch_of_seconds_moves_nothing_and_ages_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, Limits(age_s=600))
    await world.run(15)
    world.ahead_s = 14 * 365 * 86_400.0
    await world.run(6)
    assert world.clock.problem is not None
    world.ahead_s = 0.0
    await world.run(5)
    assert world.wrong_s() == pytest.approx([0.0] * 26, abs=0.01)
    assert world.clocks() == ["arrival"] * 15 + ["uncertain"] * 6 + ["arrival"] * 5
    assert world.clock.problem is not None
    assert "set forward by 5110 days for a while and is right again" in world.clock.problem
    await world.run(3600, send=False)
    assert world.clock.problem is None


async def test_a_glitch_that_was_believed_ages_nothing_either(tmp_path: Path) -> None:
    world = World(tmp_path, Limits(age_s=600))
    await world.run(15)
    world.ahead_s = 14 * 365 * 86_400.0
    await world.run(30)
    world.ahead_s = 0.0
    await world.run(15)
    assert len(world.wrong_s()) == 60
    assert world.clock.problem is not None
    assert "is right again" in world.clock.problem
    assert world.wrong_s()[-1] == pytest.approx(0.0, abs=0.01)
    await world.restart()
    await world.run(1)
    assert len(world.wrong_s()) == 61


async def test_set_back_in_error_and_right_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.run(15)
    world.ahead_s = -86_400.0
    await world.run(30)
    assert world.wrong_s()[-1] == pytest.approx(-86_400.0)
    world.ahead_s = 0.0
    await world.run(15)
    assert world.wrong_s() == pytest.approx([0.0] * 60, abs=0.01)


async def test_set_forward_for_good_leaves_what_was_before(tmp_path: Path) -> None:
    """Such as a virtual machine that stood still: its earlier frames were right."""
    world = World(tmp_path)
    await world.run(15)
    world.ahead_s = HOUR_S
    await world.run(30)
    wrong = world.wrong_s()
    assert wrong[:15] == pytest.approx([0.0] * 15)
    assert wrong[-19:] == pytest.approx([HOUR_S] * 19)


async def test_a_camera_that_sends_no_more_is_corrected_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.ahead_s = HOUR_S
    await world.run(20)
    world.ahead_s = 0.0
    await world.run(20, send=False)
    assert world.wrong_s() == pytest.approx([0.0] * 20, abs=0.01)


async def test_a_recording_keeps_its_own_times(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.run(15)
    frames = [Frame(START + 5000 + number, picture(number), "file") for number in range(3)]
    await world.intake.run(ListSource("door", frames))
    assert [record.time for record in world.store.records("door")][-3:] == [frame.time for frame in frames]


@settings(max_examples=15)
@given(steps=st.lists(st.tuples(st.integers(1, 15), st.floats(-1e5, 1e5), st.booleans()), max_size=5))
async def test_order_holds_and_the_present_is_right_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float, bool]]
) -> None:
    world = World(tmp_path_factory.mktemp("world"))
    for duration, ahead_s, restarts in steps:
        world.ahead_s = ahead_s
        if restarts:
            await world.restart()
        await world.run(duration)
        world.wrong_s()
    world.ahead_s = 0.0
    await world.run(25)
    assert abs(world.wrong_s()[-1]) < 2.5
    world.store.close()


async def test_a_pose_goes_with_its_frames_while_the_clock_is_off(tmp_path: Path) -> None:
    seconds, ahead_s = 0.0, 0.0
    clocks = {"clock": lambda: START + seconds + ahead_s, "running_s": lambda: seconds}
    async with served(tmp_path, **clocks) as at, httpx.AsyncClient(base_url=at.url) as http:
        for number in range(1, 9):
            seconds, ahead_s = float(number), 86_400.0 if 4 <= number < 7 else 0.0
            frame = Frame(START + number + ahead_s, picture(number), "arrival")
            await at.agent.cameras.watch("robot", ListSource("robot", [frame]))
            pose = {"x": number}
            path = "/v1/cameras/robot/metadata"
            assert (await http.put(path, json=pose, headers=at.headers("publisher"))).status_code == 204
        records = at.agent.store.records("robot")
        assert [record.time - START for record in records] == pytest.approx(range(1, 9), abs=0.01)
        assert [record.metadata.get("x") for record in records] == [None, 1, 2, 3, 4, 5, 6, 7]
