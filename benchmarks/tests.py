#!/usr/bin/env python3
"""Measures how long the tests take, and which of them, and writes benchmarks/tests.md.

    .venv/bin/python benchmarks/tests.py            (root; an hour; no lab may run)
    .venv/bin/python benchmarks/tests.py -k watch   (arguments go to scripts/test; nothing is written)

They run in a clean clone, as by .ci/run, with Debian's packages and the downloads of this machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.life import page  # noqa: E402

AIM = "30 min"


def main() -> None:
    """Run the tests, and write the table."""
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        clone, report = Path(folder, "flotilla"), Path(folder, "report.xml")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        begin = time.monotonic()
        done = subprocess.run(["scripts/test", f"--junit-xml={report}", *arguments], cwd=clone, check=False)
        taken = time.monotonic() - begin
        if done.returncode:
            sys.exit(done.returncode)
        seconds: Counter[str] = Counter()
        for case in ElementTree.parse(report).iter("testcase"):
            seconds["/".join(case.attrib["classname"].split(".")[:3])] += float(case.attrib["time"])
    rows = [("scripts/test", f"{taken / 60:.0f} min", AIM)]
    rows += [(f"{name}.py", f"{spent / 60:.1f} min", "") for name, spent in seconds.most_common() if spent >= 60]
    rows.append(("all others", f"{sum(spent for spent in seconds.values() if spent < 60) / 60:.1f} min", ""))
    later = seconds["tests/life/test_im"] + seconds["tests/life/test_faults"]
    note = (
        "The lab's tests (`tests/lab`, `roles`, `life`) run one after the other, all others beside them. The aim is "
        "older than\nthe Infrastructure Manager's fleet (`test_im.py`) and the faults (`test_faults.py`): without "
        f"these two, {(taken - later) / 60:.0f} min."
    )
    text = "\n".join([*page("How long the tests take", "tests", rows), "", note, ""])
    print(text)
    if not arguments:
        (ROOT / "benchmarks/tests.md").write_text(text)


if __name__ == "__main__":
    main()
