"""`vilamp check-config FILE`: print the effective settings, or all mistakes."""

import argparse
import os

import yaml

from agent.cli.common import EXIT_USAGE, CliError, say, warn
from agent.settings.settings import effective
from agent.settings.source import ConfigError, load_settings


def run(args: argparse.Namespace) -> int:
    """Print "OK" and the settings as YAML, with secrets replaced by stars. Return the exit code.

    Raises CliError, whose message has one line for each mistake in the configuration.
    """
    try:
        settings = load_settings(args.file, environ=os.environ, warn=warn)
    except ConfigError as error:
        count = len(error.mistakes)
        raise CliError(f"{count} mistake{'s' if count > 1 else ''}\n{error}", EXIT_USAGE) from error
    say(f"OK: {args.file}\n")
    say(yaml.safe_dump(effective(settings), sort_keys=False, allow_unicode=True), end="")
    return 0
