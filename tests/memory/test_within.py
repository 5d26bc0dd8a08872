"""Windows near a place: filtered before ranking, without frames that have no place."""

import asyncio
import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from agent.cli.main import main
from memory.codec import place_of
from memory.store import MemoryStore
from memory.window import Within
from tests.support.agents import START, ListSource, frames, served
from tests.support.memories import features, open_store


def walk(store: MemoryStore, count: int) -> list[int]:
    """A robot moves along x at 1 m/s; every fifth frame has no pose, every seventh is not encoded."""
    ids = []
    for number in range(count):
        pose = {} if number % 5 == 4 else {"x": number, "y": 2.0, "heading": 90}
        ids.append(store.append("robot", float(number), b"jpeg", pose))
        if number % 7 != 6:
            store.attach(ids[-1], **features(ids[-1]))
    return ids


def test_only_frames_near_the_place_are_rows(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = walk(store, 40)
        near = store.window(["robot"], where=Within(10, 2, 3.0))
        assert near.times.tolist() == [7, 8, 10, 11, 12]  # 9 has no pose, 13 is not encoded
        assert near.unencoded == 1
        assert near.frame_ids.tolist() == [ids[n] for n in (7, 8, 10, 11, 12)]
        whole = store.window(["robot"])
        query = whole.embeddings([0])[0]
        rows, scores = near.top(query, 5)
        all_scores = dict(zip(*[each.tolist() for each in whole.top(query, whole.num_frames)], strict=True))
        by_time = {float(whole.times[row]): score for row, score in all_scores.items()}
        assert scores.tolist() == sorted((by_time[float(near.times[row])] for row in rows), reverse=True)
        assert store.window(["robot"], 8, 11, where=Within(10, 2, 3.0)).times.tolist() == [8, 10, 11]
        nowhere = store.window(["robot", "other"], where=Within(500, 500, 1.0))
        assert (nowhere.num_frames, nowhere.unencoded) == (0, 0)


def test_blocks_are_filtered_frame_by_frame(tmp_path: Path) -> None:
    with open_store(tmp_path, hot_frames=0) as store:
        for number in range(100):
            frame_id = store.append("robot", float(number), b"jpeg", {"x": number % 10, "y": 0})
            store.attach(frame_id, **features(frame_id))
        store.maintain()
        near = store.window(["robot"], where=Within(3, 0, 0.5))
        assert near.times.tolist() == list(range(3, 100, 10))
        query = features(1)["embedding"] / np.linalg.norm(features(1)["embedding"])
        whole = store.window(["robot"])
        expected = [row for row in whole.top(query, 100)[0].tolist() if row % 10 == 3]
        assert [int(near.times[row]) for row in near.top(query, 10)[0]] == expected


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"x":1,"y":2.5}', (1.0, 2.5)),
        ('{"y":-1,"x":0,"z":7}', (0.0, -1.0)),
        ("", None),
        ('{"x":1}', None),
        ('{"x":"1","y":2}', None),
        ('{"a":{"x":1,"y":2}}', None),
        ('{"x":true,"y":2}', None),
    ],
)
def test_place_of_metadata(text: str, place: tuple[float, float] | None) -> None:
    assert place_of(text) == place or (place is None and np.isnan(place_of(text)).all())


def test_bad_places_are_refused() -> None:
    for bad in ((0, 0, 0), (0, 0, -1), (np.nan, 0, 1), (0, np.inf, 1)):
        with pytest.raises(ValueError, match="within"):
            Within(*bad)


async def test_questions_about_a_place_use_the_poses_a_robot_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = START
    async with served(tmp_path, clock=lambda: now) as at, httpx.AsyncClient(base_url=at.url, timeout=60) as http:
        path = "/v1/cameras/robot/metadata"
        publisher, asker = at.headers("publisher"), at.headers("asker")
        assert (await http.put(path, json={"x": 0}, headers=publisher)).status_code == 404  # not seen yet
        await at.agent.cameras.watch("robot", ListSource("robot", frames(1, start=START - 60)))
        assert (await http.put(path, json={"x": 0}, headers=asker)).status_code == 403
        for wrong in (b"[1]", b"{", b'{"x": NaN}', b'"x"'):
            assert (await http.put(path, content=wrong, headers=publisher)).status_code == 400
        too_much = await http.put(path, json={"x": "y" * 5000}, headers=publisher)
        assert too_much.status_code == 413
        for number in range(6):
            now = START + 10 * number
            told = await http.put(path, json={"x": float(number), "y": 1, "zone": "hall"}, headers=publisher)
            assert told.status_code == 204
            # the second frame comes long after the pose was told
            await at.agent.cameras.watch(
                "robot", ListSource("robot", frames(2, start=now + 1, step_s=5, first=2 * number))
            )
        await at.agent.encoded()

        near = {"x": 2, "y": 1, "radius_m": 1.2}
        body = {"messages": [{"role": "user", "content": "what is there?"}], "camera": "robot", "within": near}
        answer = (await http.post("/v1/chat/completions", json=body, headers=asker)).json()
        cited = answer["choices"][0]["message"]["annotations"]
        assert sorted(each["metadata"]["x"] for each in cited) == [1, 2, 3]
        assert cited[0]["metadata"] == {"x": 1.0, "y": 1, "zone": "hall", "clock": "arrival"}
        assert answer["vilamp"]["frames"] == 3
        listed = (await http.get("/v1/cameras/robot/frames?within=2,1,1.2", headers=asker)).json()["data"]
        assert [each["metadata"]["x"] for each in listed] == [1, 2, 3]

        nothing = await http.post(
            "/v1/chat/completions", json={**body, "within": {"x": 99, "y": 0, "radius_m": 1}}, headers=asker
        )
        assert (nothing.status_code, nothing.json()["error"]["code"]) == (422, "no_frames")
        assert "near that place" in nothing.json()["error"]["message"]
        for wrong in ({"x": 1, "y": 1}, {"x": 1, "y": 1, "radius_m": 0}, {"x": 1, "y": 1, "radius_m": 1, "z": 1}, [1]):
            refused = await http.post("/v1/chat/completions", json={**body, "within": wrong}, headers=asker)
            assert (refused.status_code, refused.json()["error"]["param"][:6]) == (400, "within")
        for wrong in ("1,2", "1,2,x", "1,2,-3", "1,2,inf"):
            assert (await http.get(f"/v1/cameras/robot/frames?within={wrong}", headers=asker)).status_code == 400

        command = ["ask", "what is there?", "--camera", "robot", "--server", at.url, "--data-dir", str(tmp_path)]
        command.append("--json")
        assert await asyncio.to_thread(main, [*command, "--within", "2,1,0.5"]) == 0
        reply = json.loads(capsys.readouterr().out)
        assert [each["metadata"]["x"] for each in reply["citations"]] == [2]
        assert await asyncio.to_thread(main, [*command, "--within", "-2,1,0.5"]) == 1
        assert await asyncio.to_thread(main, [*command, "--within", "2,1"]) == 2
