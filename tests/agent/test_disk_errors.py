"""Disks that fail for a while, and systems that have nothing to spare: nothing is taken for damage, nothing is lost."""

import asyncio
import errno
import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from agent.app import Agent
from agent.keep.disk import disk_problem
from agent.keep.memory import open_memory
from agent.runtime.shortage import is_shortage
from memory.errors import FrameGone, OutOfResources, StorageError
from memory.files import RESERVED, Reserve
from tests.support.agents import START, ListSource, frames, remember, running, served, settings_in, tiny_model
from tests.support.memories import features, fill, open_store, picture

PASSING = [errno.EIO, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.ENOENT, errno.ENODEV]


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> Iterator[None]:
    """The system call `os.<call>` fails."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        yield


@pytest.mark.parametrize("code", PASSING)
def test_a_read_that_fails_is_no_damage(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(6))
        window = store.window(["a"])
        with failing(monkeypatch, "pread", code):
            for frame_id in ids:
                with pytest.raises(StorageError, match="cannot read"):
                    store.jpeg(frame_id)
            with pytest.raises(StorageError):
                window.jpeg(0)
            assert "cannot be read" in (store.problem or "")
            store.maintain()
        assert [store.jpeg(frame_id) for frame_id in ids] == [picture("a", time) for time in range(6)]
        assert store.problem is None
        assert (store.status().frames_damaged, store.stats("a").frames) == (0, 6)
    with open_store(tmp_path) as store:
        assert store.stats("a").encoded == 6


def test_a_file_that_cannot_be_opened_is_no_damage(tmp_path: Path) -> None:
    """The folder of a camera is away for a while, as when its disk is unmounted."""
    with open_store(tmp_path) as store:
        (frame_id,) = fill(store, "a", range(1))
        (tmp_path / "segments" / "a").rename(tmp_path / "away")
        with pytest.raises(StorageError, match="unmounted"):
            store.jpeg(frame_id)
        (tmp_path / "away").rename(tmp_path / "segments" / "a")
        assert store.jpeg(frame_id) == picture("a", 0)
        assert store.status().frames_damaged == 0


def test_a_file_that_is_too_short_is_damage(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        (frame_id,) = fill(store, "a", range(1))
        os.truncate(tmp_path / "segments" / "a" / "000000000001.frames", 20)
        with pytest.raises(FrameGone, match="damaged"):
            store.jpeg(frame_id)
        assert store.status().frames_damaged == 1


@pytest.mark.parametrize("code", [code for code in PASSING if code != errno.ENOENT])  # a file that is gone is gone
def test_a_start_on_a_failing_disk_drops_nothing(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that cannot be read are made again or found at the next start; the tail of a file is not written over."""
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(6))
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:  # as if a power cut had taken the last row back
        db.execute("DELETE FROM frames WHERE frame_id = 6")
    db.close()
    with failing(monkeypatch, "pread", code), open_store(tmp_path) as store:
        assert store.pending(10) == ids[:5]
        assert "cannot be read now" in (store.problem or "")
        assert store.attach(ids[0], **features(ids[0]))
        store.append("a", 100.0, b"later")
    with open_store(tmp_path) as store:
        assert store.window(["a"]).frame_ids.tolist() == ids
        assert [store.jpeg(frame_id) for frame_id in ids] == [picture("a", time) for time in range(6)]
        assert store.problem is None
        assert (store.status().frames_damaged, store.status().vectors_damaged) == (0, 0)


def test_a_start_that_cannot_look_at_a_file_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(6))
    real = Path.stat

    def stat(path: Path, **named: bool) -> os.stat_result:
        if path.suffix == ".frames":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", stat)
        with open_store(tmp_path) as store:
            assert store.stats("a").encoded == 6
            assert "Input/output error" in (store.problem or "")
    with open_store(tmp_path) as store:
        assert [store.jpeg(frame_id) for frame_id in ids] == [picture("a", time) for time in range(6)]


@pytest.mark.parametrize("loss", ["removed", "cut short"])
def test_segment_files_that_are_gone_at_start_are_said(tmp_path: Path, loss: str) -> None:
    with open_store(tmp_path) as store:
        fill(store, "a", range(6))
    path = tmp_path / "segments" / "a" / "000000000005.frames"
    if loss == "removed":
        path.unlink()
    else:
        os.truncate(path, 10)
    with open_store(tmp_path) as store:
        assert "2 remembered frames are gone" in (store.problem or "")
        assert store.stats("a").frames == 4
    with open_store(tmp_path) as store:
        assert store.problem is None


