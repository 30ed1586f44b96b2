"""What `scripts/watch --json` prints: one object of all that a fleet's hosts say of the job.

Its schema is `Summary`, here at the top. What a host says, `HostReport`, comes from flotilla-status --tasks
(training/flotilla/status.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import time
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypedDict

SILENT_SECS = 20  # a trainer tells something every 5 s

State = Literal["waiting", "training", "storing", "inferring", "sweeping", "done", "failed", "stopped", "gone"]
Beside = Literal["infer", "sweep"]
# What runs in a training's place, by its phase: what it is called where a training's job has its name, the state in
# which it runs, and what is said of it where it was ended
BESIDE: dict[Beside, tuple[str, State, str]] = {
    "infer": ("inference", "inferring", "not all inputs are classified: start it again by playbooks/infer.yml"),
    "sweep": ("sweep", "sweeping", "not all networks are trained: start it again by playbooks/sweep.yml"),
}


# What --json prints


class Evaluation(TypedDict):
    """What an evaluation of the model came to."""

    step: int  # the global step of the checkpoint that was evaluated
    accuracy: float  # 0 to 1
    loss: float


class TaskSummary(TypedDict):
    """A training task."""

    task: str  # ps-0, chief-0, worker-0, evaluator-0, …
    host: str  # as the inventory calls it
    state: str  # running, starting, restarting, ending, ended, failed (why), silent for m:ss, or no answer for m:ss
    device: str | None  # what it computes on
    step: int | None  # its last global step
    steps_per_second: float | None  # its own; likewise the next two, while it runs
    examples_per_second: float | None
    staleness: float | None  # of asynchronous training: how many steps others made between its reading and its writing
    restarts: int  # by systemd
    memory: int | None  # bytes
    problem: str  # why it failed, or what it waits for; empty without


class HostSummary(TypedDict):
    """A host."""

    host: str  # as the inventory calls it
    answers: bool  # whether it has answered within SILENT_SECS
    problem: str  # why it can't be asked; empty without
    doing: str  # what it did last, such as `stage 40 %`


class HdfsHealth(TypedDict, total=False):
    """HDFS, as the NameNode sees it; `problem` alone where it doesn't answer."""

    problem: str  # empty without
    live: list[str]  # DataNodes' hosts
    dead: list[str]
    missing: int  # blocks of which there is no copy
    under_replicated: int  # blocks of which there are too few copies
    used: int  # bytes
    capacity: int  # bytes
    safe_mode: bool


class StoreSummary(TypedDict):
    """Storing the model in S3."""

    state: str  # running, done or failed
    done: int  # of total objects
    total: int
    message: str


class MirrorSummary(TypedDict):
    """The mirror of the checkpoints in S3."""

    state: str  # running, done or failed
    done: int  # the global step of the last checkpoint that is in S3
    message: str


class InferenceSummary(TypedDict):
    """An inference."""

    done: int  # of total inputs
    total: int  # 0 while nobody knows
    broken: int  # those that couldn't be classified
    inputs_per_second: float | None  # of all hosts together
    accuracy: float | None  # 0 to 1, of the inputs with a label


class SweepSummary(TypedDict):
    """A sweep."""

    done: int  # networks that have ended, of total
    total: int
    failed: int
    networks_per_minute: float | None  # of all hosts together
    best: float | None  # accuracy, or R2


class Summary(TypedDict):
    """All that is known of a fleet and its job, at one time."""

    time: float  # seconds since the epoch
    fleet: str | None  # its name
    job: str | None  # its name, or inference, or sweep; None before a host has one
    state: State  # of the job; gone: there is no fleet (any more)
    message: str  # a sentence about the state; often empty
    step: int  # the training's global step
    max_steps: int | None  # where training ends
    loss: float | None  # of the chief's last report, as accuracy
    accuracy: float | None
    steps_per_second: float | None
    examples_per_second: float | None  # of all workers together
    time_left: int | None  # seconds of training, inference or sweep, at its present pace
    evaluation: Evaluation | None  # the last one
    expires: str | None  # when the first host powers itself off, ISO 8601 in UTC
    expires_in: int | None  # seconds until then
    tasks: list[TaskSummary]
    hosts: list[HostSummary]
    hdfs: HdfsHealth | None  # None before it is there
    store: StoreSummary | None  # None before it begins
    mirror: MirrorSummary | None  # None without one
    inference: InferenceSummary | None  # None unless it is the job: it runs, or is newer than all else
    sweep: SweepSummary | None  # likewise


# What a host says


class Unit(TypedDict):
    """A unit of systemd's."""

    active: str  # active, activating, inactive, failed, …
    sub: str  # running, dead, auto-restart, …
    result: str  # of its last end: success, exit-code, …
    restarts: int
    since: float  # when it came into this state, in seconds since the epoch
    memory: int | None  # bytes


