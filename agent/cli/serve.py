"""`vilamp serve`: run the agent's server with the settings from the file, the environment and the options."""

import argparse
from typing import Any

from agent.ask.model import ModelUnusable
from agent.cli.common import EXIT_USAGE, CliError, model_options, settings_of
from agent.runtime.pools import NoThreads
from agent.runtime.process import OutputFailed
from agent.web.auth import TokenFileError
from agent.web.server import CannotListen
from agent.web.server import run as serve
from agent.web.tls import TlsError
from memory.errors import StorageError


def run(args: argparse.Namespace) -> int:
    """Run the server until it is interrupted. Return the exit code. Raises CliError."""
    settings = settings_of(args, overrides_of(args))
    try:
        serve(settings)
    except (CannotListen, NoThreads, TokenFileError, TlsError, StorageError, OutputFailed) as error:
        raise CliError(str(error)) from error  # OutputFailed: the address and the new tokens could not be printed
    except ModelUnusable as error:
        raise CliError(f"{settings.model.path}: {error}") from error
    except (OSError, ValueError) as error:
        raise CliError(f"the server cannot continue: {error}") from error
    return 0


def overrides_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given as nested settings. Raises CliError."""
    flat = {"host": args.host, "port": args.port, "log_level": args.log_level}
    over: dict[str, Any] = {name: value for name, value in flat.items() if value is not None}
    over["model"] = model_options(args)
    if args.tls == "self-signed":
        if args.tls_cert or args.tls_key:
            raise CliError("give either --tls self-signed or --tls-cert and --tls-key", EXIT_USAGE)
        # a certificate from the configuration file would contradict this option
        over["tls"] = {"self_signed": True, "cert": None, "key": None}
    elif args.tls_cert or args.tls_key:
        files = {"cert": args.tls_cert, "key": args.tls_key}
        over["tls"] = {"self_signed": False, **{name: path and str(path) for name, path in files.items()}}
    return over
