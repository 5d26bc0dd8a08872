"""Run the tests that are too long for the suite, one after the other, and print their results.

    python -m tests.hardening               all parts: about two and a half hours on two cores
    python -m tests.hardening http media    only these parts

Each fuzzer prints its counts as one JSON object. Its exit status is 1 if something crashed, answered with status 500 or kept
growing in memory. The suite runs each fuzzer with fewer inputs (test_fuzzers.py).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PYTHON = sys.executable
FUZZERS = {"http": 200_000, "sdp": 50_000, "channel": 50_000, "mqtt": 50_000, "media": 50_000}
KILLS = (
    "tests/memory/test_memory_crash.py",
    "tests/memory/test_erasure.py",
    "tests/project/test_first_start.py",
    "tests/memory/test_memory_faults.py",
)
COMMANDS: dict[str, list[str]] = {
    **{name: [PYTHON, "-m", f"tests.hardening.{name}", "--count", str(count)] for name, count in FUZZERS.items()},
    "kills": [PYTHON, "-m", "pytest", "-q", "--timeout", "7200", *KILLS],
    "soak": [PYTHON, "-m", "benchmarks.soak", "--minutes", "60"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(COMMANDS)}; default: all")
    parser.add_argument("--out", type=Path, default=Path("out/hardening"), help="folder for the results")
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(COMMANDS))
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; choose from {', '.join(COMMANDS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    results = {part: run(part, args.out) for part in args.parts or COMMANDS}
    (args.out / "hardening.json").write_text(json.dumps(results, indent=1) + "\n")
    for part, result in results.items():
        print(f"{part:8} {'passed' if result['passed'] else 'FAILED'} in {result['minutes']} min: {result['said']}")
    return 0 if all(result["passed"] for result in results.values()) else 1


def run(part: str, out: Path) -> dict[str, Any]:
    """Run one part; write its output to the terminal and to a file. Returns whether it passed, and its last output."""
    command = [*COMMANDS[part], *(["--out", str(out)] if part == "soak" else [])]
    print(f"--- {part}: {' '.join(command[1:])}", flush=True)
    began, lines = time.monotonic(), []
    environment = {**os.environ, "CRASH_ROUNDS": "200"}
    with (out / f"{part}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            print(line, end="", flush=True)
            lines = [*lines[-200:], line]
    minutes = round((time.monotonic() - began) / 60, 1)
    return {"passed": process.wait() == 0, "minutes": minutes, "said": last_words(lines)}


def last_words(lines: list[str]) -> Any:
    """Return the last JSON object in the output, or the last line if there is none."""
    text, found, place = "".join(lines), None, 0
    decoder = json.JSONDecoder()
    while (place := text.find("{", place)) >= 0:
        try:
            found, place = decoder.raw_decode(text, place)
        except ValueError:
            place += 1
    return found if found is not None else text.strip().rpartition("\n")[2]


if __name__ == "__main__":
    sys.exit(main())
