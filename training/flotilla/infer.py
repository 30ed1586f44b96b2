"""Classifies every input of a folder by a SavedModel, over the executors of Spark, and stores the predictions in S3.

The predictions are Parquet files in parts/, a row an input; index.html shows what came of it, and manifest.json,
written last, says that nothing is missing. Started again, it goes on with what is left.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType

from flotilla.inference import cluster, own, part, result, saved_model
from flotilla.inference.inputs import IMAGES, Found, find, first, open_source
from flotilla.inference.part import Job, Summary, Worker
from flotilla.inference.saved_model import Facts
from flotilla.inference.settings import InferConfig, load_config
from flotilla.job.errors import BadInput, ProgramError, Temporary
from flotilla.storage import jsons
from flotilla.storage.s3 import Prefix
from flotilla.supervision import watchdog
from flotilla.supervision.progress import Progress, about, write_json

PHASE = "infer"
TRIED = 32  # inputs that the model is tried with before the job
TELL_SECS = 1.0
FEW = 10  # broken inputs that are borne, whatever their share
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Judged:
    """A job that can begin: its inputs, its model, and what the model gives for some of them."""

    config: InferConfig
    found: Found
    facts: Facts
    secs: float  # that an input takes, from its read to the model's answer
    plan: result.Plan

    @property
    def job(self) -> Job:
        """Return what all tasks share."""
        known = labels(self.found, self.facts)
        return Job(self.config, self.facts, self.found.kind, self.found.features, known, self.plan["digest"])

    @property
    def expected(self) -> int:
        """How many inputs there are; 0: that is known when they are read."""
        if self.found.kind == IMAGES:
            return len(self.found.objects)
        records = [self.found.records.get(one.path, 0) for one in self.found.objects]
        return sum(records) if all(records) else 0


def judge(config: InferConfig) -> Judged:
    """Look at everything; raise BadInput with the first thing that can't work."""
    program = own.Own(config.program)
    source = open_source(config.source)
    found = find(source, config.files)
    place = saved_model.locate(config.model)
    model = saved_model.Model(saved_model.fetch(place, config.models_dir), config.signature)
    some = first(source, found, TRIED)
    sample = next((item for item in some if not item.error), None)
    facts = saved_model.judge(model, place, found.kind, config.labels, sample, program.prepares)
    worker = Worker(Job(config, facts, found.kind, found.features, {}, ""), model)
    facts, secs = part.first_batch(worker, some)
    return Judged(config, found, facts, secs, result.plan(config, found, facts))


def judge_apart(config: InferConfig) -> Judged:
    """Do so in a process of its own, which takes TensorFlow's memory with it: a driver needs none of that."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(judge, config).result()
        except BrokenProcessPool as error:
            raise Temporary("The process that tried the model ended: has this host too little memory?") from error


def labels(found: Found, facts: Facts) -> dict[str, int]:
    """Return the classes that labels mean which are texts: their names; of folders also numbers, or their order."""
    classes, names = facts["classes"], facts["names"]
    known = {name: number for number, name in enumerate(names)} if classes else {}
    if found.kind != IMAGES or not classes:
        return known
    folders = sorted({one.path.rpartition("/")[0].rpartition("/")[2] for one in found.objects})
    if all(folder in known for folder in folders):
        return {folder: known[folder] for folder in folders}
    numbers = {str(number): number for number in range(classes)}
    if not names and all(folder in numbers for folder in folders):
        return {folder: numbers[folder] for folder in folders}
    if not names and len(folders) == classes:
        return {folder: number for number, folder in enumerate(folders)}
    return {}


def rule(known: dict[str, int], facts: Facts) -> str:
    """Say how folders' names are taken for labels."""
    if all(name in facts["names"] for name in known):
        return "The folders' names are the classes', so the accuracy is told, too."
    if all(name == str(number) for name, number in known.items()):
        return "The folders' names are taken for the classes' numbers, so the accuracy is told, too."
    return "The folders, in alphabetical order, are taken for the classes from 0 on, so the accuracy is told, too."


def check(config: InferConfig, slots: int = 1, hourly: float = 0) -> dict[str, object]:
    """Say what would be done, and how long it takes on so many executors' tasks at a time; write nothing.

    `hourly` is what the fleet costs, in $.
    """
    judged, target = judge(config), Prefix(config.target)
    old = result.before(target)
    if old is not None:
        result.check_same(target, old, judged.plan)
    target.prove_writable(f"{part.PARTS}/.proof")
    done = sum(one.path.startswith(part.PARTS) for one in target.objects()) if old else 0
    found, facts = judged.found, judged.facts
    left = 1 - done / len(found.parts())
    inputs = judged.expected
    seconds = inputs * left * judged.secs / max(1, slots)
    known = labels(found, facts)
    return {
        "kind": found.kind, "files": len(found.objects), "bytes": found.size, "inputs": inputs,
        "left_out": list(found.left_out[:20]), "parts": len(found.parts()), "parts_done": done,
        "done": result.is_done(target, judged.plan, config.hdf5) is not None,
        "seconds_an_input": round(judged.secs, 6), "seconds": round(seconds, 1), "facts": facts,
        "says": says(judged, known, inputs, seconds if inputs else None, done, hourly),
    }  # fmt: skip