class TaskReport(TypedDict, total=False):
    """What a training task says of itself, in a file."""

    job: str
    task: str
    updated: float  # seconds since the epoch; always there
    device: str
    step: int
    steps_per_second: float
    examples_per_second: float
    staleness: float
    accuracy: float  # of an evaluation, as loss
    loss: float
    warning: str  # what it waits for
    problem: str  # why it has failed


class TaskUnit(Unit):
    """A training task: its unit, and what it says itself."""

    told: TaskReport | None


class Detail(TypedDict, total=False):
    """Numbers of a progress, as far as it has such."""

    loss: float
    accuracy: float
    steps_per_second: float
    broken: int  # inputs that couldn't be classified
    failed: int  # networks of a sweep
    best: float  # what its best one has reached


class Progress(TypedDict, total=False):
    """What a program says of a phase's progress, in a file (training/flotilla/supervision/progress.py)."""

    phase: str  # stage, train, store, mirror, infer or sweep
    state: str  # running, done, failed or stopped
    done: int  # of total
    total: int
    unit: str  # what is counted
    rate: float | None
    rate_unit: str | None  # such as examples/s
    eta: float | None  # seconds
    detail: Detail
    message: str
    updated: float  # seconds since the epoch


class Job(TypedDict, total=False):
    """The job's configuration, as far as it matters here."""

    name: str | None
    max_steps: int | None


class HostReport(TypedDict, total=False):
    """A line of flotilla-status --tasks."""

    time: float  # on the host, in seconds since the epoch; always there, as tasks
    tasks: dict[str, TaskUnit]  # by name
    job: Job
    phases: dict[str, Progress]  # by name, the one told last at the end
    store: Unit | None  # flotilla-store, on the chief's host
    infer: Unit | None  # flotilla-infer, on the first parameter server's host
    sweep: Unit | None  # flotilla-sweep, likewise
    hdfs: HdfsHealth | None  # on the NameNode's host


@dataclasses.dataclass
class Host:
    """A host, how it is reached, and what it said last."""

    name: str  # as the inventory calls it
    command: Sequence[str]  # asks it
    expires: str = ""  # when it powers itself off, ISO 8601
    fleet: str = ""  # the fleet's name
    look: HostReport | None = None  # its last report
    heard: float = 0.0  # when that came, in seconds since the epoch
    problem: str = ""  # why it can't be asked

    def answers(self, now: float) -> bool:
        """Whether it has answered lately."""
        return self.look is not None and now - self.heard < SILENT_SECS

    def hear(self, line: bytes) -> None:
        """Take a line of flotilla-status; what isn't one is no answer."""
        with contextlib.suppress(ValueError):
            look: HostReport = json.loads(line)
            if isinstance(look, dict) and isinstance(look.get("tasks"), dict):
                self.look, self.heard, self.problem = look, time.time(), ""


# From the hosts' reports to one object


