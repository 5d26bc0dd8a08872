"""The process of a command: its standard streams, and the signals that end it. Imports nothing heavy."""

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class OutputFailed(Exception):
    """stdout cannot be written. Not an OSError, so that handlers of file errors do not catch it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"stdout cannot be written: {error.strerror or error}")
        self.is_closed = error.errno == errno.EPIPE  # its reader has gone


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which end a command like an interrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number


def stops() -> list[signal.Signals]:
    """Return the signals that stop the agent cleanly; without SIGHUP if it is ignored (nohup)."""
    hangup_is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOPS if number != signal.SIGHUP or not hangup_is_ignored]


def open_standard_streams() -> None:
    """Open /dev/null for each closed stream of stdin, stdout and stderr, before another file gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Raise Stopped inside the block on SIGTERM and SIGHUP."""
    if current_thread() is not main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in stops() if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Output(io.TextIOWrapper):
    """stdout that raises OutputFailed instead of OSError."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputFailed(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputFailed(error) from None


@contextmanager
def checked_output() -> Iterator[None]:
    """Inside the block, failed writes to stdout raise OutputFailed, and characters outside its encoding are escaped.

    The rest is written at the end. If that fails, the exit code is 1, or 0 if the reader of the pipe has gone.
    """
    real: Any = sys.stdout
    if real is not sys.__stdout__ or not isinstance(real, io.TextIOWrapper):  # a test's
        yield
        return
    output = _Output(real.buffer, encoding=real.encoding, errors="backslashreplace", line_buffering=real.line_buffering)
    sys.stdout = output
    try:
        yield
        output.flush()
    except SystemExit as ended:
        code = ended.code
        try:
            output.flush()
        except OutputFailed as error:
            code = give_up_output(error)
        raise SystemExit(code) from None
    finally:
        with suppress(OutputFailed):
            output.detach()
        sys.stdout = real


def give_up_output(error: OutputFailed) -> int:
    """Stop all output, also at the end of the process. Return the exit code."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    if error.is_closed:  # `| head`
        return 0
    complain(f"vilamp: {error}")
    return 1


def complain(text: str) -> None:
    """Write a message to stderr, if it can be written."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
