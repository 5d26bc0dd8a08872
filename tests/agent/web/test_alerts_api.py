"""Alerts over HTTP: filters, paging, pictures, suppressed alerts, and the stream."""

import asyncio
import io
import json
import zipfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.alerts.event import MAX_CLIP_S, clip_path
from agent.alerts.store import Suppressed
from agent.keep.export import MAX_FRAMES
from tests.support.agents import Served, remember, served
from tests.support.bridges import START, commit, event, jpeg


def get(server: Served, path: str, **options: Any) -> httpx.Response:
    headers = options.pop("headers", server.headers())
    return httpx.get(server.url + path, headers=headers, trust_env=False, **options)


async def got(server: Served, path: str, **options: Any) -> Any:
    response = await asyncio.to_thread(get, server, path, **options)
    assert response.status_code == 200, response.text
    return response.json()


def fill(server: Served, count: int) -> None:
    for number in range(count):
        commit(
            server.agent.alert_store,
            event(number, rule="bag" if number % 2 else "cat", camera="yard"),
            jpeg(seed=number),
        )


async def test_alerts_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        fill(server, 5)
        first = await got(server, "/v1/alerts?limit=2")
        assert [each["id"] for each in first["data"]] == ["a4", "a3"]
        second = await got(server, f"/v1/alerts?limit=2&cursor={first['next_cursor']}")
        assert [each["id"] for each in second["data"]] == ["a2", "a1"]
        last = await got(server, f"/v1/alerts?limit=2&cursor={second['next_cursor']}")
        assert ([each["id"] for each in last["data"]], last["next_cursor"]) == (["a0"], None)