def says(
    judged: Judged, known: dict[str, int], inputs: int, seconds: float | None, done: int, hourly: float
) -> list[str]:
    """Return the plan, in sentences."""
    config, found, facts = judged.config, judged.found, judged.facts
    lines = [f"{config.source} has {len(found.objects):,} {found.kind} of {found.size / 1e6:,.1f} MB"]
    if inputs and inputs != len(found.objects):
        lines[0] += f" with {inputs:,} inputs"
    lines[0] += "."
    if found.left_out:
        more = len(found.left_out)
        lines.append(f"{more:,} other file{'s are' if more > 1 else ' is'} left out, as {found.left_out[0]}.")
    ((name, one), *others) = facts["inputs"].items()
    if facts["takes"] == "images":
        height, width, channels = facts["size"]
        colours = {1: "grey", 3: "RGB", 4: "RGBA"}.get(channels or 3, str(channels))
        scale = f" in {config.scale} (infer_scale)" if one["dtype"].startswith("float") else ""
        size = f"{height} x {width} " if height and width else ""
        lines.append(f"The model takes {size}{colours} images as {name}, {one['dtype']}{scale}.")
    elif facts["takes"] == "own":
        lines.append(f"The model takes what prepare makes (infer_program): {', '.join(facts['inputs'])}.")
    elif facts["takes"] == "columns":
        lines.append(f"The model takes the column{'s' if others else ''} {', '.join(facts['inputs'])}.")
    else:
        lines.append(f"The model takes {facts['takes']} as {name}.")
    if facts["scores"]:
        names = f", as {', '.join(facts['names'][:3])}" if facts["names"] else ", which have numbers for names"
        softmax = "the softmax of " if facts["meaning"] == "logits" else ""
        lines.append(f"It gives {softmax}{facts['scores']} of {facts['classes']} classes{names}.")
    else:
        lines.append(f"It gives {', '.join(facts['outputs'])}, which are stored as they are.")
    if known and found.kind == IMAGES:
        lines.append(rule(known, facts))
    if done:
        lines.append(f"{done:,} of {len(found.parts()):,} parts are there already.")
    if seconds is not None:
        cost = f", in which the fleet costs ${max(0.01, seconds / 3600 * hourly):,.2f}" if hourly else ""
        speed = f"{1 / judged.secs:,.0f} inputs/s a task"
        lines.append(f"By a first batch ({speed}) it takes about {about(seconds)}{cost}.")
    return lines


