"""The options of `vilamp rules ...`. Only parsing; the work is in `agent/cli/rules.py`, imported when it is run."""

import argparse
from collections.abc import Callable

Commands = argparse._SubParsersAction
AddOptions = Callable[[argparse.ArgumentParser], None]


def add_rules(commands: "Commands[argparse.ArgumentParser]", place_options: AddOptions) -> None:
    """`rules` with its actions. place_options: adds those that say where the agent is."""
    rules = commands.add_parser("rules", help="standing questions: list, add, try on the past, snooze")
    actions = rules.add_subparsers(dest="action", required=True, metavar="ACTION")

    listed = actions.add_parser("list", help="show the rules of a running agent")
    listed.add_argument("--json", action="store_true", help="print them as JSON")
    add = actions.add_parser(
        "add", help="make a rule", description='Make a rule: vilamp rules add bag "a bag is left by the door".'
    )
    add.add_argument("name")
    _rule_options(add)
    add.add_argument("condition", help="what to watch for, in plain words")
    add.add_argument("--replace", action="store_true", help="replace the rule of that name, if there is one")
    _add_try(actions)
    snooze = actions.add_parser("snooze", help="no alert begins for a while")
    snooze.add_argument("name")
    snooze.add_argument("minutes", type=float, help="0 ends the snooze")
    snooze.add_argument("--camera", metavar="NAME", help="at this camera only")
    for action, text in (("rm", "remove a rule"), ("enable", "switch a rule on"), ("disable", "switch a rule off")):
        actions.add_parser(action, help=text).add_argument("name")
    for parser in actions.choices.values():
        place_options(parser)
        parser.set_defaults(run=_run)


def _add_try(actions: "Commands[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "try",
        help="try a rule on what is remembered",
        description="Replay a rule over the stored history: what would have fired, when, on which frames, and how many "
        "calls of the language model it would have cost. Nothing is changed or sent.",
    )
    parser.add_argument("condition", nargs="?", help="what to watch for, in plain words")
    parser.add_argument("--rule", metavar="NAME", help="a rule that there is, instead of a condition")
    _rule_options(parser)
    parser.add_argument("--after", metavar="TIME", help='"-24h", "yesterday 22:00", ISO 8601 or unix seconds')
    parser.add_argument("--before", metavar="TIME", help="the end (default: now)")
    parser.add_argument("--sweep", action="store_true", help="also with other thresholds of the gate")
    parser.add_argument("--max-judgements", type=int, default=500, metavar="N", help="at most (default: 500)")
    parser.add_argument("--json", action="store_true", help="print what the server answers")


def _rule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--camera", action="append", metavar="NAME", help="may be given several times (default: all)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SETTING=VALUE",
        help='any other setting: --set gate.on=6 --set \'schedule=[{start: "20:00", end: "06:00"}]\'',
    )


def _run(args: argparse.Namespace) -> int:
    from agent.cli.rules import run

    return run(args)
