"""`vilamp rules`: manage the alert rules of a running agent, or try one on the stored history (a dry run)."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import yaml

from agent.cli.ask import advise, connect, server_named, server_of, window_of, zone_of
from agent.cli.client import Client, ServerError, understood
from agent.cli.common import EXIT_USAGE, CliError, say, settings_of
from agent.settings.yaml import bounded_node, plain_value
from agent.times import format_clock, format_span, format_time
from agent.untrusted.plain import plain_json, plain_line

Json = dict[str, Any]


def run(args: argparse.Namespace) -> int:
    """Run the given action on the agent's rules. Return the exit code. Raises CliError."""
    settings = settings_of(args)
    server = server_named(args) or server_of(settings)
    actions: dict[str, Callable[[Client, argparse.Namespace], None]] = {
        "list": _list,
        "add": _add,
        "rm": _remove,
        "enable": _switch,
        "disable": _switch,
        "snooze": _snooze,
        "try": _try,
    }
    with connect(server, settings, "ask" if args.action in ("list", "try") else "admin") as client:
        try:
            with understood():
                actions[args.action](client, args)
        except ServerError as error:
            raise CliError(advise(error, server)) from error
    return 0


def _path(name: str) -> str:
    return f"/v1/rules/{quote(name, safe='')}"


def _list(client: Client, args: argparse.Namespace) -> None:
    listed = client.get_json("/v1/rules")
    if args.json:
        say(plain_json(listed))
        return
    zone = zone_of(args)
    if not listed["data"]:
        say('no rules yet: vilamp rules add bag "a bag is left by the door"')
    for rule in listed["data"]:
        cameras = ", ".join(rule["cameras"]) or "all cameras"
        named = (rule["name"], _condition(rule, zone), rule["condition"], f"({cameras}; {rule['source']})")
        say("  ".join(map(plain_line, named)))
        for camera, state in rule["state"].items():
            say(f"  {plain_line(camera)}: {plain_line(_state(state, zone))}")


def _condition(rule: Json, zone: str) -> str:
    if rule["problem"]:
        return f"PROBLEM: {rule['problem']}"
    if not rule["enabled"]:
        return "disabled"
    if rule["snoozed_until"] > time.time():
        return f"snoozed until {format_time(rule['snoozed_until'], zone)}"
    return "enabled"


def _state(state: Json, zone: str) -> str:
    parts = [f"ON since {format_time(state['since'], zone)}" if state["on"] else "off"]
    if state["last_alert"] and not state["on"]:
        parts.append(f"last alert {format_time(state['last_alert'], zone)}")
    parts.append(f"gate {state['gate_score']:.1f}{' (open)' if state['gate_open'] else ''}")
    parts.append(f"{state['judge_calls']} judge calls")
    parts += [f"{number} {reason}" for reason, number in state["suppressed"].items()]
    return ", ".join(parts)


def _add(client: Client, args: argparse.Namespace) -> None:
    settings = {"condition": args.condition, "cameras": args.camera or [], **_settings(args.set)}
    if args.replace:
        made = client.send_json("PUT", _path(args.name), settings)
    else:
        made = client.send_json("POST", "/v1/rules", {"name": args.name, **settings})
    say(f"{args.name} watches for: {args.condition}")
    if warning := made.get("warning"):
        say(f"note: {plain_line(warning)}")


def _remove(client: Client, args: argparse.Namespace) -> None:
    client.send_json("DELETE", _path(args.name))
    say(f"{args.name} is removed; its alerts are kept")


def _switch(client: Client, args: argparse.Namespace) -> None:
    client.send_json("PATCH", _path(args.name), {"enabled": args.action == "enable"})
    say(f"{args.name} is {args.action}d")


def _snooze(client: Client, args: argparse.Namespace) -> None:
    body = {"minutes": args.minutes, **({"camera": args.camera} if args.camera else {})}
    rule = client.send_json("POST", f"{_path(args.name)}/snooze", body)
    until = rule["snoozed_until"]
    if args.camera:  # a camera that has sent no frames has no state
        until = rule["state"].get(args.camera, {"snoozed_until": time.time() + 60 * args.minutes})["snoozed_until"]
    snoozed = until > time.time()
    say(f"{args.name} is snoozed until {format_time(until, zone_of(args))}" if snoozed else f"{args.name} is awake")


