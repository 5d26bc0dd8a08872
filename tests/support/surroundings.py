"""Run a command in other surroundings: another day, time zone, locale, user, folder or network.

    python tests/support/surroundings.py read-only -- pytest tests/agent/cli/test_cli.py
    python tests/support/surroundings.py all -- pytest        each surrounding in turn, and a summary
    python tests/support/surroundings.py drawn -- pytest      in CI one chosen by the commit's hash; elsewhere none
    python tests/support/surroundings.py --list
    python tests/support/surroundings.py --draw HASH          the one that CI chooses for that commit

If this machine cannot make a surrounding, the reason is printed and the command runs as it is. This file imports only the
standard library, so that any Python runs it. cc, localedef, unshare and ip come from the system's packages.
"""

import argparse
import contextlib
import datetime
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

ROOT = Path(__file__).resolve().parents[2]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "out", "*.egg-info")
DAY_S = 86_400
BEFORE_CHANGE_S = 60  # how long before the change a run starts
NUM_BUSY = 8


class CannotMake(Exception):
    """This machine lacks something that a surrounding needs; the message names it."""


@dataclass
class Run:
    """A command with its environment and folder. `cleanup` runs after the command."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: Path = field(default_factory=Path.cwd)
    cleanup: ExitStack = field(default_factory=ExitStack)

    def status(self) -> int:
        """Run the command and return its exit status."""
        return subprocess.run(self.argv, env=self.env, cwd=self.folder, check=False).returncode


def tool(name: str, package: str) -> str:
    """Return the path of a program, also from /usr/sbin and /sbin. Raises CannotMake."""
    if path := shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"):
        return path
    raise CannotMake(f"{name} is not installed (Debian: apt-get install {package})")


# --- time ---


def other_time(run: Run, shift_s: float) -> None:
    """Shift the wall clock and file times (other_day.c), but not the monotonic clock. Shifts add up when nested."""
    shift_s += float(run.env.get("OTHER_DAY_SHIFT_S", 0))
    library = (
        run.cleanup.enter_context(temporary(place="/tmp")) / "other_day.so"
    )  # LD_PRELOAD takes no path with a space
    build = [
        tool("cc", "gcc libc6-dev"),
        "-shared",
        "-fPIC",
        "-O2",
        "-o",
        str(library),
        str(ROOT / "tests" / "support" / "other_day.c"),
    ]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if built.returncode:
        raise CannotMake(f"tests/support/other_day.c does not compile: {built.stderr.strip()}")
    run.env |= {"LD_PRELOAD": str(library), "OTHER_DAY_SHIFT_S": f"{shift_s:.0f}"}


def change_of_clocks(zone: ZoneInfo, after: float, *, forward: bool) -> float:
    """Return the unix time of the zone's next change to summer time (`forward`) or back."""

    def offset(time: float) -> datetime.timedelta:
        return datetime.datetime.fromtimestamp(time, zone).utcoffset() or datetime.timedelta()

    hour = after - after % 3600
    while True:
        hour += 3600
        step = offset(hour) - offset(hour - 1)
        if (step > datetime.timedelta()) if forward else (step < datetime.timedelta()):
            return hour


def clocks_change(run: Run, *, forward: bool) -> None:
    """Set the zone Europe/Berlin and a time one minute before the clocks change."""
    now = datetime.datetime.now(datetime.UTC).timestamp()
    change = change_of_clocks(ZoneInfo("Europe/Berlin"), now, forward=forward)
    run.env["TZ"] = "Europe/Berlin"
    other_time(run, change - BEFORE_CHANGE_S - now)


def kathmandu(run: Run) -> None:
    """Set a time zone whose offset, 5:45, is not a whole number of hours."""
    run.env["TZ"] = "Asia/Kathmandu"


# --- locale ---


def turkish(run: Run) -> None:
    """Set the Turkish locale: the capital of i is not I, and 1.5 is written 1,5. Built if the system lacks it."""
    listed = subprocess.run([tool("locale", "libc-bin"), "-a"], capture_output=True, text=True, check=False).stdout
    if "tr_TR.utf8" not in listed.split():
        folder = run.cleanup.enter_context(temporary())
        build = [tool("localedef", "libc-bin"), "-i", "tr_TR", "-f", "UTF-8", str(folder / "tr_TR.UTF-8")]
        if subprocess.run(build, capture_output=True, check=False).returncode:
            raise CannotMake("tr_TR.UTF-8 cannot be built (Debian: apt-get install locales)")
        run.env["LOCPATH"] = str(folder)
    for name in [name for name in run.env if name.startswith("LC_")]:
        del run.env[name]
    run.env["LANG"] = "tr_TR.UTF-8"