@pytest.mark.parametrize("gone", ["folder", "lock", "journal.sqlite"])
def test_a_folder_removed_under_a_running_store_is_said(tmp_path: Path, gone: str) -> None:
    with open_store(tmp_path / "memory") as store:
        fill(store, "a", range(2))
        store.maintain()
        assert store.problem is None
        if gone == "folder":
            shutil.rmtree(tmp_path / "memory")
            with pytest.raises(StorageError, match="was the folder removed"):
                store.append("a", 50.0, b"x")
            with pytest.raises(StorageError, match="was the folder removed"):
                store.append("b", 50.0, b"x")
        else:
            (tmp_path / "memory" / gone).unlink()
        with suppress(StorageError):
            store.maintain()
        assert "removed or replaced" in (store.problem or "")


async def test_frames_that_cannot_be_read_are_encoded_when_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.ingest.encoder._FIRST_RETRY_S", 0.01)
    monkeypatch.setattr("agent.ingest.encoder._LAST_RETRY_S", 0.02)
    async with running(tmp_path) as agent:
        with failing(monkeypatch, "pread", errno.EIO):
            await agent.cameras.watch("door", ListSource("door", frames(20)))
            while "Input/output error" not in (agent.encoding.waiting_problem or ""):
                await asyncio.sleep(0.001)
            assert agent.store.stats("door").encoded == 0
            assert agent.encoding.problem is None
        await agent.encoded()
        assert agent.store.stats("door").encoded == 20
        assert agent.encoding.waiting_problem is None
        assert agent.store.status().frames_damaged == 0
        text = agent.metrics.text()
        assert b'vilamp_encode_failures_total{reason="unreadable"}' not in text
        assert b'vilamp_encode_failures_total{reason="not_now"}' in text