def _settings(given: list[str]) -> Json:
    """Return the settings written as `given` on the command line: {"gate": {"on": 6}} for ["gate.on=6"].

    Raises CliError.
    """
    settings: Json = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise CliError(f'--set {each}: write SETTING=VALUE, such as "gate.on=6"', EXIT_USAGE)
        try:
            node = bounded_node(text)
            value = None if node is None else plain_value(node)
            json.dumps(value)  # raises for a YAML date, which JSON cannot represent
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise CliError(f"--set {each}: the value cannot be read", EXIT_USAGE) from error
        *parts, last = name.split(".")
        place = settings
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise CliError(f"--set {each}: {part} has a value already", EXIT_USAGE)
        place[last] = value
    return settings


# --- dry runs ---


def _try(client: Client, args: argparse.Namespace) -> None:
    if (args.condition is None) == (args.rule is None):
        raise CliError("give a condition, or an existing rule with --rule", EXIT_USAGE)
    if args.rule is not None and args.set:
        raise CliError("--set needs a condition: it cannot change an existing rule", EXIT_USAGE)
    zone = zone_of(args, client)
    after, before = window_of(args, zone, time.time(), settings_of(args))
    rule = args.rule or {"condition": args.condition, **_settings(args.set)}
    body = {"rule": rule, "sweep": args.sweep, "max_judgements": args.max_judgements, "stream": True}
    body |= {name: value for name, value in (("after", after), ("before", before)) if value is not None}
    if args.camera:
        body["cameras"] = args.camera
    result = None
    for event in client.events("/v1/rules/dry-run", body):
        result = event.get("result", result)
        if "progress" in event:
            _progress(event["progress"])
    if result is None:
        raise ServerError("the dry run is incomplete: the server closed the stream early")
    if args.json:
        say(plain_json(result))
    else:
        for line in report(result, zone):
            say(line)


def _progress(progress: Json) -> None:
    if sys.stderr.isatty():
        made = progress["judge_calls_made"]
        say(f"\r{progress['done']:.0%}, {made} judge calls ", end="", file=sys.stderr, flush=True)


def report(result: Json, zone: str) -> list[str]:
    """Return the lines of text that describe the result of a dry run. zone: time zone for the times in them."""
    span, cameras = format_span(result["until"] - result["after"]), ", ".join(result["cameras"])
    lines = [
        f'"{plain_line(result["rule"]["condition"])}" on {plain_line(cameras)}: {result["frames"]:,} frames in {span}',
        f"alerts: {len(result['alerts'])}   gate openings: {result['gate_openings']}   judge calls: "
        f"{result['judge_calls']} ({result['judge_calls_per_hour']:g} an hour, {result['judge_share']:.1%} of the frames)",
    ]
    for alert in result["alerts"]:
        end = "still on" if alert["end_time"] is None else f"until {format_time(alert['end_time'], zone)}"
        n, m = alert["confirmations"]
        frames = " ".join(f"#{frame['id']}" for frame in alert["frames"])
        lines.append(
            f"  {format_time(alert['start_time'], zone)}  {plain_line(alert['camera'])}  {end}  fired at "
            f"{format_clock(alert['time'], zone)}  {n} of {m}  gate {alert['score']:.1f}  {frames}"
        )
    if result["suppressed_counts"]:
        held = ", ".join(
            f"{plain_line(number)} {plain_line(reason)}" for reason, number in result["suppressed_counts"].items()
        )
        lines.append(f"did not fire: {held}")
    if result["unencoded"]:
        lines.append(f"note: {result['unencoded']} frames are not encoded yet, and had no part")
    if not result["complete"]:
        lines.append(
            f"note: the allowed judge calls were used up at {format_time(result['until'], zone)}; what came later was "
            "not tried (--max-judgements)"
        )
    return lines + _sweep_lines(result["sweep"], result["rule"]["gate"]["on"])


def _sweep_lines(sweep: list[Json], chosen: float) -> list[str]:
    if not sweep:
        return []
    lines = ["", "gate.on  gate.off  openings  alerts  judge calls"]
    for each in sweep:
        alerts, calls = ("?" if each[name] is None else str(each[name]) for name in ("alerts", "judge_calls"))
        mark = "   <- as it is" if abs(each["on"] - chosen) < 1e-3 else ""
        lines.append(
            f"{each['on']:7.2f}  {each['off']:8.2f}  {each['gate_openings']:8}  {alerts:>6}  {calls:>11}{mark}"
        )
    return lines
