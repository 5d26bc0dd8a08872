"""Defines the commands of `vilamp` and their options. Imports no large library, so that `vilamp --help` is fast."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.cli.common import say

AddParser = Callable[..., argparse.ArgumentParser]  # the method `add_parser` of argparse's subparsers

TIMES = '"10 minutes ago", "yesterday 22:00", "-24h", ISO 8601 or unix seconds'


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line and return the command with its options.

    Arguments that `eval` and `train` parse themselves are in the attribute `rest`.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(_joined(argv))
    if rest and not args.passes_on:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    return args


def _joined(argv: Sequence[str]) -> list[str]:
    """Return the arguments with `--after -24h` written as `--after=-24h`, and the file `-x.mp4` as `./-x.mp4`.

    Otherwise argparse would read `-24h` and `-x.mp4` as options.
    """
    joined: list[str] = []
    for word in argv:
        follows_time = bool(joined) and joined[-1] in ("--after", "--before", "--start", "--within")
        if word[:1] == "-" and Path(word).suffix and Path(word).is_file():
            joined.append(f"./{word}")
        elif follows_time and word[:1] == "-" and word[1:2].isdigit():
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


class _Version(argparse.Action):
    """The option `--version`, which prints the installed version and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        from importlib.metadata import version

        say(f"vilamp {version('vilamp-live')}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser for all commands. A parsed command has its function in `run`, written "module:function"."""
    parser = argparse.ArgumentParser(
        prog="vilamp",
        description="A streaming video agent. It takes video over WebRTC, RTSP or from files, remembers what the "
        "cameras saw, and answers questions with the frames that support the answer.",
        epilog="example: vilamp demo",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    parser.set_defaults(passes_on=False)
    add = parser.add_subparsers(dest="command", required=True, metavar="COMMAND").add_parser
    for command in (
        *(_serve, _doctor, _ask, _replay, _memory, _erase, _export, _rules, _demo),
        *(_check_config, _model, _world, _eval_alerts, _eval, _train),
    ):
        command(add)
    return parser


def _command(
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


# --- options that several commands have ---


def _between(low: float, high: float, read: Callable[[str], float] = float) -> Callable[[str], float]:
    """Return a function for argparse's `type` that accepts numbers from `low` to `high`. read: parses the text."""

    def number(text: str) -> float:
        value = read(text)
        if not low <= value <= high:  # rejects NaN too
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return number


def _seeds(text: str) -> list[int]:
    """Return the random seeds in a text such as "21,22"."""
    seeds = [int(part) for part in text.split(",")]
    if min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"{text} has a negative number")
    return seeds


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="configuration file (default: $VILAMP_CONFIG, else none)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of memory and tokens")


def _zone(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timezone", metavar="ZONE", help="time zone of times given and shown (default: this machine's)"
    )


def _agent(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which agent is meant: its address, or its configuration and data folder."""
    _common(parser)
    parser.add_argument("--server", metavar="URL", help="the agent (default: $VILAMP_SERVER, else as configured)")
    _zone(parser)


def _network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="FOLDER", help='checkpoint folder, Hugging Face id or "builtin"')
    parser.add_argument("--device", help='"cpu", "cuda" or "cuda:1"')
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="precision of the weights")
    parser.add_argument("--num-threads", type=int, metavar="N", help="CPU threads of the network")


def _span(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--after", metavar="TIME", help=f"only frames after this time: {TIMES}")
    parser.add_argument("--before", metavar="TIME", help="only frames before this time (default: now)")


def _answer(parser: argparse.ArgumentParser) -> None:
    _span(parser)
    parser.add_argument("--json", action="store_true", help="print the complete answer as one JSON object")
    parser.add_argument("--all-evidence", action="store_true", help="list every frame used, not only the best 12")


# --- commands ---


def _serve(add: AddParser) -> None:
    parser = _command(
        add, "serve", "agent.cli.serve:run", "run the agent until interrupted", "vilamp serve --config vilamp.yaml"
    )
    _common(parser)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="TCP port (default: 8080)")
    _network(parser)
    parser.add_argument("--tls", choices=["self-signed"], help="serve HTTPS with a self-signed certificate")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve HTTPS with this certificate (PEM)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="private key of the certificate (PEM)")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="(default: info)")


def _doctor(add: AddParser) -> None:
    parser = _command(
        add, "doctor", "agent.cli.setup.doctor:run", "check cameras, model, servers, disk and clock",
        "vilamp doctor --config vilamp.yaml",
        "Says of each part whether it works, and what to do. Asks a running agent, or opens everything itself when none "
        "runs. Exit code 1: something does not work.",
    )  # fmt: skip
    _agent(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _ask(add: AddParser) -> None:
    parser = _command(
        add, "ask", "agent.cli.ask:run", "ask a running agent about what its cameras saw",
        'vilamp ask "who came to the door?" --camera gate --after -2h',
        "On the agent's own machine the token is read from the data folder; elsewhere set $VILAMP_TOKEN.",
    )  # fmt: skip
    parser.add_argument("question")
    parser.add_argument("--camera", action="append", metavar="NAME", help="may be given several times (default: all)")
    parser.add_argument("--within", metavar="X,Y,R", help="only frames taken at most R metres from X, Y")
    _agent(parser)
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="save the evidence frames as one picture")
    _answer(parser)


def _replay(add: AddParser) -> None:
    parser = _command(
        add, "replay", "agent.cli.replay:run", "index a video file and ask about it",
        'vilamp replay gate.mp4 --ask "was there a red car?"',
        "The frames become a camera's history. A file that is already indexed is not indexed again.",
    )  # fmt: skip
    parser.add_argument("file", type=Path)
    parser.add_argument("--ask", action="append", metavar="QUESTION", default=[], help="may be given several times")
    parser.add_argument("--camera", metavar="NAME", help="camera the history belongs to (default: from the file name)")
    parser.add_argument("--rate", type=_between(1e-6, 30), metavar="HZ", help="frames kept per second (default: 1)")
    parser.add_argument("--start", metavar="TIME", help="time of the first frame (default: from the file's date)")
    _common(parser)
    _network(parser)
    _zone(parser)
    _answer(parser)


def _memory(add: AddParser) -> None:
    parser = _command(
        add, "memory", "agent.cli.keep:run_memory", "show what is stored for each camera", "vilamp memory",
        "Reads from a running agent, or from its data folder when none runs.",
    )  # fmt: skip
    _agent(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _erase(add: AddParser) -> None:
    parser = _command(
        add, "erase", "agent.cli.keep:run_erase", "erase a time span of a camera for good",
        'vilamp erase gate --after "yesterday 22:00" --before "yesterday 23:00"',
        "Erases pictures, metadata, embeddings and alerts; this cannot be undone. Works on a running agent, or on its "
        "data folder when none runs.",
    )  # fmt: skip
    parser.add_argument("camera")
    parser.add_argument("--after", metavar="TIME", help=TIMES)
    parser.add_argument("--before", metavar="TIME", help="end of the span, included")
    parser.add_argument("--all", action="store_true", help="everything of this camera")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    _agent(parser)


def _export(add: AddParser) -> None:
    parser = _command(
        add, "export", "agent.cli.keep:run_export", "write a time span of a camera as a video",
        "vilamp export gate clip.mp4 --after -10m",
        "Writes an MP4 with the true timing and, beside it, a JSON file with the time, the metadata and the SHA-256 of "
        "every frame.",
    )  # fmt: skip
    parser.add_argument("camera")
    parser.add_argument("out", type=Path, metavar="OUT.mp4")
    _span(parser)
    _agent(parser)


def _rules(add: AddParser) -> None:
    rules = _command(
        add, "rules", "agent.cli.rules:run", "manage alert rules of a running agent",
        'vilamp rules add bag "a bag is left by the door"',
    )  # fmt: skip
    actions = rules.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="show the rules")
    listed.add_argument("--json", action="store_true", help="print JSON")
    new = actions.add_parser("add", help="add a rule", epilog='example: vilamp rules add bag "a bag is left"')
    new.add_argument("name")
    _rule(new)
    new.add_argument("condition", help="what to watch for, in plain words")
    new.add_argument("--replace", action="store_true", help="replace a rule of the same name")
    _rules_try(actions.add_parser)
    snooze = actions.add_parser("snooze", help="silence a rule for some minutes")
    snooze.add_argument("name")
    snooze.add_argument("minutes", type=float, help="0 ends the snooze")
    snooze.add_argument("--camera", metavar="NAME", help="at this camera only")
    for action, text in (("rm", "remove a rule"), ("enable", "switch a rule on"), ("disable", "switch a rule off")):
        actions.add_parser(action, help=text).add_argument("name")
    for parser in actions.choices.values():
        _agent(parser)


def _rules_try(add: AddParser) -> None:
    parser = add(
        "try",
        help="try a rule on the stored history",
        description="Replay a rule over the stored history. Prints the alerts it would have raised, their frames, and "
        "the number of calls of the language model. Nothing is changed or sent.",
        epilog='example: vilamp rules try "a bag is left by the door" --camera yard --after -24h',
    )
    parser.add_argument("condition", nargs="?", help="what to watch for, in plain words")
    parser.add_argument("--rule", metavar="NAME", help="an existing rule, instead of a condition")
    _rule(parser)
    _span(parser)
    parser.add_argument("--sweep", action="store_true", help="also try other thresholds of the gate")
    parser.add_argument("--max-judgements", type=int, default=500, metavar="N", help="(default: 500)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _rule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--camera", action="append", metavar="NAME", help="may be given several times (default: all)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SETTING=VALUE",
        help='another setting: --set gate.on=6 --set \'schedule=[{start: "20:00", end: "06:00"}]\'',
    )


def _demo(add: AddParser) -> None:
    parser = _command(
        add, "demo", "agent.cli.demo.demo:run", "run an agent on a drawn world and ask about it", "vilamp demo --run",
        "Starts an agent, publishes a drawn world to it over WebRTC with its clock sped up, asks questions over the "
        "whole history and compares the answers with the truth.",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help="(default: demo-out)")
    parser.add_argument("--run", action="store_true", dest="stay", help="keep publishing until interrupted")
    parser.add_argument("--seed", type=int, default=7, help="which world (default: 7)")
    parser.add_argument(
        "--seconds", type=_between(0.1, 86_400), default=100.0, help="how long to publish (default: 100)"
    )
    parser.add_argument("--speed", type=_between(0.01, 24), default=6.0, help="world seconds per second (default: 6)")
    parser.add_argument("--model", default="builtin", metavar="FOLDER", help='checkpoint folder (default: "builtin")')
    parser.add_argument("--port", type=int, default=0, help="TCP port (default: any free one; with --run 8080)")


def _check_config(add: AddParser) -> None:
    parser = _command(
        add, "check-config", "agent.cli.check_config:run", "check a configuration file",
        "vilamp check-config vilamp.yaml",
        "Prints the effective settings of file, environment and defaults with secrets starred, or all mistakes.",
    )  # fmt: skip
    parser.add_argument("file", type=Path)


def _model(add: AddParser) -> None:
    model = _command(
        add, "model", "agent.cli.model:run_check", "show what a checkpoint needs and test it", "vilamp model check"
    )
    check = model.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "check", help="print sizes and memory of a checkpoint, load it and run it once"
    )
    check.add_argument("folder", nargs="?", default="builtin", help='folder or Hugging Face id (default: "builtin")')
    check.add_argument("--device", default="cpu", help='"cpu", "cuda" or "cuda:1"')
    check.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    check.add_argument("--patch-storage", default="float16", choices=["float16", "int8"])
    check.add_argument("--language-4bit", action="store_true", help="language model in 4 bits (needs CUDA)")
    check.add_argument(
        "--frames", type=_between(1, 10**9, int), default=10_000, metavar="N", help="length of the history"
    )
    check.add_argument("--sizes-only", action="store_true", help="do not load it: only config.json is needed")


def _world(add: AddParser) -> None:
    parser = _command(
        add, "world", "agent.cli.model:run_world", "write a video of the drawn world, and the truth about it",
        "vilamp world world.mp4 --minutes 2",
    )  # fmt: skip
    parser.add_argument("out", type=Path, metavar="OUT.mp4")
    parser.add_argument("--seed", type=int, default=0, help="which world (default: 0)")
    parser.add_argument("--minutes", type=_between(0.1, 1440), default=10.0, help="length (default: 10)")
    parser.add_argument("--fps", type=float, default=4.0, help="pictures per second (default: 4)")
    parser.add_argument("--style", choices=["fixed", "robot"], help="(default: the seed decides)")


def _eval_alerts(add: AddParser) -> None:
    parser = _command(
        add, "eval-alerts", "agent.cli.eval_alerts:run", "measure alert rules on drawn worlds",
        "vilamp eval-alerts --minutes 10 --seeds 21",
        "Rules of twelve types watch worlds the model was not trained on. Their alerts are compared with the truth: "
        "gate only, judge only, and both.",
    )  # fmt: skip
    parser.add_argument("--minutes", type=_between(1, 10_000), default=60.0, help="length of each world (default: 60)")
    parser.add_argument("--seeds", type=_seeds, default="21,22", help="which worlds (default: 21,22)")
    parser.add_argument(
        "--judge-only-minutes",
        type=_between(0, 10_000),
        default=2.0,
        help="part in which every frame is judged (default: 2; 0: none)",
    )
    parser.add_argument("--model", default="builtin", metavar="FOLDER", help='checkpoint folder (default: "builtin")')
    parser.add_argument("--num-threads", type=int, metavar="N", help="CPU threads of the network")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the gate's score (needs matplotlib)")


def _eval(add: AddParser) -> None:
    summary = "measure a checkpoint on worlds it was not trained on"
    add("eval", help=summary, add_help=False).set_defaults(run="agent.evaluation.run:main", passes_on=True)


def _train(add: AddParser) -> None:
    add("train", help="train the built-in model", add_help=False).set_defaults(
        run="model.training.run:main", passes_on=True
    )
