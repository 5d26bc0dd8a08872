"""Defines the commands of `vilamp` and their options. Imports no large library, so that `vilamp --help` is fast."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from agent.cli.common import say
from agent.cli.options import TIMES, AddParser, agent, answer, between, command, common, network, seeds, span, zone


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line and return the command with its options.

    Arguments that `eval`, `eval-questions` and `train` parse themselves are in the attribute `rest`.
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
    for define in (
        *(_init, _serve, _doctor, _ask, _replay, _memory, _erase, _export, _rules, _demo),
        *(_check_config, _model, _world, _eval_alerts, _eval, _train),
    ):
        define(add)
    return parser


def _init(add: AddParser) -> None:
    parser = command(
        add, "init", "agent.cli.setup.init:run", "set up real cameras: find servers, write vilamp.yaml, ask once",
        "vilamp init --camera gate=rtsp://192.168.1.20/stream",
        "Looks for Ollama, vLLM, LM Studio, llama.cpp, LocalAI and SGLang on this machine, looks at the cameras, writes "
        "a commented configuration and answers one question from a live camera.",
    )  # fmt: skip
    parser.add_argument("file", type=Path, nargs="?", default=Path("vilamp.yaml"), help="(default: vilamp.yaml)")
    parser.add_argument(
        "--camera", action="append", default=[], metavar="[NAME=]URL", help="may be given several times"
    )
    parser.add_argument("--onvif", nargs="*", metavar="HOST", help="find ONVIF cameras, or ask those at these hosts")
    parser.add_argument("--user", default="", help="user of the ONVIF cameras; password: $ONVIF_PASSWORD")
    parser.add_argument("--server", action="append", default=[], metavar="HOST", help="look here too: host or base URL")
    parser.add_argument("--model", metavar="NAME", help="the model on the server")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="API key, for a server given as a base URL")
    parser.add_argument("--allow-egress", action="store_true", help="pictures may leave the private network")
    parser.add_argument("--encoder", metavar="FOLDER", help="folder, hub id or builtin (default: SigLIP 2 B/32)")
    parser.add_argument("--port", type=int, help="TCP port of the agent (default: the first free one from 8080)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of memory and tokens")
    parser.add_argument("--question", help="the first question (default: What can be seen now?)")
    parser.add_argument("--yes", action="store_true", help="take every suggestion")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def _serve(add: AddParser) -> None:
    parser = command(
        add, "serve", "agent.cli.serve:run", "run the agent until interrupted", "vilamp serve --config vilamp.yaml"
    )
    common(parser)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="TCP port (default: 8080)")
    network(parser)
    parser.add_argument("--tls", choices=["self-signed"], help="serve HTTPS with a self-signed certificate")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve HTTPS with this certificate (PEM)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="private key of the certificate (PEM)")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="(default: info)")


def _doctor(add: AddParser) -> None:
    parser = command(
        add, "doctor", "agent.cli.setup.doctor:run", "check cameras, model, servers, disk and clock",
        "vilamp doctor --config vilamp.yaml",
        "Says of each part whether it works, and what to do. Asks a running agent, or opens everything itself when none "
        "runs. Exit code 1: something does not work.",
    )  # fmt: skip
    agent(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _ask(add: AddParser) -> None:
    parser = command(
        add, "ask", "agent.cli.ask:run", "ask a running agent about what its cameras saw",
        'vilamp ask "who came to the door?" --camera gate --after -2h',
        "On the agent's own machine the token is read from the data folder; elsewhere set $VILAMP_TOKEN.",
    )  # fmt: skip
    parser.add_argument("question")
    parser.add_argument("--camera", action="append", metavar="NAME", help="may be given several times (default: all)")
    parser.add_argument("--within", metavar="X,Y,R", help="only frames taken at most R metres from X, Y")
    agent(parser)
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="save the evidence frames as one picture")
    answer(parser)


def _replay(add: AddParser) -> None:
    parser = command(
        add, "replay", "agent.cli.replay:run", "index a video file and ask about it",
        'vilamp replay gate.mp4 --ask "was there a red car?"',
        "The frames become a camera's history. A file that is already indexed is not indexed again.",
    )  # fmt: skip
    parser.add_argument("file", type=Path)
    parser.add_argument("--ask", action="append", metavar="QUESTION", default=[], help="may be given several times")
    parser.add_argument("--camera", metavar="NAME", help="camera the history belongs to (default: from the file name)")
    parser.add_argument("--rate", type=between(1e-6, 30), metavar="HZ", help="frames kept per second (default: 1)")
    parser.add_argument("--start", metavar="TIME", help="time of the first frame (default: from the file's date)")
    common(parser)
    network(parser)
    zone(parser)
    answer(parser)


def _memory(add: AddParser) -> None:
    parser = command(
        add, "memory", "agent.cli.keep:run_memory", "show what is stored for each camera", "vilamp memory",
        "Reads from a running agent, or from its data folder when none runs.",
    )  # fmt: skip
    agent(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _erase(add: AddParser) -> None:
    parser = command(
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
    agent(parser)


def _export(add: AddParser) -> None:
    parser = command(
        add, "export", "agent.cli.keep:run_export", "write a time span of a camera as a video",
        "vilamp export gate clip.mp4 --after -10m",
        "Writes an MP4 with the true timing and, beside it, a JSON file with the time, the metadata and the SHA-256 of "
        "every frame.",
    )  # fmt: skip
    parser.add_argument("camera")
    parser.add_argument("out", type=Path, metavar="OUT.mp4")
    span(parser)
    agent(parser)


def _rules(add: AddParser) -> None:
    rules = command(
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
        agent(parser)


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
    span(parser)
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
    parser = command(
        add, "demo", "agent.cli.demo.demo:run", "run an agent on a drawn world and ask about it", "vilamp demo --run",
        "Starts an agent, publishes a drawn world to it over WebRTC with its clock sped up, asks questions over the "
        "whole history and compares the answers with the truth.",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help="(default: demo-out)")
    parser.add_argument("--run", action="store_true", dest="stay", help="keep publishing until interrupted")
    parser.add_argument("--seed", type=int, default=7, help="which world (default: 7)")
    parser.add_argument(
        "--seconds", type=between(0.1, 86_400), default=100.0, help="how long to publish (default: 100)"
    )
    parser.add_argument("--speed", type=between(0.01, 24), default=6.0, help="world seconds per second (default: 6)")
    parser.add_argument("--model", default="builtin", metavar="FOLDER", help='checkpoint folder (default: "builtin")')
    parser.add_argument("--port", type=int, default=0, help="TCP port (default: any free one; with --run 8080)")


def _check_config(add: AddParser) -> None:
    parser = command(
        add, "check-config", "agent.cli.check_config:run", "check a configuration file",
        "vilamp check-config vilamp.yaml",
        "Prints the effective settings of file, environment and defaults with secrets starred, or all mistakes.",
    )  # fmt: skip
    parser.add_argument("file", type=Path)


def _model(add: AddParser) -> None:
    model = command(add, "model", "agent.cli.model:run_check", "check a checkpoint, or fetch one", "vilamp model check")
    actions = model.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser("fetch", help="download a checkpoint; what an interrupted download has is kept")
    fetch.add_argument("name", nargs="?", help="Hugging Face id (default: the encoder for real cameras)")
    fetch.add_argument("--to", type=Path, metavar="FOLDER", help="put it here, to be copied to another machine")
    fetch.set_defaults(run="agent.cli.model:run_fetch")
    check = actions.add_parser("check", help="print sizes and memory of a checkpoint, load it and run it once")
    check.add_argument("folder", nargs="?", default="builtin", help='folder or Hugging Face id (default: "builtin")')
    check.add_argument("--device", default="cpu", help='"cpu", "cuda" or "cuda:1"')
    check.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    check.add_argument("--patch-storage", default="float16", choices=["float16", "int8"])
    check.add_argument("--language-4bit", action="store_true", help="language model in 4 bits (needs CUDA)")
    check.add_argument(
        "--frames", type=between(1, 10**9, int), default=10_000, metavar="N", help="length of the history"
    )
    check.add_argument("--sizes-only", action="store_true", help="do not load it: only config.json is needed")


def _world(add: AddParser) -> None:
    parser = command(
        add, "world", "agent.cli.model:run_world", "write a video of the drawn world, and the truth about it",
        "vilamp world world.mp4 --minutes 2",
    )  # fmt: skip
    parser.add_argument("out", type=Path, metavar="OUT.mp4")
    parser.add_argument("--seed", type=int, default=0, help="which world (default: 0)")
    parser.add_argument("--minutes", type=between(0.1, 1440), default=10.0, help="length (default: 10)")
    parser.add_argument("--fps", type=float, default=4.0, help="pictures per second (default: 4)")
    parser.add_argument("--style", choices=["fixed", "robot"], help="(default: the seed decides)")


def _eval_alerts(add: AddParser) -> None:
    parser = command(
        add, "eval-alerts", "agent.cli.eval_alerts:run", "measure alert rules on drawn worlds",
        "vilamp eval-alerts --minutes 10 --seeds 21",
        "Rules of twelve types watch worlds the model was not trained on. Their alerts are compared with the truth: "
        "gate only, judge only, and both.",
    )  # fmt: skip
    parser.add_argument("--minutes", type=between(1, 10_000), default=60.0, help="length of each world (default: 60)")
    parser.add_argument("--seeds", type=seeds, default="21,22", help="which worlds (default: 21,22)")
    parser.add_argument(
        "--judge-only-minutes",
        type=between(0, 10_000),
        default=2.0,
        help="part in which every frame is judged (default: 2; 0: none)",
    )
    parser.add_argument("--model", default="builtin", metavar="FOLDER", help='checkpoint folder (default: "builtin")')
    parser.add_argument("--num-threads", type=int, metavar="N", help="CPU threads of the network")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the gate's score (needs matplotlib)")


def _eval(add: AddParser) -> None:
    summary = "measure a checkpoint on worlds it was not trained on"
    add("eval-questions", help="measure how questions are read", add_help=False).set_defaults(
        run="agent.evaluation.questions:main", passes_on=True
    )
    add("eval", help=summary, add_help=False).set_defaults(run="agent.evaluation.run:main", passes_on=True)


def _train(add: AddParser) -> None:
    add("train", help="train the built-in model", add_help=False).set_defaults(
        run="model.training.run:main", passes_on=True
    )
