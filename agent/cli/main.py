"""The command line: `vilamp <command>`. Only parsing happens here, so that `vilamp --help` answers at once.

Each command's work is in a module of its own, imported when the command is run. Errors of the person at the terminal
are one message on stderr and an exit code, never a traceback: 1 failed, 2 wrong usage or configuration, 130 interrupted, 143
and 129 ended by SIGTERM and SIGHUP (`serve`: 0, as that is how it ends).
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.cli.common import CliError
from agent.cli.parser import add_rules
from agent.runtime.process import (
    OutputFailed,
    Stopped,
    checked_output,
    complain,
    give_up_output,
    open_standard_streams,
    stopping_on_signals,
)
from agent.untrusted.plain import plain

_PUBLIC = frozenset({"world", "model", "eval", "eval-alerts", "train"})
"""Commands that write what anybody may see, and nothing into a data folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    open_standard_streams()
    command = ""
    try:
        with stopping_on_signals(), checked_output():
            args = parse(sys.argv[1:] if argv is None else argv)
            command = args.command
            if command not in _PUBLIC:
                os.umask(0o077)  # what is written may show what cameras saw: it is its owner's alone
            code: int = args.run(args)
    except CliError as error:
        complain(plain(f"vilamp {command}: {error}"))
        return error.exit_code
    except Stopped as stopped:
        return 0 if command == "serve" else stopped.exit_code
    except KeyboardInterrupt:
        return 130
    except OutputFailed as error:
        return give_up_output(error)
    return code


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command and its options; what `eval` and `train` are given is passed on as `rest`."""
    parser = build_parser()
    args, rest = parser.parse_known_args(_joined(argv))
    if rest and not args.passes_on:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    return args


def _joined(argv: Sequence[str]) -> list[str]:
    """`--after -24h` as `--after=-24h`, and the file `-x.mp4` as `./-x.mp4`: argparse would take them for options."""
    joined: list[str] = []
    for word in argv:
        if word[:1] == "-" and Path(word).suffix and Path(word).is_file():
            joined.append(f"./{word}")
        elif (
            joined
            and joined[-1] in ("--after", "--before", "--start", "--within")
            and word[:1] == "-"
            and word[1:2].isdigit()
        ):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="vilamp",
        description="A streaming video agent: cameras in over WebRTC, RTSP or files, a rolling memory of what they "
        "saw, and answers with the frames they rest on.",
    )
    parser.set_defaults(passes_on=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_ask(commands)
    _add_replay(commands)
    _add_memory(commands)
    _add_erase(commands)
    _add_export(commands)
    add_rules(commands, _place_options)
    _add_demo(commands)
    _add_check_config(commands)
    _add_model(commands)
    _add_world(commands)
    _add_eval_alerts(commands)
    _add_passed_on(commands)
    return parser


_Commands = argparse._SubParsersAction


def _positive(text: str) -> float:
    """An option's number: above 0, and at most a year in seconds."""
    number = float(text)
    if not 0 < number <= 366 * 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not above 0, or too large")
    return number


def _count(text: str) -> int:
    """An option's whole number from 1 on."""
    number = int(text)
    if not 0 < number <= 10**9:
        raise argparse.ArgumentTypeError(f"{text} is not above 0, or too large")
    return number


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="configuration (default: $VILAMP_CONFIG, else none)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where memory and tokens are kept")


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="FOLDER", help='checkpoint folder, hub id org/name, or "builtin"')
    parser.add_argument("--device", help='"cpu", "cuda" or "cuda:1"')
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="precision of the weights")
    parser.add_argument("--num-threads", type=int, metavar="N", help="CPU threads of the network")


def _add_serve(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("serve", help="run the agent", description="Run the agent until interrupted.")
    _common(parser)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="TCP port (default: 8080)")
    _model_options(parser)
    parser.add_argument("--tls", choices=["self-signed"], help="serve HTTPS with a certificate made here")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve HTTPS with this certificate (PEM)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="and this private key (PEM)")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from agent.cli.serve import run

    return run(args)


