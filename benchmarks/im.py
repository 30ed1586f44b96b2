#!/usr/bin/env python3
"""Measures a fleet that the Infrastructure Manager raises in the lab, and writes benchmarks/im.md.

.venv/bin/python benchmarks/im.py          (root; a quarter of an hour; no lab may run; downloads cached)
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import boto3

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/life")]

import test_im as im  # noqa: E402
from harness import living, upload, user_runs, wait_until  # noqa: E402

from benchmarks.life import page  # noqa: E402


def main() -> None:
    """Measure, and write the table."""
    rows: list[tuple[str, str, str]] = []

    def passed(what: str, since: float, aim: str) -> None:
        rows.append((what, f"{time.time() - since:.0f} s", aim))
        print(*rows[-1][:2], flush=True)

    user_runs("scripts/lab", "up", seconds=300)
    user_runs("scripts/lab", "im", seconds=300)
    upload("cifar10")
    with tempfile.TemporaryDirectory() as folder:
        radl = Path(folder, "im.radl")
        im.write(radl)
        begin = time.time()
        infrastructure = im.create(radl)
        im.configured(infrastructure)
        passed("create → configured (ps, chief, worker)", begin, "240 s")
        wait_until(lambda: im.step(infrastructure) > 0, 300, "it trains")
        passed("create → first global step", begin, "300 s")
        begin = time.time()
        im.client(f"addresource {infrastructure} radl/worker.radl")
        im.configured(infrastructure)
        passed("addresource → configured", begin, "")
        log = "sudo journalctl --unit training@worker-1"
        wait_until(lambda: "examples/s" in im.on(infrastructure, 3, log), 300, "the new worker trains")
        passed("addresource → the new worker's first steps", begin, "120 s")
        begin = time.time()
        im.client(f"destroy {infrastructure} --yes")
        session = boto3.Session(profile_name="flotilla-lab")
        wait_until(lambda: not living(session), 60, "no instances")
        passed("destroy", begin, "30 s")
    user_runs("scripts/lab", "down")
    text = page("A fleet of the Infrastructure Manager's in the lab, measured", "im", rows)
    (ROOT / "benchmarks/im.md").write_text("\n".join([*text, ""]))


if __name__ == "__main__":
    main()
