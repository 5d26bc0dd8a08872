"""Options that several commands of `vilamp` have, and how a command is added to the parser."""

import argparse
from collections.abc import Callable
from pathlib import Path

AddParser = Callable[..., argparse.ArgumentParser]  # the method `add_parser` of argparse's subparsers

TIMES = '"10 minutes ago", "this morning", "yesterday 22:00", "-24h", ISO 8601 or unix seconds'


def command(
    add: AddParser, name: str, run: str, summary: str, example: str, details: str = ""
) -> argparse.ArgumentParser:
    """Add a command and return its parser. run: its function, written "module:function".

    summary: one line for the list of commands. details, example: shown in the command's own help.
    """
    parser = add(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {details}", epilog=f"example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def between(low: float, high: float, read: Callable[[str], float] = float) -> Callable[[str], float]:
    """Return a function for argparse's `type` that accepts numbers from `low` to `high`. read: parses the text."""

    def number(text: str) -> float:
        value = read(text)
        if not low <= value <= high:  # rejects NaN too
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return number


def seeds(text: str) -> list[int]:
    """Return the random seeds in a text such as "21,22"."""
    seeds = [int(part) for part in text.split(",")]
    if min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"{text} has a negative number")
    return seeds


def common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="configuration file (default: $VILAMP_CONFIG, else none)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of memory and tokens")


def zone(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timezone", metavar="ZONE", help="time zone of times given and shown (default: the camera's)")


def agent(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which agent is meant: its address, or its configuration and data folder."""
    common(parser)
    parser.add_argument("--server", metavar="URL", help="the agent (default: $VILAMP_SERVER, else as configured)")
    zone(parser)


def network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="FOLDER", help='checkpoint folder, Hugging Face id or "builtin"')
    parser.add_argument("--device", help='"cpu", "cuda" or "cuda:1"')
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="precision of the weights")
    parser.add_argument("--num-threads", type=int, metavar="N", help="CPU threads of the network")


def span(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--after", metavar="TIME", help=f"only frames after this time: {TIMES}")
    parser.add_argument("--before", metavar="TIME", help="only frames before this time (default: now)")


def answer(parser: argparse.ArgumentParser) -> None:
    span(parser)
    parser.add_argument("--json", action="store_true", help="print the complete answer as one JSON object")
    parser.add_argument("--all-evidence", action="store_true", help="list every frame used, not only the best 12")