def summarize(hosts: Iterable[Host], now: float, gone: str = "", wanted: str = "") -> Summary:
    """Return all that is shown; `gone` says why there is no fleet any more.

    While another job than the wanted one is there, that is waited for.
    """
    hosts = list(hosts)
    # systemd forgets a unit that has been stopped; what the chief told stays with its host.
    asked = [(host, host.look) for host in hosts if host.look]
    chief = next((host for host, look in asked if "chief-0" in look["tasks"]), None)
    chief = chief or next((host for host, look in asked if "train" in look.get("phases", {})), None)
    look: HostReport = chief.look if chief and chief.look else {}
    train = _train(look)
    state, message = judge(look)
    if not look and not any(host.name.startswith("chief") for host in hosts):
        message = "no job has been begun"  # a fleet for inference alone never has a chief
    if not (chief and chief.answers(now)):
        # When the chief's host is gone, a parameter server's says how that ended.
        reports = [report.get("phases", {}).get("train") for host, report in asked if host is not chief]
        for one in reports:
            if one and one.get("state") == "failed" and one["updated"] > train.get("updated", 0):
                state, message = "failed", one["message"]
    job = look.get("job", {}).get("name")
    steps = train.get("total") or look.get("job", {}).get("max_steps")
    tasks = [row for host in hosts for row in _tasks(host, job, steps, now)]
    detail: Detail = train.get("detail", {})
    source, told, beside = chief, train, ""
    newest = _last(train, look.get("tasks", {}).get("chief-0"))
    # They don't run at the same time, so the latest one is the job.
    for phase, (name, doing, undone) in BESIDE.items() if job != wanted else ():
        driver = next((host for host, report in asked if phase in report.get("phases", {}) or report.get(phase)), None)
        its: HostReport = driver.look if driver and driver.look else {}
        unit = its.get(phase)
        its_own = _told(its, phase, unit)
        if _last(its_own, unit) > newest:
            newest, source, told, beside, job = _last(its_own, unit), driver, its_own, phase, name
            state, message = _judge_unit(f"flotilla-{phase}", unit, its_own, doing, undone)
    if wanted and job != wanted:
        state, message = "waiting", f"for {wanted}: {f'there is still {job}' if job else 'no host has a job yet'}"
    if gone:
        state, message = "gone", gone
    eta = told.get("eta") if state in ("training", "inferring", "sweeping") and told.get("state") == "running" else None
    if eta is not None and source and source.look:
        eta = max(0.0, eta - (now - source.heard) - (source.look["time"] - told["updated"]))
    rates = {train.get("rate_unit"): train.get("rate")}
    evaluations = [row.evaluation for row in tasks if row.evaluation]
    expires = min((host.expires for host in hosts if host.expires), default=None)
    hdfs = [host.look["hdfs"] for host in hosts if host.look and host.look.get("hdfs") and host.answers(now)]
    return {
        "time": round(now, 1),
        "fleet": next((host.fleet for host in hosts if host.fleet), None),
        "job": job,
        "state": state,
        "message": message,
        "step": max([train.get("done") or 0, *(row.shown["step"] or 0 for row in tasks if row.step_counts)]),
        "max_steps": steps,
        "loss": detail.get("loss"),
        "accuracy": detail.get("accuracy"),
        "steps_per_second": detail.get("steps_per_second", rates.get("steps/s")),
        "examples_per_second": rates.get("examples/s"),
        "time_left": None if eta is None else round(eta),
        "evaluation": max(evaluations, key=lambda one: float(one["step"]), default=None),
        "expires": expires,
        "expires_in": seconds_until(expires, now),
        "tasks": [row.shown for row in tasks],
        "hosts": [_host(host, now) for host in hosts],
        "hdfs": hdfs[0] if hdfs else None,
        "store": _store(look),
        "mirror": _mirror(look),
        "inference": _inference(told) if beside == "infer" else None,
        "sweep": _sweep(told) if beside == "sweep" else None,
    }


def _train(look: HostReport) -> Progress:
    """Return the chief's progress."""
    return _told(look, "train", look.get("tasks", {}).get("chief-0"))


def _told(look: HostReport, phase: str, unit: Unit | None) -> Progress:
    """Return a unit's progress; none where its present process hasn't told any."""
    told: Progress = look.get("phases", {}).get(phase) or {}
    return {} if unit and unit["active"] == "active" and told.get("updated", 0) < unit["since"] else told


def _last(told: Progress, unit: Unit | None) -> float:
    """Return when a job's program told something, or its unit began or failed; 0 where it never did."""
    # A unit that is off was so before, or since its host's boot.
    return max(told.get("updated", 0), unit["since"] if unit and unit["active"] != "inactive" else 0)


def judge(look: HostReport) -> tuple[State, str]:
    """Return the job's state, and a sentence, from what the chief's host says.

    waiting: it has no chief yet; training, storing; done: trained and stored; failed: for good; stopped: it is off.
    """
    if not look:
        return "waiting", "no host has a chief yet"
    chief, train, store = look["tasks"].get("chief-0"), _train(look), look.get("store")
    storing: Progress = look.get("phases", {}).get("store") or {}
    undone = "its job isn't done: start it again by playbooks/train.yml"
    state, message = _judge_unit("training@chief-0", chief, train, "training", undone)
    if state != "done" or store is None:
        return state, message
    # What was said of an earlier model doesn't count.
    news: Progress = storing if storing.get("updated", 0) >= train["updated"] else {}
    if news.get("state") == "done":
        return "done", str(news["message"])
    if store["active"] == "failed":
        reason = news.get("message", "") or f"flotilla-store ended with {store['result']}"
        return "failed", f"{reason} (journalctl -u flotilla-store on the chief's host)"
    if store["active"] == "inactive":
        return (
            "stopped",
            "flotilla-store doesn't run, and the model isn't stored: start it again by playbooks/train.yml",
        )
    return "storing", str(news.get("message") or train["message"])


def _judge_unit(name: str, unit: Unit | None, told: Progress, running: State, undone: str) -> tuple[State, str]:
    """Return the state of a unit's job, and a sentence; `running` and `undone` say what it does, and what is left."""
    if unit and unit["active"] == "failed":
        reason = told.get("message", "") if told.get("state") == "failed" else ""
        ended = f"{name} ended with {unit['result']} after {unit['restarts']} restarts"
        return "failed", reason or f"{ended}: see journalctl -u {name} on its host"
    if unit and unit["active"] != "inactive":
        return running, str(told.get("message") or "")
    if told.get("state") != "done":
        return "stopped", f"{name} doesn't run, and {undone}"
    return "done", str(told["message"])


