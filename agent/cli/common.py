"""What all commands share: their error class, their output and the loading of settings. Imports no large library."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from agent.untrusted.plain import plain

if TYPE_CHECKING:
    from agent.settings.settings import Settings

EXIT_FAILED = 1  # the command is correct, but could not be carried out
EXIT_USAGE = 2  # the command or the configuration is wrong


class CliError(Exception):
    """Ends the command. `main` prints the message to stderr and returns the exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def say(text: object = "", *, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    """Print `text` without terminal control sequences. Every command prints with this function."""
    print(plain(str(text)), end=end, file=sys.stdout if file is None else file, flush=flush)


def warn(text: object) -> None:
    """Print a warning to stderr."""
    say(f"warning: {text}", file=sys.stderr)


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return those options for the neural network that were given, as settings for the section `model`."""
    options = {"path": args.model, "device": args.device, "dtype": args.dtype, "num_threads": args.num_threads}
    return {name: value for name, value in options.items() if value is not None}


def settings_of(args: argparse.Namespace, overrides: Mapping[str, Any] | None = None) -> "Settings":
    """Load the settings for a command. Raises CliError.

    They come from the file named by `--config` or $VILAMP_CONFIG, from the environment, from `overrides` (nested
    settings) and from `--data-dir`. Later ones override earlier ones.
    """
    from agent.settings.source import ConfigError, load_settings

    named = args.config or os.environ.get("VILAMP_CONFIG")
    over: dict[str, Any] = dict(overrides or {})
    if args.data_dir is not None:
        over["data_dir"] = str(args.data_dir)
    try:
        return load_settings(Path(named) if named else None, environ=os.environ, overrides=over, warn=warn)
    except ConfigError as error:
        raise CliError(f"the configuration has mistakes:\n{error}", EXIT_USAGE) from error