def _window_options(parser: argparse.ArgumentParser) -> None:
    times = '"10 minutes ago", "yesterday 22:00", "-24h", ISO 8601 or unix seconds'
    parser.add_argument("--after", metavar="TIME", help=f"only what was seen after this: {times}")
    parser.add_argument("--before", metavar="TIME", help="only what was seen before this")
    parser.add_argument(
        "--timezone", metavar="ZONE", help="zone of the times given and shown (default: this machine's)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object when the answer is complete")
    parser.add_argument("--all-evidence", action="store_true", help="list every frame used, not only the best 12")


def _add_ask(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "ask",
        help="ask a running agent",
        description="Ask a running agent about what its cameras saw. On the agent's own machine the token is found in "
        "the data folder; elsewhere set $VILAMP_TOKEN.",
    )
    parser.add_argument("question")
    parser.add_argument("--camera", action="append", metavar="NAME", help="may be given several times (default: all)")
    parser.add_argument("--within", metavar="X,Y,R", help="only frames whose pose is at most R metres from X, Y")
    _common(parser)
    parser.add_argument("--server", metavar="URL", help="the agent (default: $VILAMP_SERVER, else as configured)")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="save the evidence frames as a contact sheet")
    _window_options(parser)
    parser.set_defaults(run=_ask)


def _ask(args: argparse.Namespace) -> int:
    from agent.cli.ask import run

    return run(args)


def _place_options(parser: argparse.ArgumentParser) -> None:
    """Where the memory is that a command works on: a running agent, or its folder."""
    _common(parser)
    parser.add_argument("--server", metavar="URL", help="the agent (default: $VILAMP_SERVER, else as configured)")
    parser.add_argument("--timezone", metavar="ZONE", help="zone of times given and shown (default: this machine's)")


def _add_memory(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "memory",
        help="show what is remembered, per camera",
        description="What is remembered, per camera, as a table; of a running agent, or of its folder when none runs.",
    )
    _place_options(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_keep("run_memory"))


def _add_erase(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "erase",
        help="erase a camera's stretch of time for good",
        description="Erase what a camera saw in a stretch of time: pictures, metadata, embeddings, alerts. It cannot be "
        "undone. Works on a running agent, or on its folder when none runs.",
    )
    parser.add_argument("camera")
    parser.add_argument("--after", metavar="TIME", help='"yesterday 22:00", "-2h", ISO 8601 or unix seconds')
    parser.add_argument("--before", metavar="TIME", help="the end, included")
    parser.add_argument("--all", action="store_true", help="everything of this camera")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    _place_options(parser)
    parser.set_defaults(run=_keep("run_erase"))


def _add_export(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "export",
        help="write a stretch of time as a video with its log",
        description="Write what a camera saw as an MP4 with true timing, and beside it a JSON log with the time, the "
        "metadata and the SHA-256 of every stored frame.",
    )
    parser.add_argument("camera")
    parser.add_argument("out", type=Path, metavar="OUT.mp4")
    parser.add_argument("--after", metavar="TIME", help='"yesterday 22:00", "-2h", ISO 8601 or unix seconds')
    parser.add_argument("--before", metavar="TIME", help="(default: now)")
    _place_options(parser)
    parser.set_defaults(run=_keep("run_export"))


