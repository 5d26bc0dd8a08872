"""Shared by all commands: their error, their output and their settings. Imports nothing heavy."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from agent.untrusted.plain import plain

if TYPE_CHECKING:
    from agent.settings.settings import Settings

EXIT_FAILED = 1  # the command was understood and could not be done
EXIT_USAGE = 2  # the command or the configuration is wrong


class CliError(Exception):
    """End the command with one message on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def say(text: object = "", *, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print `text` without terminal control sequences. Every command prints with this."""
    print(plain(str(text)), end=end, file=sys.stdout if file is None else file, flush=flush)


def warn(text: object) -> None:
    """Print a warning on stderr."""
    say(f"warning: {text}", file=sys.stderr)


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the given options of the network as settings of `model`."""
    options = {"path": args.model, "device": args.device, "dtype": args.dtype, "num_threads": args.num_threads}
    return {name: value for name, value in options.items() if value is not None}


def settings_of(args: argparse.Namespace, overrides: Mapping[str, Any] | None = None) -> "Settings":
    """Return the settings of `--config` (or $VILAMP_CONFIG), the environment, `--data-dir` and `overrides`. Raises CliError."""
    from agent.settings.source import ConfigError, load_settings

    named = args.config or os.environ.get("VILAMP_CONFIG")
    over: dict[str, Any] = dict(overrides or {})
    if args.data_dir is not None:
        over["data_dir"] = str(args.data_dir)
    try:
        return load_settings(Path(named) if named else None, environ=os.environ, overrides=over, warn=warn)
    except ConfigError as error:
        raise CliError(f"the configuration has mistakes:\n{error}", EXIT_USAGE) from error