class Run:
    """A job that runs: who counts, tells and decides when it is enough."""

    def __init__(self, config: InferConfig) -> None:
        self.config = config
        self.began = time.monotonic()
        self.told_to_end = threading.Event()
        self.progress = Progress(config.progress, PHASE, 0, "inputs")
        self.done: set[int] = set()  # parts
        self.whole = result.total([])
        self.too_many = ""
        self._since = 0.0  # when the executors began, and with how many rows
        self._rows_then = 0
        self._told = 0.0

    def run(self) -> dict[str, object]:
        """Do all of it; raise ProgramError."""
        config, progress = self.config, self.progress
        target = Prefix(config.target, refused=Temporary)
        progress.say("looking at the inputs and the model")
        judged = judge_apart(config) if config.master else judge(config)
        before = result.begin(target, judged.plan)
        self.done, self.whole = set(before), result.total(before.values())
        done = result.is_done(target, judged.plan, config.hdf5)
        if done is not None:
            progress.expect(float(str(done["rows"])))
            progress.finish("all was classified before", done=float(str(done["rows"])))
            return {**self._outcome(done), "changed": False}
        every = judged.found.parts()
        left = [one for one in every if one.number not in self.done]
        progress.expect(judged.expected)
        self._tell(f"{len(self.done)} of {len(every)} parts are done; starting Spark" if left else "")
        spark = cluster.run(judged.job, left, self._hear, self._enough, self._begin) if left else {}
        if self.too_many:
            raise BadInput(self.too_many)
        if self.told_to_end.is_set():
            raise Stopped
        missing = [one.number for one in every if one.number not in self.done]
        if missing:
            raise Temporary(f"{len(missing)} parts have given no word, as {missing[0]}: trying again.")
        whole = self.whole
        self._judge_broken(last=True)
        if self.too_many:
            raise BadInput(self.too_many)
        progress.say("reading all back, and writing the page")
        content = result.finish(target, config, judged.plan, judged.found, time.monotonic() - self.began, spark)
        progress.expect(whole["rows"])
        progress.finish(f"the predictions are in {target.url()}", self._detail(whole), done=whole["rows"])
        return {**self._outcome(content), "changed": True}

    def _outcome(self, content: dict[str, object]) -> dict[str, object]:
        keys = ("rows", "broken", "accuracy", "labelled", "seconds")
        return {**{key: content.get(key) for key in keys}, "target": self.config.target, "name": self.config.name}

    def _begin(self) -> None:
        self._since = time.monotonic()
        self._rows_then = self.whole["rows"]
        self._tell("the executors load the model")

    def _hear(self, summary: Summary) -> None:
        self.done.add(summary["part"])
        result.add(self.whole, summary)
        self._judge_broken()
        if time.monotonic() >= self._told + TELL_SECS:
            self._told = time.monotonic()
            self._tell("")

    def _judge_broken(self, last: bool = False) -> None:
        """Notice that too many inputs are broken."""
        rows, broken = self.whole["rows"], self.whole["broken"]
        share = self.config.most_broken
        all_broken = broken == rows > 0 and (last or rows >= FEW)
        if all_broken or (broken > max(FEW, share * rows) and (last or rows >= 100)):
            one = self.whole["errors"][0]
            self.too_many = (
                f"{broken:,} of {rows:,} inputs couldn't be classified, and {share:.0%} are borne (infer_most_broken): "
                f"{one['path']}: {one['error']}."
            )

    def _enough(self) -> bool:
        return self.told_to_end.is_set() or bool(self.too_many)

    def _tell(self, message: str) -> None:
        passed = time.monotonic() - self._since if self._since else 0
        rate = (self.whole["rows"] - self._rows_then) / passed if passed > 1 else None
        told = self._detail(self.whole)
        self.progress.update(self.whole["rows"], rate, "inputs/s" if rate else None, message, told)

    def _detail(self, whole: Summary) -> dict[str, float | str]:
        detail: dict[str, float | str] = {"broken": whole["broken"]} if whole["broken"] else {}
        if whole["labelled"] and not whole["strange"]:
            detail["accuracy"] = round(whole["right"] / whole["labelled"], 4)
        return detail

    def end(self, number: int, frame: FrameType | None) -> None:
        """Hear that it is to end: what is done stays."""
        self.told_to_end.set()


class Stopped(Exception):
    """It was told to end."""


def _run(config: InferConfig) -> dict[str, object]:
    run = Run(config)
    signal.signal(signal.SIGTERM, run.end)
    watchdog.beat()
    try:
        outcome = run.run()
    except Stopped:
        rows = run.whole["rows"]
        run.progress.stop("the same command goes on from here", rows)
        return {"changed": True, "stopped": True, "rows": rows}
    except FileNotFoundError as error:
        raise _failed(run.progress, Temporary(f"{error} is gone.")) from error
    except ProgramError as error:
        raise _failed(run.progress, error) from error
    if config.done_file:
        write_json(config.done_file, outcome)
    return outcome


def _failed(progress: Progress, error: ProgramError) -> ProgramError:
    if isinstance(error, Temporary):  # the unit is started again, so this isn't the end
        progress.say(f"{error} Trying again; what is done stays.")
    else:
        progress.fail(str(error))
    return error


def _parser() -> argparse.ArgumentParser:
    keys = "".join(f"\n  {field.name:13} {field.metadata['help']}" for field in dataclasses.fields(InferConfig))
    parser = argparse.ArgumentParser(
        prog="python -m flotilla.infer",
        description=__doc__,
        epilog=f"keys of the configuration, a JSON object:{keys}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["check", "run"], help="judge everything and say what it is, or do it")
    parser.add_argument("--config", required=True, metavar="FILE", help="the configuration; - reads it from stdin")
    parser.add_argument("--slots", type=int, default=1, metavar="N", help="of check: how many tasks run at a time")
    parser.add_argument("--hourly", type=float, default=0, metavar="$", help="of check: what the fleet costs an hour")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print a JSON object and return 0; 2 bad input, 3 data differ, 75 temporary failure, with one sentence."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    args = _parser().parse_args(argv)
    try:
        config = load_config(args.config)
        with contextlib.redirect_stdout(sys.stderr):  # what the user's functions print isn't the answer
            outcome = check(config, args.slots, args.hourly) if args.command == "check" else _run(config)
    except FileNotFoundError as error:
        print(f"flotilla.infer: {error} is gone.", file=sys.stderr)
        return Temporary.code
    except ProgramError as error:
        print(f"flotilla.infer: {error}", file=sys.stderr)
        return error.code
    with contextlib.suppress(BrokenPipeError):
        print(jsons.dumps(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