def _keep(name: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        from agent.cli import keep as cli_keep

        code: int = getattr(cli_keep, name)(args)
        return code

    return run


def _add_replay(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "replay",
        help="index a video file and ask about it",
        description="Index a video into a camera's history, as fast as the encoder goes, then ask. A file that is "
        "already indexed is not indexed again.",
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--ask", action="append", metavar="QUESTION", default=[], help="may be given several times")
    parser.add_argument("--camera", metavar="NAME", help="the history it goes to (default: from the file's name)")
    parser.add_argument("--rate", type=float, metavar="HZ", help="frames kept per second (default: 1)")
    parser.add_argument(
        "--start", metavar="TIME", help="when the video begins (default: it ends when the file was written)"
    )
    _common(parser)
    _model_options(parser)
    _window_options(parser)
    parser.set_defaults(run=_replay)


def _replay(args: argparse.Namespace) -> int:
    from agent.cli.replay import run

    return run(args)


def _add_demo(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "demo",
        help="stream a drawn world into an agent and ask about it",
        description="Start an agent, publish a drawn world to it over WebRTC (its clock runs faster than ours), ask "
        "questions over its whole history and compare with the truth.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo-out"), metavar="DIR", help="(default: demo-out)")
    parser.add_argument("--run", action="store_true", dest="stay", help="stay up and keep publishing until interrupted")
    parser.add_argument("--seed", type=int, default=7, help="which world (default: 7)")
    parser.add_argument("--seconds", type=_positive, default=100.0, help="how long to publish (default: 100)")
    parser.add_argument("--speed", type=_positive, default=6.0, help="world seconds per second (default: 6)")
    parser.add_argument("--model", default="builtin", metavar="FOLDER", help='checkpoint folder (default: "builtin")')
    parser.add_argument("--port", type=int, default=0, help="TCP port (default: any free one; with --run 8080)")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    from agent.cli.demo.demo import run

    return run(args)


def _add_check_config(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "check-config",
        help="check a configuration file",
        description="Print the effective settings (file, environment, defaults; secrets starred), or all mistakes.",
    )
    parser.add_argument("file", type=Path)
    parser.set_defaults(run=_check_config)


def _check_config(args: argparse.Namespace) -> int:
    from agent.cli.check_config import run

    return run(args)


def _add_model(commands: "_Commands[argparse.ArgumentParser]") -> None:
    model = commands.add_parser("model", help="look at a checkpoint")
    actions = model.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="say a checkpoint's sizes and the memory it needs, load it and try it")
    check.add_argument("folder", nargs="?", default="builtin", help='folder or hub id (default: "builtin")')
    check.add_argument("--device", default="cpu")
    check.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    check.add_argument("--patch-storage", default="float16", choices=["float16", "int8"])
    check.add_argument("--language-4bit", action="store_true", help="language model in 4 bits (needs CUDA)")
    check.add_argument(
        "--frames", type=_count, default=10_000, metavar="N", help="history to size for (default: 10000)"
    )
    check.add_argument("--sizes-only", action="store_true", help="do not load it: only config.json is needed")
    check.set_defaults(run=_model_check)


def _model_check(args: argparse.Namespace) -> int:
    from agent.cli.model import run_check

    return run_check(args)


def _add_world(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("world", help="write a video of the drawn world, with its truth beside it")
    parser.add_argument("out", type=Path, metavar="OUT.mp4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--fps", type=float, default=4.0)
    parser.add_argument("--style", choices=["fixed", "robot"], help="(default: the seed decides)")
    parser.set_defaults(run=_world)


def _world(args: argparse.Namespace) -> int:
    from agent.cli.model import run_world

    return run_world(args)


def _add_eval_alerts(commands: "_Commands[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "eval-alerts",
        help="measure rules on worlds the model was not trained on",
        description="Let one rule of each of twelve types watch drawn worlds, one at a time, and compare what fires with "
        "the truth: gate only, judge only, and both.",
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="length of each world (default: 60)")
    parser.add_argument("--seeds", default="21,22", help="worlds, as 21,22")
    parser.add_argument(
        "--judge-only-minutes",
        type=float,
        default=2.0,
        help="of each rule and world: there every frame is judged (default: 2; 0: leave it out)",
    )
    parser.add_argument("--model", default="builtin", metavar="FOLDER", help='checkpoint folder (default: "builtin")')
    parser.add_argument("--num-threads", type=int, metavar="N", help="CPU threads of the network")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the gate's score and its threshold (needs matplotlib)"
    )
    parser.set_defaults(run=_eval_alerts)


def _eval_alerts(args: argparse.Namespace) -> int:
    from agent.cli.eval_alerts import run

    return run(args)


def _add_passed_on(commands: "_Commands[argparse.ArgumentParser]") -> None:
    """Commands that belong to model/ and parse their own options."""
    evaluate = commands.add_parser("eval", help="measure a checkpoint on worlds it was not trained on", add_help=False)
    evaluate.set_defaults(run=_eval, passes_on=True)
    train = commands.add_parser("train", help="train the built-in model", add_help=False)
    train.set_defaults(run=_train, passes_on=True)


def _eval(args: argparse.Namespace) -> int:
    from agent.cli.model import run_eval

    return run_eval(args)


def _train(args: argparse.Namespace) -> int:
    from agent.cli.model import run_train

    return run_train(args)
