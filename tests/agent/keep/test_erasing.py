"""Erasing through the whole agent: over HTTP, from the command line, with what is on its way, and after interruptions."""

import asyncio
import json
import sqlite3
import time
from pathlib import Path

import httpx
import pytest

from agent.alerts.store import ALERTS_FILE, AlertStore, erase_from_alerts
from agent.cli.main import main
from agent.ingest.jpeg import encode_jpeg
from agent.keep.erasing import ERASURES_FILE, Erasing, NotErasedYet, Request, read_requests
from streaming.frame import Frame
from tests.support.agents import START, ListSource, frames, picture, remember, running, served
from tests.support.memories import traces


def jpegs_of(count: int, first: int = 0) -> list[bytes]:
    """The longest pieces of each stored picture that no other has: the ends, as all begin with the same tables."""
    return [encode_jpeg(picture(number))[-60:-2] for number in range(first, first + count)]


async def test_over_http_with_both_bounds_and_the_right_token(tmp_path: Path) -> None:
    async with served(tmp_path) as at, httpx.AsyncClient(base_url=at.url) as http:
        await remember(at.agent, "gate", 10)
        path = "/v1/cameras/gate/frames"
        window = {"after": START + 2, "before": START + 6}
        assert (await http.delete(path, params=window)).status_code == 401
        assert (await http.delete(path, params=window, headers=at.headers("asker"))).status_code == 403
        owner = at.headers("owner")
        for params in ({}, {"after": START}, {"before": START}, {**window, "all": "true"}, {"all": "false"}):
            refused = await http.delete(path, params=params, headers=owner)
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
        backwards = {"after": START + 6, "before": START + 2}
        assert (await http.delete(path, params=backwards, headers=owner)).status_code == 400
        assert (await http.delete("/v1/cameras/nobody/frames?all=true", headers=owner)).status_code == 404
        assert at.agent.store.stats("gate").frames == 10

        listed = (await http.get(path, headers=owner)).json()["data"]
        erased = await http.delete(path, params=window, headers=owner)
        assert (erased.status_code, erased.json()["erased"]["frames"]) == (200, 5)
        assert traces(tmp_path, jpegs_of(5, first=2)) == []
        left = (await http.get(path, headers=owner)).json()["data"]
        assert [each["time"] - START for each in left] == [0, 1, 7, 8, 9]
        assert (await http.get(listed[3]["url"])).status_code == 404  # a signed URL handed out before
        assert not (tmp_path / ERASURES_FILE).exists()
        erased = await http.delete(path, params={"all": "true"}, headers=owner)
        assert erased.json()["erased"]["frames"] == 5
        assert at.agent.store.stats("gate").frames == 0
        await remember(at.agent, "gate", 3, start=time.time() + 10)  # the camera goes on
        assert at.agent.store.stats("gate").encoded == 3
        metrics = (await http.get("/metrics", headers=owner)).text
        assert "vilamp_frames_erased_total 10.0" in metrics


async def test_frames_not_yet_encoded_and_those_on_their_way_do_not_come_back(tmp_path: Path) -> None:
    now = START + 100
    async with running(tmp_path, clock=lambda: now) as agent:
        source = ListSource("gate", frames(20))
        await agent.cameras.watch("gate", source)  # remembered, and listed for the encoder
        counts = await asyncio.to_thread(agent.erasing.erase, Request("gate", START, START + 200))
        assert counts["frames"] == 20
        await agent.encoded()
        assert agent.store.stats("gate").frames == 0
        late = [Frame(START + 50, picture(1), "arrival"), Frame(now + 1, picture(2), "arrival")]
        await agent.cameras.watch("gate", ListSource("gate", late))  # one was captured before the erasure, one after
        await agent.encoded()
        assert [record.time for record in agent.store.records("gate")] == [now + 1]