class Row(NamedTuple):
    """A task, with what of it is shown elsewhere."""

    shown: TaskSummary
    evaluation: Evaluation | None
    step_counts: bool  # whether its step is the training's


def _tasks(host: Host, job: str | None, steps: int | None, now: float) -> list[Row]:
    look: HostReport = host.look or {}
    return [_task(host, look, name, unit, job, steps, now) for name, unit in look.get("tasks", {}).items()]


def _task(
    host: Host, look: HostReport, name: str, task: TaskUnit, job: str | None, steps: int | None, now: float
) -> Row:
    report: TaskReport = task.get("told") or {}
    if report.get("job") != (job or report.get("job")):
        report = {}
    trains = name.startswith(("chief-", "worker-"))
    own = bool(report) and report["updated"] >= task["since"]  # not by an earlier process
    present = own and (not trains or "step" in report)
    silence = now - host.heard + look["time"] - report["updated"] if report else 0.0
    state = _state(task)
    if not host.answers(now):
        state = f"no answer for {clock(now - host.heard)}"
    elif state == "running" and trains and (report.get("step") or 0) < (steps or 0):
        state = "starting" if not present else f"silent for {clock(silence)}" if silence > SILENT_SECS else state
    speed: TaskReport = report if present and (not trains or silence <= SILENT_SECS) and state == "running" else {}
    shown: TaskSummary = {
        "task": name,
        "host": host.name,
        "state": state,
        "device": report.get("device") if own else None,
        "step": report.get("step"),
        "steps_per_second": speed.get("steps_per_second"),
        "examples_per_second": speed.get("examples_per_second"),
        "staleness": speed.get("staleness"),
        "restarts": task["restarts"],
        "memory": task["memory"] if host.answers(now) else None,
        "problem": _problem(report, state, own),
    }
    evaluation: Evaluation | None = None
    if {"accuracy", "loss"} <= report.keys():
        evaluation = {"step": report["step"], "accuracy": report["accuracy"], "loss": report["loss"]}
    return Row(shown, evaluation, trains and present)


def _problem(report: TaskReport, state: str, own: bool) -> str:
    """Return why a task has failed, or what its present process waits for."""
    if state.startswith(("failed", "restarting")):
        return str(report.get("problem") or "")
    return str(report.get("warning") or "") if own and state.startswith(("running", "starting", "silent")) else ""


def _state(task: TaskUnit) -> str:
    if task["active"] == "activating":
        return "restarting" if task["sub"] == "auto-restart" else "starting"
    if task["active"] == "failed":
        return f"failed ({task['result']})"
    return {"active": "running", "inactive": "ended", "deactivating": "ending"}.get(task["active"], task["active"])


def _host(host: Host, now: float) -> HostSummary:
    look: HostReport = host.look or {}
    phases = [phase for phase in look.get("phases", {}).values() if phase["phase"] != "mirror"]
    last: Progress = phases[-1] if phases else {}
    doing = f"{last['phase']} {last['state']}" if last else ""
    if last.get("state") == "running" and last.get("total"):
        doing = f"{last['phase']} {100 * last['done'] / last['total']:.0f} %"
    return {"host": host.name, "answers": host.answers(now), "problem": host.problem, "doing": doing}


def _store(look: HostReport) -> StoreSummary | None:
    phase = look.get("phases", {}).get("store")
    if not look.get("store") or not phase or phase["updated"] < _train(look).get("updated", 0):
        return None
    return {"state": phase["state"], "done": phase["done"], "total": phase["total"], "message": phase["message"]}


def _mirror(look: HostReport) -> MirrorSummary | None:
    phase = look.get("phases", {}).get("mirror")
    return {"state": phase["state"], "done": phase["done"], "message": phase["message"]} if phase else None


def _inference(infer: Progress) -> InferenceSummary:
    detail: Detail = infer.get("detail", {})
    return {
        "done": int(infer.get("done", 0)),
        "total": int(infer.get("total", 0)),
        "broken": detail.get("broken", 0),
        "inputs_per_second": infer.get("rate"),
        "accuracy": detail.get("accuracy"),
    }


def _sweep(sweep: Progress) -> SweepSummary:
    detail: Detail = sweep.get("detail", {})
    return {
        "done": int(sweep.get("done", 0)),
        "total": int(sweep.get("total", 0)),
        "failed": detail.get("failed", 0),
        "networks_per_minute": sweep.get("rate"),
        "best": detail.get("best"),
    }


def seconds_until(expires: str | None, now: float) -> int | None:
    """Return the seconds until a time in ISO 8601; None where that is none."""
    with contextlib.suppress(ValueError):
        return round(datetime.datetime.fromisoformat(expires or "").timestamp() - now)
    return None


def clock(seconds: float) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
