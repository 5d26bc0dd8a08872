"""The timeline: binning and gaps against direct computation, and the endpoint against the memory and an answer."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alerts.event import AlertEvent
from agent.web.timeline import Relevance, bin_frames, find_gaps, gap_threshold_s
from tests.support.agents import START, Served, remember, served
from tests.support.histories import QUESTION, write_history

NOW = START + 100_000.0


# --- bins ---


def test_the_worked_example() -> None:
    times, scores = np.array([0.0, 1, 2, 9, 10]), np.array([0.1, 0.3, 0.2, 0.5, 0.4], np.float32)
    bins = bin_frames(times, scores, 0, 10, 5)
    assert bins.number.tolist() == [0, 1, 4]
    assert bins.counts.tolist() == [2, 1, 2]
    assert bins.best.tolist() == [1, 2, 3]
    np.testing.assert_allclose(bins.highest, [0.3, 0.2, 0.5])
    np.testing.assert_allclose(bins.mean, [0.2, 0.2, 0.45])


@given(
    st.lists(st.integers(0, 1000), unique=True, max_size=60),
    st.integers(1, 70),
    st.integers(0, 2**31),
)
def test_bins_match_a_plain_loop(moments: list[int], num_bins: int, seed: int) -> None:
    times = np.array(sorted(moments), np.float64)
    scores = np.random.default_rng(seed).integers(-3, 4, len(times)).astype(np.float32)  # with ties
    bins = bin_frames(times, scores, 0.0, 1000.0, num_bins)
    edges = 1000.0 / num_bins * np.arange(num_bins)
    places = [max(n for n in range(num_bins) if edges[n] <= time) for time in times]
    assert bins.number.tolist() == sorted(set(places))
    assert bins.counts.sum() == len(times)
    for at, number in enumerate(bins.number):
        rows = [row for row, place in enumerate(places) if place == number]
        inside = scores[rows]
        assert bins.counts[at] == len(rows)
        assert bins.best[at] == rows[int(np.argmax(inside))]
        assert bins.highest is not None
        assert bins.mean is not None
        assert bins.highest[at] == inside.max()
        assert bins.mean[at] == pytest.approx(float(inside.mean()), abs=1e-6)


def test_without_scores_a_bin_shows_its_first_frame() -> None:
    bins = bin_frames(np.array([1.0, 2, 3]), None, 0, 10, 2)
    assert (bins.best.tolist(), bins.counts.tolist(), bins.highest) == ([0], [3], None)


# --- gaps ---

TIMES = np.array([0.0, 1, 2, 3, 20, 21, 22, 60])


def test_gaps_are_the_long_silences() -> None:
    assert find_gaps(TIMES, 0, 60, 60, 3.0) == [(3, 20), (22, 60)]
    assert find_gaps(TIMES, 10, 40, 60, 3.0) == [(10, 20), (22, 40)]  # cut to the view
    assert find_gaps(TIMES, 5, 10, 60, 3.0) == [(5, 10)]  # a view inside a gap
    assert find_gaps(TIMES, 1, 3, 60, 3.0) == []


def test_a_silent_camera_has_a_gap_until_now_and_none_before_it_began() -> None:
    assert find_gaps(TIMES, 55, 100, 90, 3.0) == [(55, 60), (60, 90)]
    assert find_gaps(TIMES, 55, 100, 62, 3.0) == [(55, 60)]
    assert find_gaps(TIMES, -50, 2, 90, 3.0) == []
    assert find_gaps(TIMES, 70, 80, 90, 3.0) == [(70, 80)]
    assert find_gaps(np.array([]), 0, 10, 20, 3.0) == []


def test_a_slow_camera_has_longer_gaps() -> None:
    assert gap_threshold_s(np.arange(50.0), 1.0) == 3.0
    assert gap_threshold_s(np.arange(50.0), 30.0) == 3.0  # it sends less often than it could
    assert gap_threshold_s(np.arange(50.0) / 30, 30.0) == 2.0
    assert gap_threshold_s(np.arange(0, 500.0, 10), 1.0) == 30.0
    assert gap_threshold_s(np.array([5.0]), 0.1) == 30.0


# --- scores ---


class Frames:
    """Frames by id, and a count of the embeddings that were read."""

    def __init__(self, ids: list[int]) -> None:
        self.frame_ids = np.array(ids, np.int64)
        self.num_frames = len(ids)
        self.num_read = 0

    def stored_rows(self, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        ids = self.frame_ids[start:].tolist()
        self.num_read += len(ids)
        if ids:
            yield np.array([unit(n) for n in ids], np.float16), np.ones(len(ids), np.float32)


def unit(frame_id: int) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(frame_id).normal(size=8).astype(np.float16)
    return found


def test_only_frames_that_came_since_are_scored() -> None:
    query = np.ones(8, np.float32)
    relevance = Relevance()
    for ids, num_new in (
        (range(10, 20), 10),
        (range(10, 20), 0),
        (range(12, 25), 5),  # two were deleted, five came
        ([*range(12, 20), *range(21, 25)], 4),  # one was erased: those after it are scored again
        ([*range(12, 20), *range(21, 25)], 0),
        ([5, *range(12, 20)], 9),  # redated: nothing is known of the order
        ([], 0),
        (range(30, 33), 3),
    ):
        frames = Frames(list(ids))
        scores = relevance.scores("q", frames, query)
        np.testing.assert_allclose(scores, [float(unit(n).astype(float).sum()) for n in ids], rtol=1e-5)
        assert frames.num_read == num_new, ids


def test_scores_of_old_questions_are_dropped() -> None:
    relevance = Relevance(max_scores=25)
    query = np.ones(8, np.float32)
    for key, num_new in (("a", 10), ("b", 10), ("a", 0), ("c", 10), ("a", 0), ("b", 10)):
        frames = Frames(list(range(10)))
        relevance.scores(key, frames, query)
        assert frames.num_read == num_new, key


# --- the endpoint ---


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, answering={"max_new_tokens": 1, "num_keyframes": 8}) as site:
        await remember(site.agent, "door", 20)
        await remember(site.agent, "door", 30, start=START + 60, first=20)
        yield site


@pytest.fixture
async def http(site: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=30) as http:
        yield http


async def drawn(http: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await http.get("/v1/cameras/door/timeline", params=query)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


async def test_points_and_gaps_match_the_memory(site: Served, http: httpx.AsyncClient) -> None:
    shown = await drawn(http, question=QUESTION, points=89)
    assert (shown["after"], shown["before"], shown["bin_s"]) == (START, START + 89, 1.0)
    assert shown["frames"] == 50
    window = site.agent.store.window(("door",))
    unit = site.agent.model.embed_text(QUESTION).unit
    scores = np.vecdot(window.embeddings(np.arange(50)), unit)
    assert [point["frame_id"] for point in shown["points"][:-1]] == window.frame_ids[:48].tolist()
    assert [point["count"] for point in shown["points"]] == [1] * 48 + [2]
    np.testing.assert_allclose([p["max"] for p in shown["points"][:-1]], scores[:48], atol=6e-5)
    assert shown["points"][-1]["max"] == pytest.approx(float(scores[48:].max()), abs=6e-5)
    assert shown["points"][-1]["mean"] == pytest.approx(float(scores[48:].mean()), abs=6e-5)
    assert (shown["gap_s"], shown["gaps"]) == (3.0, [[START + 19, START + 60]])


@pytest.mark.parametrize(
    ("question", "window"),
    [(QUESTION, {"after": START + 5, "before": START + 80}), ("What can you see right now?", {"after": START + 5})],
)
async def test_keyframes_match_those_of_an_answer(
    http: httpx.AsyncClient, question: str, window: dict[str, float]
) -> None:
    shown = await drawn(http, question=question, **window)
    body = {"messages": [{"role": "user", "content": question}], "camera": "door", **window}
    answer = (await http.post("/v1/chat/completions", json=body)).json()
    cited = answer["choices"][0]["message"]["annotations"]
    assert cited
    names = ("frame_id", "time", "kind", "score")
    assert [[k[n] for n in names] for k in shown["keyframes"]] == [[k[n] for n in names] for k in cited]
    async with httpx.AsyncClient(base_url=str(http.base_url)) as stranger:
        picture = await stranger.get(shown["keyframes"][0]["url"])
    assert picture.content[:2] == b"\xff\xd8"


async def test_a_zoom_may_leave_the_keyframes_out(http: httpx.AsyncClient) -> None:
    shown = await drawn(http, question=QUESTION, keyframes="false", after=START + 25, before=START + 30)
    assert (shown["keyframes"], shown["points"]) == ([], [])
    assert shown["gaps"] == [[START + 25, START + 30]]


async def test_without_a_question_points_have_counts_only(http: httpx.AsyncClient) -> None:
    shown = await drawn(http, points=4)
    assert sum(point["count"] for point in shown["points"]) == 50
    assert {point["max"] for point in shown["points"]} == {None}
    assert (shown["keyframes"], shown["visits"], shown["background"]) == ([], [], None)


async def test_visits_are_those_of_the_span_whatever_chooses_keyframes(site: Served, http: httpx.AsyncClient) -> None:
    noise = np.random.default_rng(1).normal(0.1, 0.01, 400)
    noise[100:110] += 0.5
    noise[300:303] += 0.4
    times = START + 1000 + np.arange(400.0)
    write_history(site.agent, "gate", times, lambda n: float(noise[n]))
    asked = {"question": QUESTION, "keyframes": "false"}
    path = "/v1/cameras/gate/timeline"
    whole = (await http.get(path, params=asked)).json()["visits"]
    assert [(each["start"], each["end"], each["is_clear"]) for each in whole] == [
        (times[100], times[109], True),
        (times[300], times[302], True),
    ]
    body = {"messages": [{"role": "user", "content": QUESTION}], "camera": "gate", "selection": "visits"}
    answer = (await http.post("/v1/chat/completions", json=body)).json()
    assert [each["frame_id"] for each in answer["vilamp"]["visits"]] == [each["frame_id"] for each in whole]
    part = (await http.get(path, params={**asked, "after": times[250]})).json()
    assert [(each["start"], each["frame_id"]) for each in part["visits"]] == [(times[300], whole[1]["frame_id"])]
    near = (await http.get(path, params={**asked, "after": times[100], "before": times[109]})).json()
    for each in (part, near):  # the axis stays the same when the view is closer
        assert each["background"]["level"] == pytest.approx(0.1, abs=0.01)
        assert each["background"]["noise"] == pytest.approx(0.01, rel=0.15)
        assert 5 < each["background"]["limit"] < 9


async def test_frames_waiting_for_the_encoder_are_not_a_gap(site: Served, http: httpx.AsyncClient) -> None:
    store = site.agent.store
    jpeg = store.jpeg(int(store.window(("door",)).frame_ids[0]))
    for n in range(1, 11):
        store.append("door", START + 89 + n, jpeg)
    shown = await drawn(http, before=START + 100)
    assert shown["unencoded"] == 10
    assert [gap for gap in shown["gaps"] if gap[0] > START + 61 and gap[0] < START + 99] == []


async def test_alerts_match_the_alert_store(site: Served, http: httpx.AsyncClient) -> None:
    for n, (event_type, end) in enumerate([("on", None), ("off", START + 12), ("on", None)]):
        alert_id = ("first", "first", "second")[n]
        start = START + 10 if alert_id == "first" else START + 70
        event = AlertEvent(
            event_type, f"{alert_id}-{event_type}", "bag", "door", "a bag", f"bag at door {n}", start, start + 1, end,
            (2, 3), 6.0, "tiny", 0.1, (), "", None,
        )  # fmt: skip
        site.agent.alert_store.commit("bag", "door", {}, event=event, now=start + 1)
    both = (await drawn(http))["alerts"]
    assert both == [
        {"id": "first", "rule": "bag", "start": START + 10, "end": START + 12, "message": "bag at door 0"},
        {"id": "second", "rule": "bag", "start": START + 70, "end": None, "message": "bag at door 2"},
    ]
    assert [alert["id"] for alert in (await drawn(http, after=START + 20))["alerts"]] == ["second"]
    assert [alert["id"] for alert in (await drawn(http, before=START + 20))["alerts"]] == ["first"]


async def test_a_camera_without_memory_is_an_empty_timeline(tmp_path: Path) -> None:
    async with (
        served(tmp_path, cameras={"new": {}}) as site,
        httpx.AsyncClient(base_url=site.url, headers=site.headers()) as http,
    ):
        shown = (await http.get("/v1/cameras/new/timeline", params={"question": QUESTION})).json()
    assert (shown["points"], shown["keyframes"], shown["visits"]) == ([], [], [])
    assert (shown["gaps"], shown["oldest"]) == ([], None)


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ({"points": "0"}, 400, "1 to 4000"),
        ({"points": "many"}, 400, "1 to 4000"),
        ({"keyframes": "perhaps"}, 400, "true or false"),
        ({"after": "soon"}, 400, "ISO 8601"),
        ({"after": START + 9, "before": START + 9}, 400, "before"),
        ({"question": "x" * 3000}, 413, "3000"),
    ],
)
async def test_bad_parameters_are_named(http: httpx.AsyncClient, query: dict[str, Any], status: int, says: str) -> None:
    answer = await http.get("/v1/cameras/door/timeline", params=query)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


async def test_the_timeline_needs_a_token_and_a_camera(site: Served, http: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(base_url=site.url) as stranger:
        assert (await stranger.get("/v1/cameras/door/timeline")).status_code == 401
    publisher = site.headers("publisher")
    assert (await http.get("/v1/cameras/door/timeline", headers=publisher)).status_code == 403
    assert (await http.get("/v1/cameras/attic/timeline")).status_code == 404