async def test_an_erasure_while_the_clock_is_ahead_refuses_nothing_that_comes_later(tmp_path: Path) -> None:
    seconds, ahead_s = 0.0, 0.0
    async with running(tmp_path, clock=lambda: START + seconds + ahead_s, running_s=lambda: seconds) as agent:
        await remember(agent, "gate", 3, start=START - 3)
        agent.clocks.read()
        seconds, ahead_s = 1.0, 86_400.0
        counts = await asyncio.to_thread(agent.erasing.erase, Request("gate", None, None))
        assert counts["frames"] == 3
        seconds, ahead_s = 5.0, 0.0
        await remember(agent, "gate", 2, start=START + 4)
        assert [record.time for record in agent.store.records("gate")] == [START + 4, START + 5]


async def test_an_erasure_that_fails_half_way_is_completed_by_the_housekeeping_and_by_a_start(tmp_path: Path) -> None:
    refusing = True

    def refuse(camera: str, after: float, before: float) -> int:
        if refusing:
            raise OSError(28, "No space left on device")
        return 1

    async with running(tmp_path) as agent:
        await remember(agent, "gate", 6)
        agent.erasing.add("stubborn", refuse)
        with pytest.raises(NotErasedYet, match="tried again"):
            await asyncio.to_thread(agent.erasing.erase, Request("gate", START + 1, START + 2))
        assert agent.store.stats("gate").frames == 4  # what could be erased is
        agent.erasing.resume()
        assert len(read_requests(tmp_path / ERASURES_FILE)) == 1
        refusing = False
        agent.erasing.resume()
        assert read_requests(tmp_path / ERASURES_FILE) == []
    (tmp_path / ERASURES_FILE).write_text(json.dumps([{"camera": "gate", "after": START + 4, "before": None}]))
    async with running(tmp_path) as agent:
        assert [record.time - START for record in agent.store.records("gate")] == [0, 3]
        assert not (tmp_path / ERASURES_FILE).exists()


async def test_what_comes_after_a_request_stays_however_often_it_is_tried_again(tmp_path: Path) -> None:
    refusing = True

    def refuse(camera: str, after: float, before: float) -> int:
        if refusing:
            raise OSError(28, "No space left on device")
        return 1

    async with running(tmp_path) as agent:
        await remember(agent, "gate", 3)
        agent.erasing.add("stubborn", refuse)
        for everything in (Request("gate", None, None), Request("gate", START, time.time() + 1e6)):
            with pytest.raises(NotErasedYet, match="tried again"):
                await asyncio.to_thread(agent.erasing.erase, everything)
        await remember(agent, "gate", 2, start=time.time() + 1)
        agent.erasing.resume()
        assert agent.store.stats("gate").frames == 2
        refusing = False
        agent.erasing.resume()
        assert agent.store.stats("gate").frames == 2
        assert read_requests(tmp_path / ERASURES_FILE) == []


def test_a_damaged_list_of_erasures_is_an_error_not_an_empty_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ERASURES_FILE).write_text('[{"camera"')
    with pytest.raises(OSError, match="damaged"):
        Erasing(tmp_path).erase(Request("gate", None, None))
    with caplog.at_level("ERROR"):
        Erasing(tmp_path).resume()  # said, at every housekeeping, and the agent goes on
    assert "erasing is not complete" in caplog.text
    assert (tmp_path / ERASURES_FILE).exists()


def test_alerts_go_from_the_rows_and_the_file(tmp_path: Path) -> None:
    alert_store = AlertStore(tmp_path / ALERTS_FILE)
    with alert_store.transaction() as db:
        for number in range(300):
            db.execute(
                "INSERT INTO alerts (id, rule, camera, start_time, time, on_event, snapshot) VALUES (?,?,?,?,?,?,?)",
                (f"id{number}", "r", "gate", number, number, b"{}", f"snapshot-{number:03}-".encode() * 20),
            )
    assert erase_from_alerts(alert_store)("gate", 100, 199) == 100
    data = b"".join(path.read_bytes() for path in tmp_path.glob(f"{ALERTS_FILE}*"))
    assert [n for n in range(300) if f"snapshot-{n:03}-".encode() in data] == [*range(100), *range(200, 300)]
    alert_store.close()