@pytest.mark.parametrize("erased", [None, (1, 1), (0, 5)])
def test_a_picture_that_can_be_read_again_is_no_problem_any_more(
    tmp_path: Path, erased: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody asks for that picture again, or it is erased."""
    with open_store(tmp_path) as store:
        ids = fill(store, "a", range(6))
        window = store.window(["a"])
        with failing(monkeypatch, "pread", errno.EIO):
            with pytest.raises(StorageError):
                store.jpeg(ids[1])
            store.maintain()
            assert "cannot be read" in (store.problem or "")
            if erased is not None:
                store.erase("a", *erased)
                assert store.problem is None
                with pytest.raises((StorageError, FrameGone)):
                    window.jpeg(0)
        store.maintain()
        assert store.problem is None


def test_an_erasure_that_a_start_could_not_complete_is_no_problem_once_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as store:
        fill(store, "a", range(6))
        with failing(monkeypatch, "ftruncate", errno.EIO), pytest.raises(StorageError, match="retried"):
            store.erase("a", 1, 2)
    with failing(monkeypatch, "ftruncate", errno.EIO):
        store = open_store(tmp_path)
    with store:
        assert "erasure is not complete" in (store.problem or "")
        store.maintain()
        assert store.problem is None
        assert store.stats("a").frames == 4


async def test_one_bad_sector_keeps_no_other_frame_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 2)
        real = agent.store.jpeg

        def jpeg(frame_id: int) -> bytes:
            if frame_id == 3:
                raise StorageError(errno.EIO, "cannot read 000000000003.frames: Input/output error")
            return real(frame_id)

        monkeypatch.setattr(agent.store, "jpeg", jpeg)
        await agent.cameras.watch("door", ListSource("door", frames(20, start=2e9)))
        while agent.store.stats("door").encoded < 21:
            await asyncio.sleep(0.001)
        assert agent.store.pending(100) == [3]
        health = agent.health.run()
        assert "1 frame waits" in next(each.problem for each in health.troubles if each.part == "encoder")
        assert health.ready  # all else is kept and can be asked
        assert health.degraded


async def test_a_picture_that_cannot_be_read_is_503_and_not_404(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as site, httpx.AsyncClient(base_url=site.url, headers=site.headers()) as http:
        await remember(site.agent, "door", 1)
        path = (await http.get("/v1/frames/1")).json()["url"]
        with failing(monkeypatch, "pread", errno.EIO):
            refused = await http.get(path)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
            assert "Input/output error" in refused.json()["error"]["message"]
        assert (await http.get(path)).status_code == 200


@contextmanager
def no_descriptors() -> Iterator[None]:
    """The process has none left, whatever it closes meanwhile."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 40, limits[1]))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)


def test_without_descriptors_memory_works_on(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        fill(store, "a", range(1))  # also imports what the pictures are made with
        with no_descriptors():
            ids = fill(store, "a", range(1, 40))  # several segments; for each picture and vectors a file is opened
            assert [store.jpeg(frame_id) for frame_id in ids] == [picture("a", time) for time in range(1, 40)]
            assert disk_problem(tmp_path, 0) is None  # as frames are kept
            with pytest.raises(OSError, match="Too many open files"):
                os.open(os.devnull, os.O_RDONLY)  # what the memory closed, nobody else got
        assert store.stats("a").encoded == 40
    with open_store(tmp_path) as store:
        assert store.stats("a").encoded == 40


def test_the_reserve_comes_back() -> None:
    reserve = Reserve()
    reserve.fill()
    with no_descriptors():
        fds = [reserve.open(Path(os.devnull), os.O_RDONLY) for _ in range(RESERVED - 1)]
        with pytest.raises(OSError, match="Too many"):
            reserve.open(Path(os.devnull), os.O_RDONLY)
        for fd in fds:
            reserve.close(fd)
        fds = [reserve.open(Path(os.devnull), os.O_RDONLY) for _ in range(RESERVED - 1)]
    for fd in (*fds, *reserve._spare):
        os.close(fd)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_a_frame_stays_in_hand_while_the_system_has_nothing_to_spare(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as agent:
        with failing(monkeypatch, "pwrite", code):
            watching = asyncio.create_task(agent.cameras.watch("door", ListSource("door", frames(3))))
            while "waits to be written" not in (agent.cameras.intake_of("door").problem or ""):
                await asyncio.sleep(0.001)
        await watching
        assert agent.store.stats("door").frames == 3
        counters = agent.cameras.intake_of("door").counters
        assert (counters.remembered, counters.lost) == (3, 0)
        assert agent.cameras.intake_of("door").problem is None


async def test_a_frame_stays_in_hand_while_times_before_it_cannot_be_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall, running_s = START, 0.0
    settings, model = settings_in(tmp_path), tiny_model()
    agent = Agent(settings, open_memory(settings, model), model, clock=lambda: wall, running_s=lambda: running_s)
    async with agent.running():
        agent.store.append("door", wall + 7200, picture("door", 1))  # by an earlier run whose clock was wrong
        agent.clocks.read()
        wall, running_s = wall + 20, running_s + 20  # now the clock has proved itself

        def refuse(*_: object) -> int:
            raise OutOfResources(errno.ENOMEM, "cannot re-date rows: out of memory")

        with monkeypatch.context() as patched:
            patched.setattr(agent.store, "redate", refuse)
            watching = asyncio.create_task(agent.cameras.watch("door", ListSource("door", frames(1, start=wall))))
            while "waits to be written" not in (agent.cameras.intake_of("door").problem or ""):
                await asyncio.sleep(0.001)
        await watching
        counters = agent.cameras.intake_of("door").counters
        assert (counters.remembered, counters.lost) == (1, 0)


async def test_no_memory_gives_no_frame_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in every two calls: while appending, decoding, encoding and attaching."""
    monkeypatch.setattr("agent.ingest.encoder._FIRST_RETRY_S", 0.001)
    monkeypatch.setattr("agent.ingest.intake._FIRST_RETRY_S", 0.001)
    async with running(tmp_path) as agent:

        def flaky(place: object, name: str, error: Exception) -> None:
            call, turns = getattr(place, name), iter(range(10**6))

            def sometimes(*args: object, **named: object) -> object:
                if next(turns) % 2 == 0:
                    raise error
                return call(*args, **named)

            monkeypatch.setattr(place, name, sometimes)

        flaky(agent.store._journal, "insert", MemoryError())
        flaky(agent.store, "attach", MemoryError())
        monkeypatch.setattr(agent.encoding, "_model", Thin(agent.model))
        await agent.cameras.watch("door", ListSource("door", frames(12)))
        await agent.encoded()
        assert agent.store.stats("door").encoded == 12
        assert agent.cameras.intake_of("door").counters.lost == 0


class Thin:
    """A model that finds no memory for two calls of three."""

    def __init__(self, model: object) -> None:
        self._model = model
        self._calls = 0

    def encode(self, images: list[object]) -> list[object]:
        self._calls += 1
        if self._calls % 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes")
        return list(self._model.encode(images))  # type: ignore[attr-defined]

    def self_test(self) -> None:
        pass


def test_what_is_a_shortage() -> None:
    for error in (
        MemoryError(),
        OutOfResources("x"),
        OSError(errno.EMFILE, "x"),
        OSError(errno.ENFILE, "x"),
        RuntimeError("can't start new thread"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ):
        assert is_shortage(error)
    for error in (
        OSError(errno.EIO, "x"),
        OSError("truncated picture"),
        ValueError("out of memory"),
        RuntimeError("x"),
    ):
        assert not is_shortage(error)
