"""`vilamp rules` against a real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.cli.rules import report
from tests.support.agents import START, Served, remember, served
from tests.support.rules import RULE

Typed = Callable[..., Awaitable[tuple[int, str, str]]]


@asynccontextmanager
async def typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[tuple[Served, Typed]]:
    """A server, and a function that runs `vilamp rules <words>` on its machine: exit code, stdout, stderr."""
    async with served(folder, rules={"car": RULE}, cameras={"new": {}}) as server:

        async def run(*words: str) -> tuple[int, str, str]:
            place = ("--server", server.url, "--data-dir", str(folder), "--timezone", "UTC")
            code = await asyncio.to_thread(main, ["rules", *words, *place])
            out = capsys.readouterr()
            return code, out.out, out.err

        yield server, run


@pytest.fixture(autouse=True)
def _no_other_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VILAMP_SERVER", "VILAMP_CONFIG"):
        monkeypatch.delenv(name, raising=False)


async def test_rules_can_be_added_listed_switched_snoozed_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with typed(tmp_path, capsys) as (server, run):
        code, out, _ = await run(
            "add",
            "bag",
            "a bag is left",
            "--camera",
            "yard",
            "--camera",
            "new",
            "--set",
            "gate.on=6",
            "--set",
            "clear=3",
        )
        assert (code, out) == (0, "bag watches for: a bag is left\n")
        rule = await server.agent.alerts.describe("bag")
        assert (rule["cameras"], rule["gate"]["on"], rule["clear"]) == (["yard", "new"], 6.0, 3)
        await remember(server.agent, "yard", 2)
        await server.agent.alerts.settled()
        _, out, _ = await run("list")
        assert "bag  enabled  a bag is left  (yard, new; api)\n  yard: off, gate 0.0, 0 judge calls" in out
        assert "car  enabled  a red car  (all cameras; config)" in out
        assert (await run("disable", "bag"))[1] == "bag is disabled\n"
        assert "bag  disabled" in (await run("list"))[1]
        assert (await run("enable", "bag"))[1] == "bag is enabled\n"
        assert (await run("snooze", "bag", "30"))[1].startswith("bag is snoozed until 20")
        assert "bag  snoozed until" in (await run("list"))[1]
        assert (await run("snooze", "bag", "0"))[1] == "bag is awake\n"
        assert (await run("snooze", "bag", "30", "--camera", "new"))[1].startswith("bag is snoozed until 20")
        assert (await run("snooze", "bag", "0", "--camera", "new"))[1] == "bag is awake\n"
        assert (await run("add", "bag", "a sack is left", "--replace"))[0] == 0
        assert json.loads((await run("list", "--json"))[1])["data"][0]["condition"] == "a sack is left"
        assert (await run("rm", "bag"))[1] == "bag is removed; its alerts are kept\n"


async def test_rules_can_be_tried_on_the_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with typed(tmp_path, capsys) as (server, run):
        await remember(server.agent, "yard", 40)
        before = str(START + 100)
        code, out, _ = await run(
            "try", "a bag", "--camera", "yard", "--after", "2026-11-22 16:04:15", "--before", before, "--sweep"
        )
        assert code == 0
        assert '"a bag" on yard: 30 frames in 29 s' in out
        assert "alerts: " in out
        assert "<- as it is" in out
        code, out, _ = await run("try", "--rule", "car", "--json", "--max-judgements", "3")
        assert json.loads(out)["rule"]["condition"] == "a red car"


async def test_mistakes_give_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with typed(tmp_path, capsys) as (_, run):
        for words, code, expected in (
            (("rm", "car"), 1, "configuration file"),
            (("rm", "nobody"), 1, "no rule 'nobody'"),
            (("add", "Bag", "x"), 1, "cannot be a name"),
            (("add", "bag", "x", "--set", "gate"), 2, "SETTING=VALUE"),
            (("add", "bag", "x", "--set", "clear=[1"), 2, "cannot be read"),
            (("add", "bag", "x", "--set", "clear=2", "--set", "clear.x=2"), 2, "has a value already"),
            (("try",), 2, "give a condition"),
            (("try", "x", "--rule", "car"), 2, "give a condition"),
            (("try", "--rule", "car", "--set", "clear=2"), 2, "--set needs a condition"),
            (("try", "--rule", "car"), 1, "No frames are stored"),
            (("try", "x", "--after", "-24h"), 1, "No frames are stored"),
        ):
            found, _, err = await run(*words)
            assert (found, expected in err) == (code, True), (words, err)


def test_report_of_a_dry_run() -> None:
    frames = [{"id": 7, "time": START, "url": "/7"}]
    alert = {"camera": "yard", "start_time": START, "time": START + 1, "end_time": START + 30, "score": 6.25}
    result = {
        "rule": {"condition": "a bag", "gate": {"on": 8.0}},
        "cameras": ["yard"],
        "after": START,
        "until": START + 3600,
        "frames": 3601,
        "unencoded": 2,
        "complete": False,
        "alerts": [
            {**alert, "confirmations": [2, 3], "frames": frames},
            {**alert, "end_time": None, "confirmations": [2, 2], "frames": []},
        ],
        "suppressed_counts": {"unconfirmed": 4},
        "gate_openings": 6,
        "judge_calls": 20,
        "judge_calls_per_hour": 20.0,
        "judge_share": 0.0056,
        "sweep": [{"on": 8.0, "off": 4.0, "gate_openings": 6, "alerts": None, "judge_calls": None}],
    }
    lines = report(result, "UTC")
    assert lines[0] == '"a bag" on yard: 3,601 frames in 1 h'
    assert "20 an hour, 0.6% of the frames" in lines[1]
    assert (
        lines[2]
        .strip()
        .startswith("2026-11-22 16:04:05 UTC  yard  until 2026-11-22 16:04:35 UTC  fired at 16:04:06  2 of 3")
    )
    assert "still on" in lines[3]
    assert lines[4] == "did not fire: 4 unconfirmed"
    assert "2 frames are not encoded" in lines[5]
    assert "--max-judgements" in lines[6]
    assert lines[-1].endswith("?            ?   <- as it is")