# --- user and folder ---


@contextlib.contextmanager
def temporary(prefix: str = "vilamp-surroundings-", place: str | None = None) -> Iterator[Path]:
    """Make a folder that every user may enter; remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def copied(run: Run, prefix: str) -> Path:
    """Copy the checkout without .venv, which is linked, and run there. Returns the folder above the copy."""
    above = run.cleanup.enter_context(temporary(prefix))
    checkout = above / "checkout"
    shutil.copytree(ROOT, checkout, ignore=NOT_COPIED, symlinks=True)
    for name, target in ((checkout / ".venv", ROOT / ".venv"), (above / "shared", ROOT.parent / "shared")):
        if target.exists():
            name.symlink_to(target.resolve())
    for name in ("home", "tmp"):
        (above / name).mkdir()
    run.env |= {"PYTHONPATH": str(checkout), "HOME": str(above / "home"), "TMPDIR": str(above / "tmp")}
    run.folder = checkout
    return above


def owned(folder: Path) -> None:
    """Give a folder and its content to the user `nobody`; do not follow links."""
    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)


def as_nobody(run: Run) -> None:
    """Run as the user `nobody` if this is root."""
    if os.geteuid() != 0:
        return
    nobody = pwd.getpwnam("nobody")
    ids = ["--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid), "--clear-groups"]
    run.argv = [tool("setpriv", "util-linux"), *ids, *run.argv]
    run.env |= {"USER": nobody.pw_name, "LOGNAME": nobody.pw_name}
    run.env.pop("XDG_RUNTIME_DIR", None)
    let_in(run, [Path(sys.base_prefix), (ROOT / ".venv").resolve()])


def let_in(run: Run, needed: list[Path]) -> None:
    """Make `needed` folders readable below closed ones such as /root, by mounts in a namespace."""
    shut = {each: next((up for up in reversed(each.parents) if not up.stat().st_mode & 0o001), None) for each in needed}
    mounts = []
    for closed in set(filter(None, shut.values())):
        view = run.cleanup.enter_context(temporary())
        for each in (each for each in needed if shut[each] == closed and each.exists()):
            (view / each.relative_to(closed)).mkdir(parents=True)
            mounts.append(f"mount --bind {shlex.quote(str(each))} {shlex.quote(str(view / each.relative_to(closed)))}")
        mounts.append(f"mount --rbind {shlex.quote(str(view))} {shlex.quote(str(closed))}")
    if mounts:
        in_namespace(run, "--mount", "; ".join([*mounts, 'cd "$PWD"']))


def common_user(run: Run) -> None:
    """Run as a common user in a checkout that this user owns."""
    if os.geteuid() == 0:
        above = copied(run, "vilamp-user-")
        as_nobody(run)
        owned(above)


def with_spaces(run: Run) -> None:
    """Put the checkout, the home and the temporary folder below a path with spaces."""
    copied(run, "vilamp with spaces ")


def read_only(run: Run) -> None:
    """Make the checkout read-only: by a mount or, where mounting is not allowed, as a copy without write permission."""
    root = shlex.quote(str(ROOT))
    mount = f'mount --bind {root} {root}; mount -o remount,bind,ro {root}; cd "$PWD"'
    with contextlib.suppress(CannotMake):
        return in_namespace(run, "--mount", mount)
    above = copied(run, "vilamp-read-only-")
    as_nobody(run)
    for path in (run.folder, *run.folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    run.cleanup.callback(subprocess.run, ["chmod", "-R", "u+w", str(run.folder)], check=False)
    if os.geteuid() == 0:
        owned(above / "home")
        owned(above / "tmp")
    return None


# --- network ---


def in_namespace(run: Run, kind: str, prepare: str) -> None:
    """Run in a new namespace after the shell commands `prepare`; without root also in a user namespace."""
    unshare = [tool("unshare", "util-linux"), kind]
    if os.geteuid() != 0:
        unshare[1:1] = ["--user", "--map-root-user"]
    enter = [*unshare, "sh", "-ec", f'{prepare}; exec "$@"', "sh"]
    tried = subprocess.run([*enter, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise CannotMake(f"no namespace: {tried.stderr.strip() or 'unshare failed'}")
    run.argv = [*enter, *run.argv]


def loopback_only(run: Run) -> None:
    """Run with no network except loopback."""
    in_namespace(run, "--net", f"{shlex.quote(tool('ip', 'iproute2'))} link set lo up")


def without_ipv6(run: Run) -> None:
    """Run with loopback and one network interface, both without IPv6."""
    ip = shlex.quote(tool("ip", "iproute2"))
    prepare = f"""echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
        {ip} link set lo up
        {ip} link add lan0 type dummy 2>/dev/null || {ip} link add lan0 type bridge
        {ip} address add 10.99.0.2/24 dev lan0
        {ip} link set lan0 up
        {ip} route add default via 10.99.0.1"""
    in_namespace(run, "--net", prepare)


# --- load ---


def under_load(run: Run) -> None:
    """Start eight busy processes beside the command."""
    for _ in range(NUM_BUSY):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        run.cleanup.callback(busy.wait)
        run.cleanup.callback(busy.kill)


@dataclass(frozen=True)
class Surrounding:
    says: str
    make: Callable[[Run], None]
    is_drawn: bool = True


SURROUNDINGS = {
    "month-ago": Surrounding("30 days in the past", lambda run: other_time(run, -30 * DAY_S)),
    "year-ahead": Surrounding("400 days in the future", lambda run: other_time(run, 400 * DAY_S)),
    "to-summer-time": Surrounding(
        "Berlin, a minute before the clocks go forward", lambda run: clocks_change(run, forward=True)
    ),
    "from-summer-time": Surrounding(
        "Berlin, a minute before the clocks go back", lambda run: clocks_change(run, forward=False)
    ),
    "kathmandu": Surrounding("TZ=Asia/Kathmandu, 5:45 ahead of UTC", kathmandu),
    "turkish": Surrounding("LANG=tr_TR.UTF-8", turkish),
    "user": Surrounding("not root", common_user),
    "read-only": Surrounding("a checkout that cannot be written", read_only),
    "spaces": Surrounding("a path with spaces", with_spaces),
    "no-ipv6": Surrounding("a network without IPv6", without_ipv6),
    "loopback": Surrounding("no network but loopback", loopback_only),
    "load": Surrounding("8 busy processes beside it", under_load, is_drawn=False),
}


def drawn(commit: str) -> str:
    """Return the surrounding of a commit: its hash as a number, modulo the number of surroundings."""
    names = [name for name, each in SURROUNDINGS.items() if each.is_drawn]
    return names[int(commit, 16) % len(names)]


def name_for_this_run() -> str | None:
    """Return the surrounding of the checked-out commit in CI, else None."""
    if os.environ.get("CI") != "true":
        return None
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        say(f"none is chosen, because git names no commit: {head.stderr.strip()}")
        return None
    return drawn(head.stdout.strip())


@contextlib.contextmanager
def surrounded(name: str, argv: list[str]) -> Iterator[Run]:
    """Prepare the command in a surrounding. Raises CannotMake."""
    run = Run(argv)
    with run.cleanup:
        SURROUNDINGS[name].make(run)
        say(f"{name} ({SURROUNDINGS[name].says})")
        yield run


def run_in(name: str, argv: list[str]) -> int:
    """Run the command in a surrounding, or as it is if that cannot be made. Returns its exit status."""
    try:
        with surrounded(name, argv) as run:
            return run.status()
    except CannotMake as error:
        say(f"{name} cannot be made here: {error}. The command runs as it is.")
        return Run(argv).status()


def run_in_all(argv: list[str]) -> int:
    """Run the command in each surrounding that can be made. Returns 1 if it failed in one, else 0."""
    results: dict[str, str] = {}
    for name in (name for name, each in SURROUNDINGS.items() if each.is_drawn):
        try:
            with surrounded(name, argv) as run:
                status = run.status()
            results[name] = f"failed with exit status {status}" if status else "passed"
        except CannotMake as error:
            results[name] = f"not made: {error}"
    for name, result in results.items():
        say(f"{name}: {result}")
    return int(any(result.startswith("failed") for result in results.values()))


def say(text: str) -> None:
    print(f"surroundings: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Run the command line and return its exit status."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(usage="surroundings.py NAME -- COMMAND ... | --list | --draw HASH")
    parser.add_argument("name", nargs="?", choices=[*SURROUNDINGS, "all", "drawn"])
    parser.add_argument("--list", action="store_true", help="list the surroundings")
    parser.add_argument("--draw", metavar="HASH", help="print the surrounding that CI chooses for this commit")
    given, argv = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    if given.list:
        print("\n".join(f"{name:18}{each.says}" for name, each in SURROUNDINGS.items()))
    elif given.draw:
        print(drawn(given.draw))
    elif given.name is None or not argv:
        parser.error("give a surrounding and, after --, a command")
    elif given.name == "all":
        return run_in_all(argv)
    elif given.name != "drawn":
        return run_in(given.name, argv)
    elif name := name_for_this_run():
        return run_in(name, argv)
    else:
        return Run(argv).status()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
