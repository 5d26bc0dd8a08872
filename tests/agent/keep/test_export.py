"""The evidence clip: every stored picture at its true time, and a record that matches what the memory holds."""

import asyncio
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest

from agent.cli.main import main
from agent.ingest.jpeg import decode_jpeg
from agent.keep.export import MAX_FRAMES, NothingToExport, TooManyFrames, export
from memory.records import FrameRecord
from streaming.clip import ClipWriter
from streaming.frame import Frame
from tests.support.agents import START, ListSource, picture, remember, running, served


def decoded(video: Any) -> list[tuple[float, np.ndarray]]:
    """(seconds from the first frame, picture) of every frame."""
    with av.open(video) as container:
        return [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


async def test_the_zip_holds_a_video_with_true_times_and_its_record(tmp_path: Path) -> None:
    uneven = [0.0, 1.0, 2.5, 2.75, 9.0, 3600.125]
    sent = [Frame(START + t, picture(n), "arrival") for n, t in enumerate(uneven)]
    async with served(tmp_path) as at, httpx.AsyncClient(base_url=at.url, timeout=60) as http:
        await at.agent.cameras.watch("gate", ListSource("gate", sent))
        window = {"after": START, "before": START + 4000}
        path = "/v1/cameras/gate/export"
        assert (await http.get(path, params=window)).status_code == 401
        asker = at.headers("asker")
        for params in ({}, {"after": START}, {"after": START + 1, "before": START}):
            assert (await http.get(path, params=params, headers=asker)).status_code == 400
        empty = await http.get(path, params={"after": 1.7e9, "before": 1.7e9 + 5}, headers=asker)
        assert (empty.status_code, empty.json()["error"]["code"]) == (422, "no_frames")
        answer = await http.get(path, params=window, headers=asker)
        assert answer.headers["content-type"] == "application/zip"
        held = at.agent.store.records("gate")
        jpegs = [at.agent.store.jpeg(record.frame_id) for record in held]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = sorted(archive.namelist())
        record, video = json.loads(archive.read(names[0])), archive.read(names[1])
    assert [Path(name).suffix for name in names] == [".json", ".mp4"]
    assert record["video"]["sha256"] == hashlib.sha256(video).hexdigest()
    assert [entry["jpeg_sha256"] for entry in record["frames"]] == [hashlib.sha256(j).hexdigest() for j in jpegs]
    assert [entry["frame_id"] for entry in record["frames"]] == [each.frame_id for each in held]
    assert [entry["time"] - START for entry in record["frames"]] == uneven
    assert record["frames"][0]["metadata"] == {"clock": "arrival"}
    assert record["missing"] == []
    shown = decoded(io.BytesIO(video))
    assert [round(second, 6) for second, _ in shown] == uneven
    for (_, image), jpeg in zip(shown, jpegs, strict=True):
        assert np.abs(image.astype(int) - decode_jpeg(jpeg).astype(int)).mean() < 6


async def test_the_command_over_an_agent_and_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = tmp_path / "clip.mp4"
    window = ["--after", str(START + 2), "--before", str(START + 5)]
    command = ["export", "gate", str(video), *window, "--data-dir", str(tmp_path / "data")]
    async with served(tmp_path / "data") as at:
        await remember(at.agent, "gate", 8)
        assert await asyncio.to_thread(main, [*command, "--server", at.url]) == 0
    record = json.loads(video.with_suffix(".json").read_text())
    assert [entry["time"] - START for entry in record["frames"]] == [2, 3, 4, 5]
    assert hashlib.sha256(video.read_bytes()).hexdigest() == record["video"]["sha256"]
    video.unlink()
    monkeypatch.setenv("VILAMP_PORT", "9")
    assert main(command) == 0
    again = json.loads(video.with_suffix(".json").read_text())
    assert again["frames"] == record["frames"]
    assert len(decoded(str(video))) == 4
    assert main(["export", "gate", str(tmp_path / "clip.avi"), *window, "--data-dir", str(tmp_path / "data")]) == 2
    assert main(["export", "yard", str(video), *window, "--data-dir", str(tmp_path / "data")]) == 1
    assert main(["export", "gate", str(video), "--data-dir", str(tmp_path / "data")]) == 2
    assert "nothing is remembered" in capsys.readouterr().err


async def test_a_frame_that_is_damaged_is_named_not_passed_over(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as agent:
        await remember(agent, "gate", 5)
        (file,) = (tmp_path / "data").rglob("*.frames")
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data)
        log = export(
            agent.store, "gate", START, START + 10, zone="UTC", now=START, video=tmp_path / "clip.mp4"
        )  # fmt: skip
    assert len(log["frames"]) == 4
    (missing,) = log["missing"]
    assert "damaged" in missing["reason"]
    assert missing["time"] - START == 2
    assert log["exported_local"] == "2026-11-22 16:04:05 UTC"


def test_pictures_of_other_sizes_are_fitted_into_the_first(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with ClipWriter(path) as writer:
        assert writer.add(np.full((47, 63, 3), 200, np.uint8), 10.0) == 0.0  # odd sizes are padded
        assert writer.add(np.full((200, 100, 3), 200, np.uint8), 11.0) == 1.0
        assert writer.add(np.full((10, 10, 3), 200, np.uint8), 11.0) == pytest.approx(1.0, abs=1e-4)
    shown = decoded(str(path))
    assert {image.shape for _, image in shown} == {(48, 64, 3)}
    assert shown[1][1][:, :15].max() < 30  # a border beside the tall one
    assert shown[1][1][20:28, 28:36].min() > 170


def test_too_much_and_nothing_are_refused(tmp_path: Path) -> None:
    class Many:
        def __init__(self, count: int) -> None:
            self.count = count

        def records(self, camera: str, after: float | None, before: float | None, *, limit: int) -> list[FrameRecord]:
            assert limit <= MAX_FRAMES + 1  # a window of a million frames is not read to be refused
            return [FrameRecord(n, camera, float(n), {}) for n in range(min(self.count, limit))]

        def jpeg(self, frame_id: int) -> bytes:
            raise AssertionError("nothing may be read")

    video = tmp_path / "clip.mp4"
    with pytest.raises(TooManyFrames, match="shorter window"):
        export(Many(MAX_FRAMES + 1), "a", None, None, zone="UTC", now=0, video=video)
    with pytest.raises(NothingToExport):
        export(Many(0), "a", None, None, zone="UTC", now=0, video=video)
    assert not video.exists()


@pytest.mark.parametrize("gap_s", [23_000.0, 24_000.0, 90_000.0])
def test_a_gap_of_many_hours_keeps_its_length(tmp_path: Path, gap_s: float) -> None:
    """MP4 cannot hold more than 6.6 hours between two frames."""
    given_s = [0.0, 1.0, 1.0 + gap_s, 2.0 + gap_s, 3.0 + gap_s]
    with ClipWriter(tmp_path / "clip.mp4") as writer:
        for index, second in enumerate(given_s):
            assert writer.add(np.full((48, 64, 3), 40 * index, np.uint8), 1000.0 + second) == second
    with av.open(str(tmp_path / "clip.mp4")) as container:
        shown = [
            (frame.time, round(frame.to_ndarray(format="rgb24").mean() / 40)) for frame in container.decode(video=0)
        ]
    repeated = [(time, index) for time, index in shown if time not in given_s]
    assert [time for time, _ in shown if time in given_s] == given_s
    assert {index for _, index in repeated} <= {1}


def test_a_video_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    for wrong in (np.zeros((48, 64), np.uint8), np.zeros((48, 64, 3), np.float32)):
        with pytest.raises(OSError, match="cannot be written"), ClipWriter(tmp_path / "12:30.mp4") as writer:
            writer.add(wrong, 0.0)
