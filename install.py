"""Install ViLaMP Live into the virtual environment whose Python runs this file. `make` calls it.

    .venv/bin/python install.py [FLAGS]     FLAGS are for pip's installation of torch only, such as --index-url ...

torch is installed first, because its builds differ in size: about 200 MB without CUDA, several gigabytes with it. uv
chooses the build for this machine; where uv cannot reach the index of builds, pip installs its default.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PINS = ("--constraint", str(ROOT / "constraints.txt"))
PIP_INSTALL = (sys.executable, "-m", "pip", "install", *PINS)
UV_INSTALL = (
    *(str(Path(sys.executable).with_name("uv")), "pip", "install", "--python", sys.executable),
    *(*PINS, "--torch-backend=auto"),
)
HASTY = {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "10"}  # an unreachable index costs seconds, not minutes
REQUEST_S = 10.0  # timeout of one request for a size
CPU_BUILD = """\
  On a machine without an NVIDIA GPU, CUDA is of no use. To install without it, press Ctrl-C and run make again with the
  index that PyTorch's installation page names for CPU builds:  make TORCH_FLAGS="--index-url <index>" demo"""


def call(argv: Sequence[str], capture: bool = False, **environ: str) -> tuple[int, str, str]:
    """Run a command and return its exit status, stdout and stderr. Without `capture` the last two go to the terminal."""
    ran = subprocess.run(argv, env={**os.environ, **environ}, capture_output=capture, text=True, check=False)
    return ran.returncode, ran.stdout or "", ran.stderr or ""


Call = Callable[..., tuple[int, str, str]]


def say(text: str) -> None:
    print(text, flush=True)


def installed_torch() -> str | None:
    """Return the installed version of torch if it is the pinned one: "2.13.0+cpu" is a build of "2.13.0"."""
    first, *_ = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
    return version if version.partition("+")[0] == first.removeprefix("torch==") else None


def uv_installs_torch(call: Call) -> bool:
    """Let uv install the build of torch for this machine. Return False, after printing why, when it cannot."""
    status, _, error = call([*PIP_INSTALL, "--quiet", "uv"], capture=True)
    if not status:
        status, _, error = call([*UV_INSTALL, "--dry-run", "torch"], capture=True, **HASTY)
    if not status:
        status, _, _ = call([*UV_INSTALL, "torch"])
        error = "see above"
    if status:
        say(f"uv cannot choose a build of torch here ({_gist(error)}). pip installs its default build instead.")
    return not status


def _gist(error: str) -> str:
    """Return the line that names the error."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return next((line for line in lines if line.lower().startswith("error")), lines[-1] if lines else "no reason given")


def print_download_size(call: Call, size_of: Callable[[str], int]) -> None:
    """Print the size of pip's download for torch and, if that includes CUDA, how to avoid it."""
    status, report, _ = call([*PIP_INSTALL, "--quiet", "--dry-run", "--report", "-", "torch"], capture=True)
    if status:
        return  # the installation will fail in the same way and show why
    packages = json.loads(report)["install"]
    urls = [each["download_info"]["url"] for each in packages]
    try:
        size = sum(size_of(url) for url in urls if not url.startswith("file:"))
        amount = f"{size / 1e9:.1f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB"
    except (OSError, ValueError):
        amount = "an unknown amount; with CUDA it is about 3 GB, without it 200 MB"
    say(f"torch and what it needs: {amount} to download")
    if any(each["metadata"]["name"].lower().startswith(("nvidia", "cuda")) for each in packages):
        say(CPU_BUILD)


def size_of(url: str) -> int:
    """Return the Content-Length of an http(s) URL. Raises OSError or ValueError when the server does not send it."""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - a URL that pip is about to load
    with urllib.request.urlopen(request, timeout=REQUEST_S) as answer:  # noqa: S310
        return int(answer.headers["Content-Length"] or "unknown")


def install(flags: Sequence[str], call: Call = call, size_of: Callable[[str], int] = size_of) -> int:
    """Install torch, then everything else. Return the exit status."""
    version = installed_torch()
    if flags:
        say(f"1/2 torch, by pip with {' '.join(flags)}")
        status, _, _ = call([*PIP_INSTALL, *flags, "torch"])
    elif version is not None:
        say(f"1/2 torch {version} is installed")
        status = 0
    else:
        say("1/2 torch, in the build for this machine")
        status = 0
        if not uv_installs_torch(call):
            print_download_size(call, size_of)
            status, _, _ = call([*PIP_INSTALL, "torch"])
    if status:
        return status
    say("2/2 everything else")
    return call([*PIP_INSTALL, "--editable", f"{ROOT}[dev]"])[0]


if __name__ == "__main__":
    sys.exit(install(sys.argv[1:]))
