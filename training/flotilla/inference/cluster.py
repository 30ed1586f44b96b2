"""The parts of a job over Spark's executors, or in this process alone."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from flotilla.inference import part
from flotilla.inference.inputs import Part
from flotilla.inference.part import Job, Summary
from flotilla.job.errors import BadInput, Temporary
from flotilla.storage import hdfs
from flotilla.supervision import watchdog

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.accumulators import Accumulator

LOOK_SECS = 1.0
STILL_SECS = 60
ATTEMPTS = 8  # of a part, two of which find out which input ends the process
_SAID = re.compile(r"flotilla\.job\.errors\.(\w+): (.*)")
_RAISED = re.compile(r"[A-Za-z_.]+(Error|Exit|Interrupt): \S")  # as a Python traceback ends
_log = logging.getLogger(__name__)


def run(
    job: Job,
    parts: Sequence[Part],
    told: Callable[[Summary], None],
    stop: Callable[[], bool],
    began: Callable[[], None],
) -> dict[str, float]:
    """Work through the parts; `told` hears of each that is done, in this thread, until `stop` says that it is enough.

    `began` is called when executors can be given work. Returns Spark's own figures of it, in seconds. Raises BadInput
    or Temporary.
    """
    if not job.config.master:
        began()
        for one in parts:
            if stop():
                break
            told(part.classify(job, one))
        return {}
    context = _connect(job)
    over = threading.Event()
    threading.Thread(target=_watch, args=[_page(context), over], name="java", daemon=True).start()
    try:
        began()
        _over(context, job, parts, told, stop)
        return _figures(context)
    finally:
        over.set()
        with contextlib.suppress(Exception):  # its Java may be gone
            context.stop()


def _connect(job: Job) -> SparkContext:
    from pyspark import SparkConf, SparkContext

    config = job.config
    os.environ["PYSPARK_PYTHON"] = config.python  # a setting of Spark's is ignored here
    conf = SparkConf().setMaster(config.master).setAppName(config.name)
    for name, value in {
        "spark.driver.host": config.address,
        "spark.driver.bindAddress": config.address,
        "spark.eventLog.enabled": "true" if config.event_log else "false",
        "spark.eventLog.dir": config.event_log,
        "spark.task.maxFailures": str(ATTEMPTS),
        # The end of a job isn't that of its slowest host: what takes much longer there is tried elsewhere, too.
        "spark.speculation": "true",
        "spark.speculation.quantile": "0.75",
        "spark.speculation.multiplier": "2",
        "spark.speculation.minTaskRuntime": "10s",
        "spark.python.worker.reuse": "true",
        "spark.ui.showConsoleProgress": "false",
        **_elsewhere(_hosts()),
    }.items():
        if value:
            conf.set(name, value)
    if config.event_log:
        hdfs.write(hdfs.join(config.event_log, ".folder"), b"")  # Spark wants its folder to be there
    try:
        return SparkContext(conf=conf)
    except Exception as error:  # of Java's, through py4j
        said = str(error).strip().splitlines()[0]
        raise Temporary(
            f"Spark can't be reached at {config.master} ({said}): see journalctl -u spark-master on its host; a wrong "
            "secret looks the same (/etc/spark/spark-defaults.conf, the same on all hosts)."
        ) from error


def _hosts() -> int:
    """Return how many hosts have a Worker, as the Master's page on this host says; 1 where it says nothing."""
    try:
        workers: list[Mapping[str, str]] = json.loads(_ask("http://127.0.0.1:8080/json/"))["workers"]
        return len({one["host"] for one in workers if one["state"] == "ALIVE"}) or 1
    except (OSError, ValueError, KeyError):
        return 1


