"""Measure how well questions are read (`vilamp eval-questions`): kinds, things and refusals, on lists in the tree.

The lists are in `agent/reading/lists/`: phrasings by strangers, who knew neither the code nor the training data. Lists
whose name ends in "-held" were looked at by nobody while the reader was built. A reading is right if its kind and all
its things are; a thing is right in the question's own words or in English, synonyms of the drawn world's things
included ("lorry" for "truck"). It is wrong without doubt if it is neither right nor refused.
"""

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from agent.ask.understanding import REFUSALS, OwnReader

Row = dict[str, Any]


def lists(name: str) -> dict[str, list[Row]]:
    """Return the lists whose file name begins with `name`, by file name without ending."""
    folder = Path(str(files("agent.reading") / "lists"))
    paths = sorted(folder.glob(f"{name}-*.jsonl"))
    return {path.stem: [json.loads(line) for line in path.read_text("utf-8").splitlines()] for path in paths}


def phrasings(rows: Sequence[Row], reader: OwnReader) -> Row:
    """Return shares of questions: kind and thing right, wrong without doubt, refused; and milliseconds for each."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    mistakes = []
    began = time.perf_counter()
    for row in rows:
        read = reader.read_now(row["text"])
        refused = read.kind in REFUSALS
        outcome = outcome_of(row, read.kind, refused=refused, thing=not refused and is_same(read.things, row, reader))
        counts["all"].update(outcome)
        counts[row["lang"]].update(outcome)
        if "right" not in outcome:
            mistakes.append({"text": row["text"], "kind": row["kind"], "read": [read.kind, *read.things]})
    each_ms = 1000 * (time.perf_counter() - began) / max(1, len(rows))
    by_language = {language: shares(count) for language, count in sorted(counts.items())}
    return {"languages": by_language, "ms": round(each_ms, 1), "mistakes": mistakes}


def outcome_of(row: Row, kind: str, *, refused: bool, thing: bool) -> list[str]:
    """Return what is true of one reading: "question" or "refusal" (what it should be), "kind", "thing", "right", ..."""
    if row["kind"] in REFUSALS:
        return ["refusal", *(["refused", "right"] if refused else ["wrong"])]
    same = kind == row["kind"]
    right = same and thing
    said = [
        ("kind", same),
        ("thing", thing),
        ("right", right),
        ("unsure", refused),
        ("wrong", not right and not refused),
    ]
    return ["question", *(name for name, is_so in said if is_so)]


def shares(count: Counter[str]) -> Row:
    """Return the shares of one language."""
    asked, foreign = count["question"], count["refusal"]
    of_asked = {name: round(count[name] / asked, 3) for name in ("kind", "thing", "unsure")} if asked else {}
    right = {"right": round((count["right"] - count["refused"]) / asked, 3)} if asked else {}
    refused = {"out_of_scope": round(count["refused"] / foreign, 3)} if foreign else {}
    wrong = round(count["wrong"] / max(1, asked + foreign), 3)
    return {"questions": asked, **of_asked, **right, "beyond": foreign, **refused, "wrong_without_doubt": wrong}


def is_same(things: Iterable[str], row: Row, reader: OwnReader) -> bool:
    """Return whether the things are those of the list's row, in the question's language or in English."""
    named = _same_words(things, reader)
    return any(named == _same_words(row[key], reader) for key in ("things", "things_en"))


def _same_words(things: Iterable[str], reader: OwnReader) -> list[str]:
    return sorted(map(reader.things.compared, things))


def conditions(rows: Sequence[Row], reader: OwnReader) -> Row:
    """Return shares of alert conditions: thing right, nonsense recognised, and wrong without doubt."""
    count: Counter[str] = Counter()
    for row in rows:
        read = reader.read_now(row["text"])
        if row["kind_of"] == "nonsense":
            count.update(["nonsense", *(["recognised"] if read.kind in REFUSALS else [])])
            continue
        wanted = [row["thing"]] if row["thing"] else []
        thing = is_same(read.things[:1], {"things": wanted, "things_en": wanted}, reader)
        count.update(["condition", *(["thing"] if thing else []), *(["refused"] if read.kind in REFUSALS else [])])
    return {
        "conditions": count["condition"],
        "thing": round(count["thing"] / max(1, count["condition"]), 3),
        "refused": round(count["refused"] / max(1, count["condition"]), 3),
        "nonsense": count["nonsense"],
        "recognised": round(count["recognised"] / max(1, count["nonsense"]), 3),
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the parsed arguments of `vilamp eval-questions`."""
    summary = "How well questions are read, and answered on drawn worlds."
    parser = argparse.ArgumentParser(prog="vilamp eval-questions", description=summary)
    parser.add_argument("--only", choices=("dev", "held"), help="the lists to use (default: all)")
    parser.add_argument("--ngrams", action="store_true", help="read without the sentence encoder")
    parser.add_argument(
        "--worlds", type=int, default=0, help="drawn worlds to ask the wordings on (default: none; slow)"
    )
    parser.add_argument("--frames", type=int, default=300, help="frames of each world")
    parser.add_argument("--json", type=Path, help="write the figures and all mistakes here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run `vilamp eval-questions` and return its exit status."""
    from rich.console import Console
    from rich.table import Table

    args = parse(argv)
    reader = OwnReader(None, "as asked") if args.ngrams else OwnReader.load()
    report: Row = {"reader": "ngrams" if reader.degraded else "encoder"}
    for name, measure in (("phrasings", phrasings), ("alerts", conditions)):
        for stem, rows in lists(name).items():
            if args.only is None or stem.endswith(args.only):
                report[stem] = measure(rows, reader)
    if args.worlds:
        report |= _on_worlds(args)
    console = Console()
    for stem, found in report.items():
        if not isinstance(found, dict):
            continue
        parts = found.get("languages") or found.get("families") or {"all": found}
        columns = list(dict.fromkeys(column for row in parts.values() for column in row))
        shown = Table("", *columns, title=stem)
        for name, row in parts.items():
            shown.add_row(name, *(str(row.get(column, "")) for column in columns))
        console.print(shown)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


def _on_worlds(args: argparse.Namespace) -> Row:
    """Return what the lists of wordings reach on drawn worlds."""
    from agent.evaluation.wordings import on_worlds

    chosen = {stem: rows for stem, rows in lists("world").items() if args.only is None or stem.endswith(args.only)}
    return {stem: on_worlds(rows, args.worlds, args.frames) for stem, rows in chosen.items()}
