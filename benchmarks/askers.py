"""Time questions that come at once to a server that answers slowly, and rules whose judge it is.

    python -m benchmarks.askers [--seconds 2] [--judge-seconds 1] [--out out/benchmarks]

The server is the tests' own. It takes a fixed time for each request and any number at once. For each
`answerer.concurrency`, 1, 4 and 16 people ask at the same time; then 16 cameras with 4 rules each want one verdict, while
a person asks. Writes bench-askers.json.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from agent.alerts.judge import Judge
from agent.app import Agent
from agent.ask.question import Question
from agent.settings.rules import RuleSettings
from benchmarks.machine import add_out, machine, measured_path, show, write_result
from tests.support.agents import START
from tests.support.remote import WHO, asking, openai
from tests.support.vlm_server import Spy, spying

CONCURRENCY = (1, 4, 16)
ASKERS = (1, 4, 16)
RULES = 16 * 4


async def timed(agent: Agent, question: Question) -> float:
    """Return the seconds of one answer."""
    began = time.perf_counter()
    await agent.answering.answer(question)
    return time.perf_counter() - began


async def ask(agent: Agent, askers: int) -> dict[str, float]:
    """Let so many people ask at once. Return the seconds until the first and the last answer."""
    seconds = sorted(await asyncio.gather(*(timed(agent, WHO) for _ in range(askers))))
    return {"askers": askers, "first_s": round(seconds[0], 2), "last_s": round(seconds[-1], 2)}


async def judge(agent: Agent) -> dict[str, float]:
    """Ask for RULES verdicts at once, and one question a moment later. Return how long both take."""
    rule = RuleSettings.model_validate({"condition": "A bag is left by the door.", "judge": {"window_s": 40}})
    judging = Judge(agent.answering)
    began = time.perf_counter()
    votes = [asyncio.create_task(judging.vote(rule, "door", 12, START + 110)) for _ in range(RULES)]
    await asyncio.sleep(0.2)
    person_s = await timed(agent, WHO)
    await asyncio.gather(*votes)
    return {
        "rules": RULES,
        "last_verdict_s": round(time.perf_counter() - began, 2),
        "question_meanwhile_s": round(person_s, 2),
    }


async def measure(spy: Spy, seconds: float, judge_seconds: float) -> list[dict[str, Any]]:
    """Return one entry for each concurrency."""
    found = []
    for concurrency in CONCURRENCY:
        with tempfile.TemporaryDirectory(prefix="vilamp-bench-") as folder:
            many = {"max_questions": 100, "max_new_tokens": 8, "timeout_s": 600.0}
            slow = openai(spy, f"takes-{seconds:g}", concurrency=concurrency)
            async with asking(Path(folder) / "ask", slow, answering=many) as agent:
                people = [await ask(agent, askers) for askers in ASKERS]
            slow = openai(spy, f"takes-{judge_seconds:g}", concurrency=concurrency)
            async with asking(Path(folder) / "judge", slow, answering=many) as agent:
                found.append({"concurrency": concurrency, "people": people, "judge": await judge(agent)})
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="that the server takes for a question")
    parser.add_argument("--judge-seconds", type=float, default=1.0, help="that it takes for a verdict")
    add_out(parser)
    args = parser.parse_args()
    here = machine()
    show(here)
    with spying() as spy:
        found = asyncio.run(measure(spy, args.seconds, args.judge_seconds))
    measured = {"seconds": args.seconds, "judge_seconds": args.judge_seconds, "by_concurrency": found}
    write_result(measured_path(args.out, "bench-askers.json"), here, measured)


if __name__ == "__main__":
    main()