async def test_alerts_are_filtered(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        fill(server, 5)
        commit(server.agent.alert_store, event(9, camera="gate"))
        for query, expected in (
            ("rule=cat", ["a4", "a2", "a0"]),
            ("camera=gate", ["a9"]),
            (f"after={START + 3}&before={START + 4}", ["a4", "a3"]),
            ("rule=cat&camera=gate", []),
        ):
            assert [each["id"] for each in (await got(server, f"/v1/alerts?{query}"))["data"]] == expected


async def test_one_alert_links_its_evidence(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        commit(server.agent.alert_store, event(1), jpeg())
        lasting = await got(server, "/v1/alerts/a1")
        assert lasting["end_time"] is None
        commit(server.agent.alert_store, event(1, "off"))
        alert = await got(server, "/v1/alerts/a1")
        assert alert == {**alert, "object": "alert", "rule": "bag", "camera": "yard", "end_time": START + 1}
        assert alert["confirmations"] == [2, 3]
        assert [frame["id"] for frame in alert["frames"]] == [2, 2]
        assert all(frame["url"].startswith("/v1/frames/2.jpg?exp=") for frame in alert["frames"])
        picture = await asyncio.to_thread(get, server, alert["snapshot_url"], headers={})  # signed: no token
        assert (picture.status_code, picture.content) == (200, jpeg())
        assert picture.headers["content-type"] == "image/jpeg"


async def test_the_link_to_the_clip_opens_it_and_nothing_wider(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await remember(server.agent, "yard", 30, start=START - 15)
        commit(server.agent.alert_store, event(0), jpeg())
        clip = (await got(server, "/v1/alerts/a0"))["clip_url"]
        assert clip.startswith(f"/v1/cameras/yard/export?after={START - 11:.3f}&before={START + 5:.3f}&exp=")
        answer = await asyncio.to_thread(get, server, clip, headers={})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            (record,) = (json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json"))
        assert [frame["time"] - START for frame in record["frames"]] == [*range(-11, 6)]
        for wider in (
            clip.replace(f"after={START - 11:.3f}", f"after={START - 15:.3f}"),
            clip.replace("?", f"?after={START - 15:.3f}&"),
            clip + f"&before={START + 9:.3f}",
            clip.replace("yard", "gate"),
            clip.split("?")[0] + "?exp=" + clip.split("&exp=")[1],
        ):
            assert (await asyncio.to_thread(get, server, wider, headers={})).status_code == 403


def test_the_clip_of_a_long_alert_shows_its_beginning() -> None:
    assert (
        clip_path("yard", START, START + 2) == f"/v1/cameras/yard/export?after={START - 10:.3f}&before={START + 7:.3f}"
    )
    assert clip_path("yard", START, START + 36_000).endswith(f"&before={START - 10 + MAX_CLIP_S:.3f}")
    assert MAX_CLIP_S * 30 < MAX_FRAMES  # at the highest rate that a camera may have


async def test_suppressed_alerts_have_a_reason(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        held = [Suppressed("bag", "yard", START + n, "cooldown", 5.0 + n, 7) for n in range(3)]
        server.agent.alert_store.commit("bag", "yard", {}, suppressed=held, now=START)
        page = await got(server, "/v1/alerts?kind=suppressed&limit=2")
        assert [(each["reason"], each["score"]) for each in page["data"]] == [("cooldown", 7.0), ("cooldown", 6.0)]
        assert page["data"][0]["url"].startswith("/v1/frames/7.jpg?exp=")
        rest = await got(server, f"/v1/alerts?kind=suppressed&limit=2&cursor={page['next_cursor']}")
        assert [each["score"] for each in rest["data"]] == [5.0]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/alerts/none", 404),
        ("/v1/alerts/none/snapshot.jpg", 404),
        ("/v1/alerts?kind=maybe", 400),
        ("/v1/alerts?limit=0", 400),
        ("/v1/alerts?cursor=x", 400),
        ("/v1/alerts?after=yesterdayish", 400),
    ],
)
async def test_bad_queries_and_unknown_alerts_are_refused(tmp_path: Path, path: str, status: int) -> None:
    async with served(tmp_path) as server:
        response = await asyncio.to_thread(get, server, path)
        assert response.status_code == status
        assert response.json()["error"]["message"]


async def test_alerts_need_a_token(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        commit(server.agent.alert_store, event(1), jpeg())
        for path in ("/v1/alerts", "/v1/alerts/a1", "/v1/alerts/a1/snapshot.jpg", "/v1/alerts/stream"):
            assert (await asyncio.to_thread(get, server, path, headers={})).status_code == 401
            publisher = await asyncio.to_thread(get, server, path, headers=server.headers("publisher"))
            assert publisher.status_code == 403


# --- the stream ---


async def read(lines: Any, count: int) -> list[tuple[int, dict[str, Any]]]:
    """Read the next `count` events as (id, event)."""
    events, number = [], 0
    async for line in lines:
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("data: "):
            events.append((number, json.loads(line[6:])))
            if len(events) == count:
                return events
    return events


async def test_the_stream_sends_events_when_they_are_committed(tmp_path: Path) -> None:
    async with served(tmp_path) as server, httpx.AsyncClient(headers=server.headers(), trust_env=False) as client:
        commit(server.agent.alert_store, event(1))
        async with client.stream("GET", f"{server.url}/v1/alerts/stream") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.aiter_lines()
            assert await anext(lines) == "id: 1"  # it has begun: what came before is not told
            await asyncio.to_thread(commit, server.agent.alert_store, event(2))
            await asyncio.to_thread(commit, server.agent.alert_store, event(2, "off"))
            told = await asyncio.wait_for(read(lines, 2), 20)
        assert [each["id"] for _, each in told] == ["a2-on", "a2-off"]
        assert told[0][1] == json.loads(event(2).payload())
        await asyncio.to_thread(commit, server.agent.alert_store, event(3))
        resumed = {"Last-Event-ID": str(told[0][0])}
        async with client.stream("GET", f"{server.url}/v1/alerts/stream", headers=resumed) as response:
            again = await asyncio.wait_for(read(response.aiter_lines(), 2), 20)
        assert [each["id"] for _, each in again] == ["a2-off", "a3-on"]


async def test_a_stream_without_events_can_be_resumed(tmp_path: Path) -> None:
    async with served(tmp_path) as server, httpx.AsyncClient(headers=server.headers(), trust_env=False) as client:
        async with client.stream("GET", f"{server.url}/v1/alerts/stream") as response:
            begin = (await anext(response.aiter_lines())).removeprefix("id: ")
        await asyncio.to_thread(commit, server.agent.alert_store, event(1))
        for last in (begin, "999"):  # the second from a store that is no more
            async with client.stream(
                "GET", f"{server.url}/v1/alerts/stream", headers={"Last-Event-ID": last}
            ) as response:
                await asyncio.to_thread(
                    commit, server.agent.alert_store, event(1, "off") if last == begin else event(2)
                )
                told = await asyncio.wait_for(read(response.aiter_lines(), 1), 20)
            assert told[0][1]["id"] == ("a1-on" if last == begin else "a2-on")


async def test_a_head_request_for_the_stream_ends(tmp_path: Path) -> None:
    async with served(tmp_path) as server, httpx.AsyncClient(headers=server.headers(), trust_env=False) as client:
        head = await client.head(f"{server.url}/v1/alerts/stream")
        assert head.headers["content-type"].startswith("text/event-stream")
        assert (await client.get(f"{server.url}/v1/whoami")).status_code == 200  # on the same connection


async def test_a_shutdown_ends_the_stream(tmp_path: Path) -> None:
    async with httpx.AsyncClient(trust_env=False) as client, AsyncExitStack() as stack:
        server = await stack.enter_async_context(served(tmp_path))
        stream = client.stream("GET", f"{server.url}/v1/alerts/stream", headers=server.headers())
        async with stream as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "id: 0"
            stopping = asyncio.create_task(stack.aclose())
            assert [line async for line in lines] == [""]  # its end, not a connection that breaks off
            await stopping


async def test_the_stream_opens_with_its_signed_url(tmp_path: Path) -> None:
    async with served(tmp_path) as server, httpx.AsyncClient(trust_env=False) as client:
        url = server.url + (await got(server, "/v1/alerts"))["stream_url"]
        async with client.stream("GET", f"{url}&rule=bag") as response:
            assert response.status_code == 200
            commit(server.agent.alert_store, event(1))
            ((_, told),) = await read(response.aiter_lines(), 1)
            assert told["id"] == "a1-on"
        assert (await client.get(url.replace("/stream", ""))).status_code == 401  # it opens the stream alone


async def test_the_stream_is_filtered_and_sends_comments_in_silences(tmp_path: Path) -> None:
    async with (
        served(tmp_path, keep_alive_s=0.05) as server,
        httpx.AsyncClient(headers=server.headers(), trust_env=False) as client,
        client.stream("GET", f"{server.url}/v1/alerts/stream?rule=bag&camera=yard") as response,
    ):
        lines = response.aiter_lines()
        silences = [await anext(lines) for _ in range(5)]
        assert silences == ["id: 0", "", ": still here", "", ": still here"]
        for each in (event(1, rule="cat"), event(2, camera="gate"), event(3)):
            await asyncio.to_thread(commit, server.agent.alert_store, each)
        assert [each["id"] for _, each in await asyncio.wait_for(read(lines, 1), 20)] == ["a3-on"]


async def test_an_invalid_last_event_id_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        headers = {**server.headers(), "Last-Event-ID": "a2-on"}
        assert (await asyncio.to_thread(get, server, "/v1/alerts/stream", headers=headers)).status_code == 400
