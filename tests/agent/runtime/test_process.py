"""The process: signals at every moment, streams that are closed or full, and what the terminal is told."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import httpx
import pytest

from agent.runtime.process import Stopped, stopping_on_signals
from agent.web.auth import local_token
from tests.support.network import free_port
from tests.support.processes import ROOT, vilamp
from tests.support.streams import write_clip
from tests.support.vlm_server import spying

PATIENCE_S = 90
PYTHON = quote(sys.executable)


def hears_hangups() -> None:
    """In the child: the tests themselves may run under nohup, which children inherit and a server respects."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def serving(folder: Path, shell: str = "", **settings: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`vilamp serve` as a process, with redirections in the shell's words, and its URL. It may not listen yet."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VILAMP_")}
    env = {**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **settings}
    command = f"exec {PYTHON} -m agent.cli serve --data-dir {quote(str(folder))} --port {port} {shell}"
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_hangups,
    ) as process:
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def until_it_answers(process: "subprocess.Popen[str]", url: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        try:
            httpx.get(f"{url}/healthz", trust_env=False).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("it does not answer")


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = process.communicate(timeout=PATIENCE_S)
    return process.returncode, said


def test_sighup_ends_an_answer_with_an_error_event_and_the_agent_in_peace(tmp_path: Path) -> None:
    """With stdin and stdout closed from the start."""
    with (
        spying() as spy,
        serving(
            tmp_path,
            "0<&- 1>&-",
            VILAMP_ANSWERER__KIND="openai",
            VILAMP_ANSWERER__BASE_URL=spy.url(),
            VILAMP_ANSWERER__MODEL="endless",
            VILAMP_MODEL__ALLOW_BUILTIN_ENCODER="true",
            VILAMP_ANSWERING__MAX_NEW_TOKENS="8000",
            VILAMP_CAMERAS__DOOR__URL=str(write_clip(tmp_path / "door.mp4", num=20)),
        ) as (process, url),
    ):
        until_it_answers(process, url)
        listed = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert not [scope for scope in ("ask", "admin") if str(local_token(tmp_path, scope)) in listed]
        headers = {"Authorization": f"Bearer {local_token(tmp_path, 'ask')}"}
        body = {"messages": [{"role": "user", "content": "Who came?"}], "stream": True}
        with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S, trust_env=False) as http:
            until = time.monotonic() + PATIENCE_S
            while not http.get("/v1/cameras/door").json()["encoded"]:
                assert time.monotonic() < until
                time.sleep(0.1)
            with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                events = [line for line in until_stopped(answer.iter_lines(), process) if line.startswith("data: ")]
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "stopping"
        code, said = ended(process)
        assert code == 0
        assert "Traceback" not in said


def until_stopped(lines: Iterator[str], process: "subprocess.Popen[str]") -> Iterator[str]:
    """The lines of an answer; the process gets a SIGHUP at the first word."""
    is_told = False
    for line in lines:
        yield line
        if "tick" in line and not is_told:
            process.send_signal(signal.SIGHUP)
            is_told = True


@pytest.mark.parametrize(
    ("number", "after_s"), [(signal.SIGTERM, 0.2), (signal.SIGTERM, 1.5), (signal.SIGTERM, 3.0), (signal.SIGHUP, 2.0)]
)
def test_a_signal_while_it_starts_ends_it_in_peace(tmp_path: Path, number: signal.Signals, after_s: float) -> None:
    with serving(tmp_path) as (process, _):
        time.sleep(after_s)
        process.send_signal(number)
        code, said = ended(process)
        # At first Python may not have begun (-15), and then the command line may not have been read (143).
        assert code in ((0, -number, 128 + number) if after_s < 1 else (0,)), said
        assert "Traceback" not in said


def test_a_signal_that_a_library_turned_into_an_error_still_ends_in_peace() -> None:
    def load() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Stopped as stopped:
            raise ImportError("cannot load") from stopped

    with pytest.raises(Stopped), stopping_on_signals():
        load()
    with pytest.raises(ImportError), stopping_on_signals():
        raise ImportError("of its own")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str) -> None:
    command = f"{PYTHON} -m agent.cli check-config vilamp.example.yaml {closed}"
    ran = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("OK") == ("1>&-" not in closed)


@pytest.mark.parametrize("command", ["check-config vilamp.example.yaml", "--help", "serve --help"])
def test_a_full_disk_below_stdout_is_said(command: str) -> None:
    shell = f"{PYTHON} -m agent.cli {command} > /dev/full"
    ran = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "vilamp: stdout cannot be written: No space left on device\n")


@pytest.mark.parametrize(("shell", "words"), [("> /dev/full", "No space left"), ("| true", "Broken pipe")])
def test_serving_without_anybody_to_tell_the_address_is_refused(tmp_path: Path, shell: str, words: str) -> None:
    piped = f"({{ sleep 0.1; {PYTHON} -m agent.cli serve --port 0 --data-dir {quote(str(tmp_path))}; echo $? >&2; }} {shell})"
    ran = subprocess.run(
        ["bash", "-c", piped], cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert f"vilamp serve: stdout cannot be written: {words}" in ran.stderr
    assert ran.stderr.endswith("\n1\n")
    assert "Traceback" not in ran.stderr
    assert "builtin" not in ran.stderr


def test_stderr_that_cannot_be_written_changes_no_exit_code(tmp_path: Path) -> None:
    shell = f"{PYTHON} -m agent.cli check-config {quote(str(tmp_path))}/absent.yaml 2> /dev/full"
    ran = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2


def test_letters_that_the_terminal_lacks_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "vilamp.yaml"
    path.write_text("cameras: {gate: {metadata: {zone: キッチン}}}")
    ran = vilamp("check-config", str(path), PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert "\\u30ad" in ran.stdout


def test_what_cannot_be_served_is_said_in_words(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    data = ("--data-dir", str(tmp_path), "--port", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        tried = (
            ((*data, "--port", port), "cannot listen"),
            (("--data-dir", str(file / "below"), "--port", "0"), str(file)),
            (("--data-dir", str(file), "--port", "0"), str(file)),
            (("--data-dir", "/proc/vilamp", "--port", "0"), "/proc/vilamp"),
            ((*data, "--host", "no.such.host.invalid"), "cannot listen"),
            ((*data, "--model", str(file)), str(file)),
        )
        code = f"from agent.cli.main import main; print([main(['serve', *args]) for args in {[args for args, _ in tried]!r}])"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
    assert ran.stdout == f"{[1] * len(tried)}\n"
    said = [line for line in ran.stderr.splitlines() if line.startswith("vilamp serve: ")]
    assert len(said) == len(tried), ran.stderr
    for line, (_, words) in zip(said, tried, strict=True):
        assert words in line
    assert "Traceback" not in ran.stderr
