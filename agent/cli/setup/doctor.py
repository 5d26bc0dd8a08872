"""`vilamp doctor`: check every part of a set-up, and say of each whether it works and what to do.

A running agent is asked for what it sees itself; without one, this command opens cameras, model and servers on its own.
"""

import argparse
import asyncio
import logging
from collections.abc import Iterator
from typing import Any

from agent.ask.capabilities import Capabilities, words
from agent.cli.ask import connect, server_named, server_of
from agent.cli.client import Client, ServerError, understood
from agent.cli.common import EXIT_FAILED, CliError, say, settings_of
from agent.cli.setup.checks import clock_finding, disk_findings, mqtt_finding, port_findings, reach_findings, stored
from agent.cli.setup.findings import Finding, as_json
from agent.cli.setup.look import camera_finding, look_at, seen_by_agent
from agent.cli.setup.models import answerer_findings, encoder_findings
from agent.settings.settings import Settings
from agent.untrusted.plain import plain_json, plain_line


def run(args: argparse.Namespace) -> int:
    """Print the findings. Return 0, or 1 if one of them is an error. Raises CliError."""
    settings = settings_of(args)
    logging.disable(logging.WARNING)  # what the sources log is in the findings
    server = server_named(args) or server_of(settings)
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not args.json:
            print_finding(finding)

    with connect(server, settings) as client:
        try:
            health = client.health()
        except ServerError as error:
            if server_named(args) is not None:
                raise CliError(f"{server}: {error}") from error
            health = None
        checked = _without_agent(settings) if health is None else _with_agent(client, health, settings, server)
        for finding in checked:
            tell(finding)
    summary = as_json(findings)
    if args.json:
        say(plain_json(summary))
    else:
        print_summary(findings)
    return 0 if summary["ok"] else EXIT_FAILED


def _without_agent(settings: Settings) -> Iterator[Finding]:
    """Yield the findings while no agent runs: everything is opened here, and closed again."""
    yield Finding("agent", "agent", "ok", "not running, so cameras and model are opened here", "vilamp serve")
    yield from port_findings(settings)
    yield clock_finding()
    yield from disk_findings(settings)
    yield from asyncio.run(_cameras(settings))
    yield from encoder_findings(settings)
    yield from asyncio.run(answerer_findings(settings))
    yield from reach_findings(stored(settings), settings)
    if settings.mqtt.url is not None:
        yield asyncio.run(mqtt_finding(settings.mqtt))


async def _cameras(settings: Settings) -> list[Finding]:
    """Look at all enabled cameras with an address at the same time."""
    with_url = {name: each for name, each in settings.cameras.items() if each.enabled and each.url is not None}
    looks = await asyncio.gather(*(look_at(name, camera) for name, camera in with_url.items()))
    max_skew_s = settings.streaming.max_skew_s
    findings = [
        camera_finding(name, camera, look, max_skew_s)
        for (name, camera), look in zip(with_url.items(), looks, strict=True)
    ]
    for name, camera in settings.cameras.items():
        if not camera.enabled:
            findings.append(Finding("cameras", f"camera {name}", "ok", f"switched off (cameras.{name}.enabled)"))
        elif camera.url is None:
            findings.append(Finding("cameras", f"camera {name}", "ok", f"waits for a publisher at /whip/{name}"))
    if not settings.cameras:
        advice = "add cameras.<name>.url to the configuration, or run vilamp init"
        findings.append(Finding("cameras", "cameras", "warning", "none is configured", advice))
    return findings


def _with_agent(client: Client, health: dict[str, Any], settings: Settings, server: str) -> Iterator[Finding]:
    """Yield what a running agent says of itself, in the words of `/readyz`, with details and advice."""
    try:
        with understood():
            cameras = client.get_json("/v1/cameras")["data"]
            memory = client.get_json("/v1/memory")
            able = client.get_json("/v1/models")["data"][0]["vilamp"].get("server")
            answers = "; ".join(words(Capabilities("", "", 0, **able))) if able else "works"
    except ServerError as error:
        raise CliError(str(error)) from error
    if health["ready"]:
        yield Finding("agent", "agent", "ok", f"running: {server}")
    else:
        said = "running, but no frame can be stored or no question asked"
        yield Finding("agent", "agent", "error", said, "see the lines below")
    for described in cameras:
        name = described["id"]
        yield camera_finding(name, settings.camera(name), seen_by_agent(described), settings.streaming.max_skew_s)
    problems = [each for each in health.get("problems", ()) if not each["part"].startswith("camera ")]
    for each in problems:
        yield Finding(each["part"], each["part"], "error" if each["stops"] else "warning", each["problem"])
    for check, state in health["checks"].items():
        if state == "ok" and check != "cameras":
            yield Finding(check, check, "ok", answers if check == "answerer" else "works")
    yield from reach_findings(memory, settings)


def print_finding(finding: Finding) -> None:
    """Print one line: level, part and words; below it what to do."""
    say(f"{finding.level:<8} {plain_line(finding.part):<18} {plain_line(finding.words)}")
    if finding.advice:
        say(f"{'':<28} -> {plain_line(finding.advice)}")


def print_summary(findings: list[Finding]) -> None:
    """Print how many findings are errors and warnings."""
    errors, warnings = (sum(each.level == level for each in findings) for level in ("error", "warning"))
    if errors or warnings:
        say(f"\n{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    else:
        say("\nall is well")