# --- the command line ---


async def test_the_commands_over_a_running_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with served(tmp_path) as at:
        await remember(at.agent, "gate", 10)
        shared = ["--server", at.url, "--data-dir", str(tmp_path)]
        assert await asyncio.to_thread(main, ["memory", *shared, "--json"]) == 0
        (held,) = json.loads(capsys.readouterr().out)["data"]
        assert (held["camera"], held["frames"], held["encoded"], held["hot"]) == ("gate", 10, 10, 10)
        assert held["frames_per_day"] == pytest.approx(86_400 * 10 / 9, abs=0.1)
        assert await asyncio.to_thread(main, ["memory", *shared, "--timezone", "UTC"]) == 0
        assert "2026-11-22 16:04:05 UTC" in capsys.readouterr().out
        window = ["--after", str(START + 2), "--before", str(START + 4)]
        assert await asyncio.to_thread(main, ["erase", "gate", *window, *shared]) == 2  # nobody to ask
        assert "--yes" in capsys.readouterr().err
        assert await asyncio.to_thread(main, ["erase", "gate", *window, "--yes", *shared]) == 0
        assert capsys.readouterr().out.startswith("erased: frames 3")
        assert at.agent.store.stats("gate").frames == 7
        # while an agent runs its folder is not touched behind its back
        elsewhere = ["--data-dir", str(tmp_path), "--server", "http://127.0.0.1:9"]
        assert await asyncio.to_thread(main, ["erase", "gate", "--all", "--yes", *elsewhere]) == 1


async def test_the_commands_on_a_folder_without_an_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "gate", 10)
        vectors = agent.store.window(("gate",)).embeddings(range(10))
    monkeypatch.setenv("VILAMP_PORT", "9")  # nothing answers there
    at = ["--data-dir", str(tmp_path)]
    assert main(["memory", *at, "--json"]) == 0
    (held,) = json.loads(capsys.readouterr().out)["data"]
    assert (held["frames"], held["encoded"], held["hot"]) == (10, 10, 0)
    window = ["--after", str(START + 2), "--before", str(START + 4)]
    assert main(["erase", "gate", *window, "--yes", *at]) == 0
    assert capsys.readouterr().out.startswith("erased: frames 3")
    assert traces(tmp_path, jpegs_of(3, first=2)) == []
    assert main(["erase", "nobody", "--all", "--yes", *at]) == 1
    for wrong in (["--after", str(START)], [], [*window, "--all"]):
        assert main(["erase", "gate", *wrong, "--yes", *at]) == 2
    capsys.readouterr()
    assert main(["memory", "--data-dir", str(tmp_path / "nowhere")]) == 1
    assert "no memory" in capsys.readouterr().err
    async with running(tmp_path) as agent:  # the vectors of the others have not been touched
        kept = [0, 1, 5, 6, 7, 8, 9]
        assert agent.store.window(("gate",)).num_frames == 7
        assert (agent.store.window(("gate",)).embeddings(range(7)) == vectors[kept]).all()
        assert not (tmp_path / ERASURES_FILE).exists()  # completed by the start
    with sqlite3.connect(tmp_path / "memory" / "journal.sqlite") as db:
        assert db.execute("SELECT COUNT(*) FROM erasures").fetchone() == (0,)
    db.close()


def test_a_person_at_the_terminal_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.cli.common import CliError
    from agent.cli.keep import confirm

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, said in (("y", None), ("yes", None), ("", "nothing was erased"), ("n", "nothing was erased")):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        if said is None:
            confirm("?")
        else:
            with pytest.raises(CliError, match=said):
                confirm("?")
