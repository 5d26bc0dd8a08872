"""The entry point of `vilamp`: parses the command line, runs the command and returns its exit code.

A mistake of the user is reported as one message on stderr, never as a traceback. Exit codes: 1 for a failure, 2 for
wrong usage or configuration, 130 if interrupted with Ctrl-C, 143 if ended by SIGTERM, and 129 by SIGHUP. `vilamp serve`
ends with 0 in these three cases, because signals are the normal way to stop it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from agent.cli.common import CliError
from agent.cli.parser import parse
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

_PUBLIC = frozenset(
    {"world", "model", "eval", "eval-alerts", "eval-questions", "train"}
)  # commands that write no private files


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` describes, and return its exit code."""
    open_standard_streams()
    command = ""
    try:
        with stopping_on_signals(), checked_output():
            args = parse(sys.argv[1:] if argv is None else argv)
            command = args.command
            if command not in _PUBLIC:
                os.umask(0o077)  # new files may contain camera pictures, so only their owner may read them
            return _run(args)
    except CliError as error:
        complain(plain(f"vilamp {command}: {error}"))
        return error.exit_code
    except Stopped as stopped:
        return 0 if command == "serve" else stopped.exit_code
    except KeyboardInterrupt:
        return 130
    except OutputFailed as error:
        return give_up_output(error)


def _run(args: argparse.Namespace) -> int:
    """Import the command's module, call its function, and return the exit code."""
    run = target(args.run)
    return run(args.rest if args.passes_on else args) or 0


def target(name: str) -> Callable[[object], int | None]:
    """Import and return the function that `name`, "module:function", names."""
    module, _, function = name.partition(":")
    found: Callable[[object], int | None] = getattr(import_module(module), function)
    return found
