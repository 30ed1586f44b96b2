"""What the page of sweeps knows: the table that was given, the sweep that is made of it, and the one that runs.

It is the program's, not a browser's: all of them see the same, and a reload loses nothing. What takes long, or much
memory, is done in processes of their own. NiceGUI isn't imported here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import psycopg
import yaml

from flotilla.job import documents
from flotilla.job.errors import BadInput, ProgramError, Temporary, cause
from flotilla.storage.files import open_folder
from flotilla.storage.s3 import Prefix
from flotilla.supervision import progress
from flotilla.supervision.progress import Report, write_json
from flotilla.sweep import columns, control, plan, report, results, stored, table
from flotilla.sweep.columns import Column, Judged
from flotilla.sweep.ledger import Ledger, Trial
from flotilla.sweep.plan import Sweep
from flotilla.sweep.settings import SweepConfig, load_config
from flotilla.sweep.values import Scalar

T = TypeVar("T")
MOST_BYTES = 2 * 10**9  # of a file that is uploaded
LEFT_BYTES = 2 * 2**30  # of the disk, that stay free
MOST_NAME = 200  # bytes
BEST = 10
DRAWN_SECS = 30.0  # between two times that the pictures are made
SILENT_SECS = 60.0  # without news from the lead
_LOOKED = 64 * 2**20  # bytes between two looks at the disk
_VALUES = 6  # of a column, that are shown
_UNITS = ("training@*.service", "flotilla-infer.service")
VARY = """\
vary:
  layers: [1, 2, 3]
  nodes: {from: 4, to: 32, step: 4}
  activation: [relu, tanh]
  optimizer: [adam, rmsprop]
  learning_rate: {from: 0.001, to: 0.1, scale: log}
"""


@dataclasses.dataclass(frozen=True)
class Fleet:
    """Where files, results and tables go, and how long a network may take."""

    folder: Path
    target: str
    shared: str
    trial_secs: float


class Source(NamedTuple):
    """A table's file, and what `data` says of it in the sweep's."""

    data: str
    file: Path

    @property
    def name(self) -> str:
        return self.data.rpartition("/")[2]


class Asked(NamedTuple):
    """What a sweep's file says of its table."""

    label: str
    task: str = "auto"
    ways: tuple[tuple[str, str], ...] = ()
    categories: int = 100


class Looked(NamedTuple):
    """What is known of a table."""

    asked: Asked
    digest: str
    columns: tuple[str, ...]
    rows: list[dict[str, str]]  # for each column, what is known of it
    says: list[str]
    wrong: str  # with this label


class Checked(NamedTuple):
    """A sweep that can be started."""

    text: str
    name: str
    config: SweepConfig
    says: list[str]
    stored: bool  # all of it, already


def _answered(answers: Connection[object, object], ask: Callable[[], object]) -> None:
    os.setsid()  # so that what it starts ends with it
    try:
        answers.send((True, ask()))
    except ProgramError as error:
        answers.send((False, error))
    except Exception as error:
        answers.send((False, ProgramError(f"{type(error).__name__}: {cause(error)}. Please report this.")))


