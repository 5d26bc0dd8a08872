"""The process that runs a command: its standard streams, and the signals that end it. Imports no large library."""

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
        self.is_closed = error.errno == errno.EPIPE  # the reader of the pipe has closed it


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP was received. It ends a command as Ctrl-C does, hence a KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number


def stops() -> list[signal.Signals]:
    """Return the signals that stop the agent cleanly. SIGHUP is left out if the process ignores it, as under nohup."""
    hangup_is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOPS if number != signal.SIGHUP or not hangup_is_ignored]


def open_standard_streams() -> None:
    """Open /dev/null in place of stdin, stdout or stderr where it is closed.

    Otherwise the next file that is opened would get the stream's descriptor, and prints would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # gets the lowest free number: this
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Context manager: on SIGTERM or SIGHUP, raise Stopped inside the block.

    Does nothing outside the main thread, where Python handles no signals.
    """
    if current_thread() is not main_thread():
        yield
        return

    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in stops() if number != signal.SIGINT}
    try:
        yield
    except Exception as error:
        if received:  # a library that was being imported made an error of its own of Stopped
            raise Stopped(received[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Output(io.TextIOWrapper):
    """A text stream for stdout that raises OutputFailed where others raise OSError."""

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
    """Context manager: in the block, a write to stdout that fails raises OutputFailed.

    Characters that stdout's encoding lacks are escaped. On exit the buffered rest is written, which may also raise
    OutputFailed. If the block ends with SystemExit, such a failure changes the exit code instead: to 1, or to 0 if the
    reader of the pipe has closed it.
    """
    real: Any = sys.stdout
    if real is not sys.__stdout__ or not isinstance(real, io.TextIOWrapper):  # replaced by a test
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
    """Discard all further output to stdout, including what is flushed when the process ends.

    Return the exit code for the process.

    The code is 0 if the reader of the pipe has closed it, else 1 with a message on stderr.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    if error.is_closed:  # as in `vilamp ... | head`, which is no failure
        return 0
    complain(f"vilamp: {error}")
    return 1


def complain(text: str) -> None:
    """Write a message to stderr. Does nothing if stderr cannot be written."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
