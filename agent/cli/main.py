"""The entry point of `vilamp`: parse the command line, run the command, return its exit code.

Mistakes of the user are one message on stderr, never a traceback. Exit codes: 1 failed, 2 wrong usage or configuration,
130 interrupted, 143 and 129 ended by SIGTERM and SIGHUP (`serve`: 0, because that is how it ends).
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

_PUBLIC = frozenset({"world", "model", "eval", "eval-alerts", "train"})  # write nothing private and no data folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    open_standard_streams()
    command = ""
    try:
        with stopping_on_signals(), checked_output():
            args = parse(sys.argv[1:] if argv is None else argv)
            command = args.command
            if command not in _PUBLIC:
                os.umask(0o077)  # files may show what cameras saw: only their owner may read them
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
    """Import the command's module and call its function."""
    run = target(args.run)
    return run(args.rest if args.passes_on else args) or 0


def target(name: str) -> Callable[[object], int | None]:
    """Return the function "module:function"."""
    module, _, function = name.partition(":")
    found: Callable[[object], int | None] = getattr(import_module(module), function)
    return found
