"""nginx in front of an agent, with the configuration from docs/operations.md."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx (or make tools)")
_DOCS = Path(__file__).parents[2] / "docs" / "operations.md"


def documented_location(agent: str, prefix: str, *, stripped: bool) -> str:
    """Return the documented `location` block for an agent at the URL `agent`.

    `stripped`: nginx removes the prefix before it passes the request on.
    """
    found = re.search(r"```nginx\n(.*?)```", _DOCS.read_text(), re.DOTALL)
    assert found is not None
    block = found.group(1).replace("/vilamp/", f"{prefix}/").replace("http://127.0.0.1:8080/", f"{agent}/")
    return block if stripped else block.replace(f"proxy_pass {agent}/;", f"proxy_pass {agent};")


@contextmanager
def nginx(folder: Path, port: int, location: str) -> Iterator[None]:
    """Run nginx on a port of 127.0.0.1."""
    assert NGINX is not None
    place = folder / f"nginx-{port}"
    place.mkdir()
    kept = "".join(
        f'{name}_temp_path "{place}/{name}";\n' for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(
        f'{user} daemon off; pid "{place}/pid"; error_log "{place}/error.log"; worker_processes 1;\n'
        f"events {{}}\nhttp {{ access_log off; {kept} server {{ listen 127.0.0.1:{port};\n{location}\n}} }}\n"
    )
    process = subprocess.Popen([NGINX, "-c", str(place / "nginx.conf"), "-e", str(place / "error.log")])
    try:
        deadline = time.monotonic() + 20
        while not _answers(port):
            assert process.poll() is None, (place / "error.log").read_text()
            assert time.monotonic() < deadline, "nginx did not start"
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
