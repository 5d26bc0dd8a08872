"""Alive, ready, and the numbers: for supervisors and Prometheus."""

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.app import Agent
from agent.ask.model import load_model
from agent.health import CHECKS
from agent.keep.disk import disk_problem
from agent.keep.memory import open_memory
from agent.metrics import Metrics, Reader
from agent.settings.settings import Settings
from tests.support.agents import checkpoint, remember, served, settings_in
from tests.support.waiting import until


async def test_ready_says_why_not(tmp_path: Path) -> None:
    async with served(tmp_path) as site, httpx.AsyncClient(base_url=site.url) as http:
        assert (await http.get("/healthz")).text == "ok\n"
        ready = await http.get("/readyz")
        assert ready.status_code == 200
        assert ready.json() == {"ready": True, "degraded": False, "checks": dict.fromkeys(CHECKS, "ok")}
        site.agent.encoding.test_problem = "two different pictures have the same embedding"
        assert (await http.get("/readyz")).status_code == 503
        site.agent.encoding.test_problem = None
        site.agent.encoding.problem = "the encoder fails: out of memory"
        ready = await http.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["encoder"] == "the encoder fails: out of memory"
        assert (await http.get("/healthz")).status_code == 200


def test_the_disk_must_be_writable_and_have_room(tmp_path: Path) -> None:
    assert disk_problem(tmp_path, 0) is None
    assert list(tmp_path.iterdir()) == []
    assert "is full" in (disk_problem(tmp_path, 1 << 62) or "")
    assert "cannot be written" in (disk_problem(tmp_path / "missing", 0) or "")


@pytest.mark.parametrize(("weight", "expected"), [(None, None), (0.0, "same embedding"), (float("nan"), "not finite")])
async def test_the_encoder_self_test(tmp_path: Path, weight: float | None, expected: str | None) -> None:
    model = load_model(Settings(model={"path": str(checkpoint()), "num_threads": 1}))
    if weight is not None:
        for name, parameter in model.network.named_parameters():
            if name.startswith("dual_encoder"):
                parameter.data.fill_(weight)
    settings = settings_in(tmp_path)
    async with Agent(settings, open_memory(settings, model), model).running() as agent:
        problem = agent.encoding.test_problem
        assert (problem is None) == (expected is None)
        assert expected is None or expected in (problem or "")


async def test_a_self_test_that_failed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.ingest.encoder.RETEST_S", 0.01)
    settings = settings_in(tmp_path)
    model = load_model(settings)
    passes, num_tried = model.self_test, 0

    def self_test() -> None:
        nonlocal num_tried
        num_tried += 1
        if num_tried < 3:
            raise RuntimeError("CUDA error: out of memory")
        passes()

    monkeypatch.setattr(model, "self_test", self_test)
    async with Agent(settings, open_memory(settings, model), model).running() as agent:
        assert "out of memory" in (agent.encoding.test_problem or "")
        await until(lambda: agent.encoding.test_problem is None)
        assert agent.health.run().ready


async def test_metrics_are_well_formed_and_say_nothing_private(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as site,
        httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=30) as http,
    ):
        await remember(site.agent, "door", 3)
        asked = {"messages": [{"role": "user", "content": "Where is the sapphire?"}]}
        await http.post("/v1/chat/completions", json=asked)
        await http.post("/v1/chat/completions", json={**asked, "after": 4e9})
        text = (await http.get("/metrics")).text
    assert "sapphire" not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(name.startswith("vilamp_") for name in families)
    labels = {label for family in families.values() for sample in family.samples for label in sample.labels}
    assert labels <= {"camera", "rule", "stage", "reason", "le"}
    assert families["vilamp_memory_frames"].samples[0].value == 3
    assert families["vilamp_frames_encoded"].samples[0].value == 3
    reasons = {s.labels["reason"]: s.value for s in families["vilamp_questions"].samples if s.name.endswith("_total")}
    assert reasons == {"answered": 1, "no_frames": 1}
    assert re.search(r'vilamp_stage_seconds_count\{stage="first_token"\} 1.0', text)


def test_counters_that_are_read_end_in_total() -> None:
    metrics = Metrics()
    metrics.watch([
        Reader("vilamp_things_total", "Things.", ("camera",), lambda: [({"camera": "a"}, 2.0)]),
        Reader("vilamp_level", "Level.", (), lambda: [({}, 0.5)]),
    ])  # fmt: skip
    text = metrics.text().decode()
    assert 'vilamp_things_total{camera="a"} 2.0' in text
    assert "# TYPE vilamp_level gauge\nvilamp_level 0.5" in text
