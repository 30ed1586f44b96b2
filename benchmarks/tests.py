#!/usr/bin/env python3
"""Measures how long the tests take, and which of them, and writes benchmarks/tests.md.

    .venv/bin/python -m benchmarks.tests             (root; half an hour; no lab may run, and nothing else)
    .venv/bin/python -m benchmarks.tests --earlier   (in turn with the build that life.py compares with; an hour more)

They run in clean clones, as by .ci/run, with Debian's packages and the downloads of this machine. Figures are kept, and
gone on with, as by benchmarks/life.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import textwrap
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.life import OLD, Build, Failed, Figures, Results, Row, measure, table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "benchmarks/tests.md"
RESULTS = PAGE.with_suffix(".jsonl")
LEAST_SECS = 60  # of a file with a row of its own
OTHERS = "all others"


def suite(build: Build) -> Figures:
    """scripts/check, where there is one, and scripts/test with the seconds of each file."""
    with tempfile.TemporaryDirectory() as folder:
        clone, report = Path(folder, "flotilla"), Path(folder, "report.xml")
        build.run("git", "clone", "--quiet", str(build.root), str(clone))
        fresh = Build(build.name, clone)
        if (clone / "scripts/check").exists():
            fresh.run("scripts/check", "--collect-only", "-q")  # makes its Python environments
            yield "scripts-check", fresh.timed("scripts/check")
        taken = fresh.timed("scripts/test", f"--junit-xml={report}", seconds=7200)
        seconds: dict[str, float] = defaultdict(float)
        for case in ElementTree.parse(report).iter("testcase"):
            seconds["/".join(case.attrib["classname"].split(".")[:3])] += float(case.attrib["time"])
        others = sum(spent for spent in seconds.values() if spent < LEAST_SECS)
        yield from ((f"{name}.py", spent) for name, spent in seconds.items() if spent >= LEAST_SECS)
        yield OTHERS, others
        yield "scripts-test", taken


def rows(earlier: bool) -> list[Row]:
    return [
        Row("scripts-test", "`scripts/test`", suite, 0.55, 30, "min", old=earlier),
        Row("scripts-check", "`scripts/check`", suite, None, 3, "min"),
    ]


def page(results: Results) -> str:
    """Return the page."""
    head = (
        f"`benchmarks/tests.py`, {' and '.join(results.seen('machine'))}, downloads cached; the ratio is to the build "
        f"of commit {OLD}, run in turn on the same machine. Measured at {', '.join(results.seen('commit'))}."
    )
    lines = [
        "# How long the tests take",
        "",
        textwrap.fill(head, 120, break_on_hyphens=False),
        "",
        *table(rows(True), results),
        "",
        "Where its time goes (tests of the lab run one after the other, all others beside them):",
        "",
        "| | |",
        "|---|---|",
    ]
    spent = {key: statistics.median(found.values()) for key, found in results.all("new").items() if key.endswith(".py")}
    lines += [f"| {key} | {spent[key] / 60:.1f} min |" for key in sorted(spent, key=lambda key: -spent[key])]
    if others := results.of("new", OTHERS):
        lines.append(f"| {OTHERS} | {statistics.median(others.values()) / 60:.1f} min |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Run the tests, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--earlier", action="store_true", help=f"run those of {OLD}, too")
    parser.add_argument("--rounds", type=int, default=1, help="how often (default: %(default)s)")
    options = parser.parse_args()
    results = Results(RESULTS)
    try:
        measure(rows(options.earlier), options.rounds, results)
    except Failed as error:
        sys.exit(str(error))
    PAGE.write_text(page(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