class Work(Generic[T]):
    """A question that a process of its own answers: that takes its memory with it, and can be given up."""

    def __init__(self, ask: Callable[[], T]) -> None:
        context = get_context("spawn")
        self._answers, answers = context.Pipe(duplex=False)
        self._process = context.Process(target=_answered, args=(answers, ask))
        self._process.start()
        answers.close()

    async def answer(self) -> T:
        """Return the answer; raise ProgramError."""
        return await asyncio.to_thread(self._wait)

    def _wait(self) -> T:
        try:
            good, found = self._answers.recv()
        except EOFError:
            raise Temporary("The process that worked on it ended: has this host too little memory?") from None
        finally:
            self._process.join()
        if not good:
            raise found
        answer: T = found
        return answer

    def give_up(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it hasn't come as far, or is over
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()


def fit_name(name: str) -> str:
    """Return a file's name, or raise BadInput where it is none to use."""
    shown = f"'{name[:60]}'"
    if not name or name.startswith(".") or re.search(r"[/\\]", name) or not name.isprintable():
        raise BadInput(f"{shown} is no name for a file here: name it without slashes and without a dot in front.")
    if len(name.encode()) > MOST_NAME:
        raise BadInput(f"{shown}… has a name of more than {MOST_NAME} bytes: give it a shorter one.")
    if name.lower().endswith((".yml", ".yaml")):
        raise BadInput(f"{shown} is no table: give the table first, and then edit the sweep's text on this page.")
    return name


def too_large(name: str, most: int) -> str:
    return f"{name} is larger than {most / 10**9:.2g} GB: put it into S3, and give its address here."


def room(folder: Path, size: int, name: str) -> None:
    """Raise BadInput where a disk hasn't that much room, and some left."""
    if shutil.disk_usage(folder).free < size + LEFT_BYTES:
        raise BadInput(f"There is too little room for {name} on the fleet's first host: put it into S3, or make room.")


def fetch(address: str, file: Path) -> Path:
    """Copy a table from S3; raise BadInput where it isn't there."""
    above, _slash, name = address.rpartition("/")

    def told(size: int, _crc: str | None) -> None:
        room(file.parent, size, name)

    try:
        with file.open("wb") as opened:
            opened.writelines(Prefix(above).stream(name, told=told))
    except FileNotFoundError:
        raise BadInput(f"There is no {address}: correct it, or upload it.") from None
    except OSError as error:
        raise Temporary(f"{name} can't be written: {error.strerror}.") from error
    return file


def look(source: Source, asked: Asked | None) -> Looked:
    """Judge a table, by default for its last column; raise BadInput where it can't be read."""
    with tempfile.TemporaryDirectory(dir=source.file.parent, prefix=".work") as work:
        found = table.read(source.file, source.name, Path(work))
        digest = table.digest(source.file)
        asked = asked or Asked(found.columns[-1])
        size = f"{table.counted(found.rows, 'row')}, {table.counted(len(found.columns), 'column')}"
        if found.separator:
            size += f", separated by {table.SEPARATORS.get(found.separator, found.separator)}"
        says = [f"{size}.", *(f"{one[0].upper()}{one[1:]}." for one in found.notes)]
        try:
            judged = columns.judge(found, asked.label, asked.task, dict(asked.ways), asked.categories)
        except BadInput as error:
            return Looked(asked, digest, found.columns, [], says, str(error))
        says += _doubts(judged)
        rows = [
            *(_row(one) for one in judged.columns),
            {"name": asked.label, "use": "label", "missing": str(judged.label.missing or ""), **_label(judged)},
        ]
        rows.sort(key=lambda row: found.columns.index(row["name"]))
        return Looked(asked, digest, found.columns, rows, says, "")


def _doubts(judged: Judged) -> list[str]:
    """Say where the first line may be a row: table.read refuses it only where it has numbers."""
    label = judged.label
    names = [one.name for one in judged.columns if one.name in one.values]
    names += [label.name] * (label.name in label.classes)
    if not names:
        return []
    return [
        f"Is the first line a row? It is taken for the columns' names, but {', '.join(names[:4])} is a value below, "
        "too. If it is a row, add a line with names before it, and give the file again."
    ]


def _label(judged: Judged) -> dict[str, str]:
    label = judged.label
    if label.task == "regression":
        found = {"kind": "number", "distinct": "", "values": f"{label.least:.6g} to {label.most:.6g}"}
        what = "a number to predict"
    else:
        shown = ", ".join(f"{name} ({count})" for name, count in list(label.classes.items())[:_VALUES])
        found = {"kind": "classes", "distinct": str(len(label.classes))}
        found["values"] = shown + (", …" if len(label.classes) > _VALUES else "")
        what = f"{len(label.classes)} classes to tell apart"
    return {**found, "becomes": "; ".join([what, *label.notes])}


def _row(column: Column) -> dict[str, str]:
    values = ""
    if column.number and column.least is not None:
        values = f"{column.least:.6g} to {column.most:.6g}"
    elif column.values:
        values = ", ".join(list(column.values)[:_VALUES]) + (", …" if len(column.values) > _VALUES else "")
    becomes = [one.removeprefix("left out: ") for one in column.notes]
    if column.used:
        count = len(column.values)
        first = "a number from 0 to 1" if column.number else f"{table.counted(count, 'number')}, one for each value"
        if column.missing:
            first += ", the median where it is missing" * column.number + ", and one that says whether it is missing"
        becomes.insert(0, first)
    return {
        "name": column.name, "kind": column.kind, "use": "used" if column.used else "left out", "values": values,
        "missing": str(column.missing or ""), "becomes": "; ".join(becomes),
        "distinct": f"over {column.distinct}" if column.more else str(column.distinct),
    }  # fmt: skip


def written(text: str, key: str, value: Scalar) -> str:
    """Return a sweep's text with another value of a key, in its line or in a new one."""
    line = yaml.safe_dump({key: value}, allow_unicode=True, width=10**6)
    if line.count("\n") > 1 or content_of(line).get(key) != value:  # YAML 1.2 reads 1e3 as a number
        line = f"{key}: {json.dumps(value, ensure_ascii=False)}\n"
    new, count = re.subn(rf"^{key} *:.*\n?", lambda _found: line, text, count=1, flags=re.MULTILINE)
    return new if count else f"{text.rstrip()}\n{line}".lstrip()


@functools.lru_cache(maxsize=4)
def content_of(text: str) -> Mapping[str, object]:
    """Return what a sweep's text says, as far as it can be read."""
    try:
        content = documents.parse(text, "", "sweep").content
    except BadInput:
        return {}
    return content if isinstance(content, dict) else {}


def right(text: str, name: str, source: Source) -> Sweep:
    """Judge a sweep's text; raise BadInput."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
        raise BadInput(f"'{name}' is no name for a sweep: use up to 60 letters, digits, - and _.")
    document = documents.parse(text, f"{name}.yml", "sweep")
    if isinstance(document.content, dict) and isinstance(document.content.get("network"), str):
        raise document.wrong(("network",), "this page has no other files: write the network's content here.")
    sweep = plan.judge(document)
    if sweep.data != source.data:
        raise sweep.document.wrong(("data",), f"data has to be {source.data}, the table above.")
    return sweep


def draw(config: SweepConfig, folder: Path) -> None:
    """Write the report of all rows so far, and these as files, into a folder."""
    try:
        description = json.loads(b"".join(open_folder(config.shared).read(stored.DESCRIPTION)))
    except FileNotFoundError:
        raise Temporary("There is nothing to show yet: the table is being prepared.") from None
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work, _trials(config) as rows:
        if rows.is_empty():
            raise Temporary("There is nothing to show yet: no network has begun.")
        frame = results.frame(one._asdict() for one in rows.trials())  # type: ignore[misc]  # a Trial has a Row's fields
        results.write(frame, Path(work))
        page = report.render(frame, plan.load(config.sweep), description)
        (Path(work) / report.NAME).write_text(page, encoding="utf-8")
        for file in Path(work).iterdir():
            file.replace(folder / file.name)


def best(config: SweepConfig) -> list[Trial]:
    """Return the best networks so far."""
    with _trials(config) as rows:
        return [] if rows.is_empty() else rows.best(BEST)


@contextlib.contextmanager
def _trials(config: SweepConfig) -> Iterator[Ledger]:
    rows = Ledger(f"dbname={config.database}", patience=0)
    try:
        yield rows
    except psycopg.Error as error:
        raise Temporary(f"PostgreSQL: {cause(error)}.") from error
    finally:
        rows.close()


def trained() -> str:
    """Return the units of this host that train or infer; nothing where there is no systemd."""
    if not shutil.which("systemctl"):
        return ""
    command = ["systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating", *_UNITS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return ", ".join(line.split()[0] for line in done.stdout.splitlines() if line.strip())


class State:
    """All that the page shows, and what its buttons do; a sentence says what went wrong."""

    def __init__(self, fleet: Fleet, check: Callable[[SweepConfig], dict[str, object]]) -> None:
        self._fleet, self._check = fleet, check
        self._uploads, self._file = fleet.folder / "uploads", fleet.folder / "page.json"
        self.result = fleet.folder / "result"
        self._uploads.mkdir(parents=True, exist_ok=True)
        self._clean()
        self.sentence = self.doing = ""
        self.source: Source | None = None
        self.looked: Looked | None = None
        self.name = self.text = self.wrong = ""
        self.checked: Checked | None = None
        self.running = False  # a sweep is to run
        self.config: SweepConfig | None = None  # of it, or of the last one
        self.report: Report | None = None
        self.best: list[Trial] = []
        self.trouble = ""  # why that isn't known
        self.drawn: tuple[SweepConfig, float, str] | None = None  # what the pictures show
        self.undrawn = ""  # why there are none
        self._drew = 0.0
        self._content: Mapping[str, object] = {}  # of the text, when it could be read last
        self._read = ("", "")  # text and name that were judged
        self._asking: Asked | None = None
        self._work: Work[object] | None = None
        self._made: Path | None = None  # by the last check
        self._tasks: set[asyncio.Task[None]] = set()
        with contextlib.suppress(ProgramError):
            self.config = load_config(self._file)
        left = [one for one in self._uploads.iterdir() if one.is_file() and not one.name.startswith(".")]
        if left:  # an upload before this host was started again
            self.source = Source(left[0].name, left[0])

    # The table

    async def receive(self, name: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Take a table's file; raise BadInput."""
        fit_name(name)
        if size > MOST_BYTES:
            raise BadInput(too_large(name, MOST_BYTES))
        part, got, due = self._begin(f"Receiving {name}"), 0, 0
        try:
            with part.open("wb") as file:
                async for chunk in chunks:
                    got += len(chunk)
                    if got >= due:
                        room(self._uploads, max(0, size - got), name)
                        due = got + _LOOKED
                    if got > MOST_BYTES:
                        raise BadInput(too_large(name, MOST_BYTES))
                    file.write(chunk)
            self._take(Source(name, self._uploads / name), part)
        except OSError as error:
            raise Temporary(f"{name} can't be written: {error.strerror}.") from error
        finally:
            part.unlink(missing_ok=True)
            self.doing = ""

    async def bring(self, address: str) -> None:
        """Take a table from S3."""
        address = address.strip()
        if not re.fullmatch(r"s3://[^/?#]+/(.*[^/])", address):
            self.sentence = f"'{address}' is no file in S3: write it as s3://bucket/folder/file."
            return
        with self.said():
            name = fit_name(address.rpartition("/")[2])
            part = self._begin("")
            if await self._ask(f"Copying {name} from S3", functools.partial(fetch, address, part)):
                self._take(Source(address, self._uploads / name), part)

    def _begin(self, doing: str) -> Path:
        if self.running:
            raise BadInput("A sweep is running: wait until it is done, or stop it, before you give another table.")
        if self.doing:
            raise BadInput(f"One thing at a time: {self.doing[0].lower()}{self.doing[1:]}.")
        self.doing, self.sentence = doing, ""
        return self._uploads / ".part"

    def _take(self, source: Source, part: Path) -> None:
        self.drop()
        part.replace(source.file)
        self.source = source

    def drop(self) -> None:
        """Forget the table, and what was made of it."""
        self.give_up()
        self._forget()
        if self.source:
            self.source.file.unlink(missing_ok=True)
        self.source = self.looked = self.checked = self._asking = None
        self._content = {}
        self.name = self.text = self.wrong = ""

    async def _look(self, source: Source, asked: Asked | None) -> None:
        self._asking = asked
        found = await self._ask(f"Looking through {source.name}", functools.partial(look, source, asked))
        if self.source != source:
            return
        if found is None and not self.looked and not self.doing:  # it can't be read
            self.drop()
        elif found is None:
            self._asking = None  # so that it is asked again when the text changes
        elif not self.looked:
            stem = re.sub(r"[^A-Za-z0-9_-]+", "-", source.name.partition(".")[0])[:60].strip("-")
            self.name = stem or "sweep"
            lines = [written("", key, value) for key, value in (
                ("data", source.data), ("label", found.asked.label), ("trials", plan.SOURCE_TRIALS),
                ("how", plan.RANDOM), ("epochs", plan.EPOCHS),
            )]  # fmt: skip
            self.text = "".join([*lines, VARY])
        self.looked = found or self.looked

    # The sweep's text, whose keys are fields, too

    def _field(self, key: str, default: object) -> object:
        self._content = content_of(self.text) or self._content
        return self._content.get(key, default)

    def _write(self, key: str, value: Scalar | None) -> None:
        if value is not None and self.source:
            self.text = written(
                self.text, key, int(value) if isinstance(value, float) and value.is_integer() else value
            )

    @property
    def label(self) -> str | None:
        """Return the column that is learned."""
        found = self._field("label", None)
        return found if isinstance(found, str) and self.looked and found in self.looked.columns else None

    @label.setter
    def label(self, value: str | None) -> None:
        self._write("label", value)

    @property
    def how(self) -> str:
        """Return how networks are chosen."""
        found = self._field("how", plan.RANDOM)
        return found if isinstance(found, str) and found in (plan.RANDOM, plan.GRID, plan.TPE) else plan.RANDOM

    @how.setter
    def how(self, value: str | None) -> None:
        self._write("how", value)

    @property
    def trials(self) -> float | None:
        """Return how many networks are asked for."""
        return _number(self._field("trials", None))

    @trials.setter
    def trials(self, value: float | None) -> None:
        self._write("trials", value)

    @property
    def epochs(self) -> float | None:
        """Return the epochs of each network."""
        return _number(self._field("epochs", None))

    @epochs.setter
    def epochs(self, value: float | None) -> None:
        self._write("epochs", value)

    # Check and start

    async def check(self) -> None:
        """Judge the sweep, and try some networks."""
        source, looked, text, name = self.source, self.looked, self.text, self.name
        if not source or not looked:
            return
        self.checked = None
        self._forget()
        with self.said():
            await asyncio.to_thread(right, text, name, source)
            config = self._config(source, looked.digest if source.data == source.name else "", text, name)
            found = await self._ask("Trying some networks", functools.partial(self._check, config))
            if found and (text, name) == (self.text, self.name):
                says = found["says"]
                assert isinstance(says, list)
                self.checked = Checked(text, name, config, says[says.index("") + 1 :], bool(found["done"]))

    def _config(self, source: Source, digest: str, text: str, name: str) -> SweepConfig:
        fleet = self._fleet
        target = f"{fleet.target.rstrip('/')}/{name}/"
        number, here = control.directory(fleet.folder, text, digest, target)
        file = here / f"{name}.yml"
        if not file.exists():
            self._made = here
        file.write_text(text, encoding="utf-8")
        if digest and not (here / source.name).exists():
            os.link(source.file, here / source.name)
        return SweepConfig(
            sweep=str(file), table=str(here / control.TABLE), target=target,
            shared=f"{fleet.shared.rstrip('/')}/{number}", database=f"sweep_{number}", trial_secs=fleet.trial_secs,
            progress=str(fleet.folder / "progress/sweep.json"), done_file=str(fleet.folder / "sweep.done"),
        )  # fmt: skip

    def _forget(self) -> None:
        """Remove the files of a sweep that was checked, and not started."""
        if self._made:
            shutil.rmtree(self._made, ignore_errors=True)
        self._made = None

    @property
    def ready(self) -> Checked | None:
        """Return what was checked, unless something was changed since."""
        found = self.checked
        return found if found and (found.text, found.name) == (self.text, self.name) else None

    async def start(self, config: SweepConfig) -> None:
        """Have a sweep run."""
        with self.said():
            self.sentence = ""
            if units := await asyncio.to_thread(trained):
                raise BadInput(f"A training or an inference runs on the fleet ({units}): wait until it is done.")
            if control.now(self._fleet.folder):
                raise BadInput("A sweep is running already: wait until it is done, or stop it.")
            for old in (config.progress, config.done_file):  # of the last one
                Path(old).unlink(missing_ok=True)
            control.begin(self._fleet.folder, config)
            self.checked = self._made = None
            self.best = []
            self._see()

    def stop(self) -> None:
        """Have the sweep end; what is done stays."""
        control.stop(self._fleet.folder)
        self._see()

    # Processes

    async def _ask(self, doing: str, ask: Callable[[], T]) -> T | None:
        """Return what a process answers; nothing where it is given up, or says what is wrong."""
        self.give_up()
        work = Work(ask)
        self._work, self.doing, self.sentence = work, doing, ""  # type: ignore[assignment]
        try:
            found = await work.answer()
            return found if self._work is work else None
        except ProgramError as error:
            if self._work is work:
                self.sentence = str(error)
        finally:
            if self._work is work:
                self._work, self.doing = None, ""
        return None

    @property
    def asks(self) -> bool:
        """Whether something is done that can be given up."""
        return self._work is not None

    def give_up(self) -> None:
        """End what a process is asked."""
        if self._work:
            self._work.give_up()
            self._work, self.doing = None, ""
            self._clean()

    def _clean(self) -> None:
        """Remove what was unpacked by a process that couldn't."""
        for left in self._uploads.glob(".work*"):
            shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def said(self) -> Iterator[None]:
        """Have the page say what goes wrong."""
        try:
            yield
        except ProgramError as error:
            self.sentence = str(error)
        except OSError as error:
            self.sentence = f"{error.filename or 'A file'} can't be used: {error.strerror}."

    # What happens

    async def tick(self) -> None:
        """Look at the sweep that runs, and at the text; is called again and again."""
        self._see()
        if not self.source:
            return
        if not self.looked:
            if not self.doing:
                self._spawn(self._look(self.source, None))
            return
        if (self.text, self.name) == self._read:
            return
        source, read = self.source, (self.text, self.name)
        try:
            sweep = await asyncio.to_thread(right, *read, source)
        except BadInput as error:
            self.wrong = str(error)
        else:
            self.wrong = ""
            asked = Asked(sweep.label, sweep.task, tuple(sweep.columns.items()), sweep.categories)
            if source == self.source and asked not in (self.looked and self.looked.asked, self._asking):
                self._spawn(self._look(source, asked))
        self._read = read

    def _spawn(self, doing: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _see(self) -> None:
        with self.said():
            now = control.now(self._fleet.folder)
            self.running = now is not None
            if now and now != self.config:
                self.config, self.best, self.trouble = now, [], ""
                write_json(self._file, dataclasses.asdict(now))
        if not self.config:
            return
        self.report = progress.read(self.config.progress)

    @property
    def phase(self) -> str:
        """Return what the sweep that runs, or the last one, is: running, stopping, stopped, failed or done."""
        if self.running:
            return "running"
        if self.report and self.report["state"] == "running":
            return "stopping" if time.time() < self.report["updated"] + SILENT_SECS else "stopped"
        return self.report["state"] if self.report else "stopped"

    async def see_best(self) -> None:
        """Ask the database for the best networks."""
        if not (config := self.config):
            return
        try:
            found, trouble = await asyncio.to_thread(best, config), ""
        except ProgramError as error:
            found, trouble = self.best, str(error)
        if config == self.config:
            self.best = found
            self.trouble = "" if "does not exist" in trouble else trouble  # the database isn't made yet

    async def draw(self) -> None:
        """Have a process make the report of all rows so far, where more networks are done than it shows."""
        if not (config := self.config) or not self.report:
            return
        wanted = (config, self.report["done"], self.phase)
        over = self.phase not in ("running", "stopping")
        soon = not self.undrawn and (over or not self.drawn or self.drawn[0] != config)
        late = time.monotonic() > self._drew + DRAWN_SECS
        if wanted == self.drawn or not (soon or late) or not (over or wanted[1] >= 2):
            return
        self._drew = time.monotonic()
        try:
            await Work(functools.partial(draw, config, self.result)).answer()
            self.drawn, self.undrawn = wanted, ""
        except ProgramError as error:
            self.undrawn = str(error)


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