def _elsewhere(hosts: int) -> dict[str, str]:
    """Have a part that fails tried on other hosts, too: one that is broken would else fail it eight times in seconds.

    It is the only thing that a host is left out for: an input that ends processes does that on all of them.
    """
    most = max(2, -(-ATTEMPTS // hosts))  # attempts of a part on a host
    if most >= ATTEMPTS:
        return {}
    prefix = "spark.excludeOnFailure"
    return {
        f"{prefix}.taskAndStage.enabled": "true",
        f"{prefix}.task.maxTaskAttemptsPerExecutor": str(most),
        f"{prefix}.task.maxTaskAttemptsPerNode": str(most),
        f"{prefix}.stage.maxFailedTasksPerExecutor": str(2**31 - 1),
    }


def _over(
    context: SparkContext,
    job: Job,
    parts: Sequence[Part],
    told: Callable[[Summary], None],
    stop: Callable[[], bool],
) -> None:
    from pyspark import InheritableThread
    from pyspark.accumulators import AccumulatorParam

    class Lists(AccumulatorParam):  # type: ignore[misc]  # pyspark isn't here where types are judged
        """Gathers what tasks say."""

        def zero(self, value: list[Summary]) -> list[Summary]:
            return []

        def addInPlace(self, value1: list[Summary], value2: list[Summary]) -> list[Summary]:
            value1.extend(value2)
            return value1

    gathered: Accumulator[list[Summary]] = context.accumulator([], Lists())
    problems: list[Exception] = []

    def distribute() -> None:
        try:
            context.parallelize(parts, len(parts)).foreach(_Task(job, gathered))
        except Exception as error:  # of Java's, through py4j
            problems.append(error)

    thread = InheritableThread(target=distribute)
    thread.start()
    heard: set[int] = set()

    def hear() -> None:
        for summary in list(gathered.value):
            if summary["part"] not in heard:
                heard.add(summary["part"])
                told(summary)

    while thread.is_alive():
        thread.join(LOOK_SECS)
        hear()
        if stop():
            with contextlib.suppress(Exception):  # its Java may be gone
                context.cancelAllJobs()
            thread.join(30)
            return
    hear()
    if stop():
        return
    if problems:
        raise _explain(problems[0])
    for _attempt in range(50):  # what the last tasks have said may still be on its way
        if len(heard) == len(parts):
            return
        time.sleep(0.1)
        hear()


def _page(context: SparkContext) -> str:
    """Return where Spark's driver tells what is done, on loopback."""
    address = f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages?status=complete"
    return re.sub(r"//[^/:]+", "//127.0.0.1", address)


def _ask(page: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy: this is loopback
    with opener.open(page, timeout=5) as answer:
        return bytes(answer.read())


def _watch(page: str, over: threading.Event) -> None:
    """End this process, to be started again, where its Java stands still: whatever waits for that would for ever."""
    heard = time.monotonic()
    while not over.wait(LOOK_SECS * 5):
        try:
            _ask(page)
            heard = time.monotonic()
        except OSError:
            if time.monotonic() - heard > STILL_SECS and not over.is_set():
                _log.error("Spark's driver, the Java beside this process, hasn't answered for %d s.", STILL_SECS)
                watchdog.leave(Temporary.code)


def _figures(context: SparkContext) -> dict[str, float]:
    """Return what Spark's page says of the job, in seconds; nothing where it doesn't answer.

    elapsedTime is from the first task's begin to the last one's end. The processor's time is that of Java's threads
    alone: Python's is told by the tasks.
    """
    units = {"executorRunTime": 1e3, "executorCpuTime": 1e9, "executorDeserializeTime": 1e3, "jvmGcTime": 1e3}
    try:
        stages: list[Mapping[str, str | float]] = json.loads(_ask(_page(context)))
        elapsed = sum(_moment(one["completionTime"]) - _moment(one["firstTaskLaunchedTime"]) for one in stages)
    except (OSError, ValueError, KeyError):
        return {}
    figures = {name: sum(float(one.get(name, 0)) for one in stages) / unit for name, unit in units.items()}
    return {name: round(value, 3) for name, value in {"elapsedTime": elapsed, **figures}.items()}


def _moment(text: str | float) -> float:
    """Return the seconds of a time as Spark writes it, 2026-01-02T03:04:05.678GMT."""
    return datetime.datetime.strptime(str(text).replace("GMT", "+0000"), "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()


class _Task:
    """What an executor runs for each part."""

    def __init__(self, job: Job, gathered: Accumulator[list[Summary]]) -> None:
        self._job, self._gathered = job, gathered

    def __call__(self, one: Part) -> None:
        from pyspark import TaskContext

        claim_gpu(self._job.config.models_dir)
        context = TaskContext.get()
        attempt = context.attemptNumber() if context else 0
        self._gathered.add([part.classify(self._job, one, attempt)])


_claimed: list[TextIOWrapper] = []  # kept open, for the lock that goes with it


def claim_gpu(folder: str) -> None:
    """Keep this process to a GPU that no other one of this host has; role spark says how many there are."""
    count = int(os.environ.get("FLOTILLA_GPUS", "0"))
    if count < 2 or _claimed or "CUDA_VISIBLE_DEVICES" in os.environ:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        lock = (Path(folder) / f".gpu-{number}").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _claimed.append(lock)
        os.environ.update(CUDA_DEVICE_ORDER="PCI_BUS_ID", CUDA_VISIBLE_DEVICES=str(number))
        return
    raise Temporary(f"All {count} GPUs of this host are taken by other tasks.")


def _explain(error: Exception) -> Exception:
    """Return what a task has raised at last, as an error of ours."""
    text = str(error)
    said = _SAID.findall(text)
    if said:
        kind, sentence = said[-1]
        return (BadInput if kind in ("BadInput", "Denied") else Temporary)(sentence.strip())
    raised = [line.strip() for line in text.partition("Driver stacktrace")[0].splitlines() if _RAISED.match(line)]
    line = raised[-1] if raised else next((line for line in text.splitlines() if "Job aborted" in line), text[:300])
    return Temporary(f"Spark gave the job up: {line.strip()}")
