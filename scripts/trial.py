"""Runs your own program for some steps on this machine, as a fleet would.

A parameter server, a chief, a worker and an evaluator are a process each, under the same contract (docs/programs.md),
and with the same errors.

The program's arguments come after --, with {data_dir}, {model_dir}, {max_steps} and so on as in training_arguments.
Nothing is kept, unless --keep says where.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv-training/bin/python"
PACK = ROOT / "roles/training/files/pack.py"
LOCK = ROOT / "training/requirements-cpu.lock"
THERE = ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-intel")  # TensorFlow, by any of its names
DATA_LIMIT = 1_000_000_000  # bytes that are fetched from S3
LAST_SECS = 120  # for the evaluator, once the chief has ended
WORKER_SECS = 10
POLL_SECS = 0.2


class Refused(Exception):
    """What was given can't be tried, in one sentence."""


@dataclasses.dataclass
class Task:
    """A task of the cluster, as a process here."""

    name: str
    process: subprocess.Popen[str]
    last: str = ""  # line that it said

    def listen(self) -> None:
        """Print what it says, each line with its name."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.last = line.rstrip() or self.last
            print(f"{self.name:<11} {line.rstrip()}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Try the program; return the exit status: 0 it trains, 1 it fails, 2 it can't be tried."""
    parser = argparse.ArgumentParser(
        prog="scripts/try",
        usage="scripts/try [OPTION…] PROGRAM [-- ARGUMENT…]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("program", metavar="PROGRAM", help="a Python file, or a folder")
    parser.add_argument("--entry", default="", help="the folder's file to run (default: main.py)")
    parser.add_argument("--data", default="", metavar="FOLDER", help="the data set: a folder, or s3://… of up to 1 GB")
    parser.add_argument("--steps", type=int, default=20, help="global steps (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=32, help="what {batch_size} stands for (default: %(default)s)"
    )
    parser.add_argument("--alone", action="store_true", help="in one process, without a cluster")
    parser.add_argument(
        "--keep", metavar="FOLDER", help="a new folder for the model directory, or one from before, to go on"
    )
    parser.add_argument("--profile", help="AWS profile, for data in S3")
    parser.add_argument("--endpoint-url", help="for another S3 than AWS's")
    given = list(sys.argv[1:] if argv is None else argv)
    own = given.index("--") if "--" in given else len(given)  # argparse takes what follows it only beside PROGRAM
    options = parser.parse_args(given[:own], argparse.Namespace(arguments=given[own + 1 :]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.steps < 1:
            raise Refused(f"--steps is {options.steps}: give at least 1.")
        kept = Path(options.keep) if options.keep else None
        if kept and kept.exists() and not (kept / "model.json").exists():
            raise Refused(f"--keep names {kept}, which is there already: name a new folder.")
        with tempfile.TemporaryDirectory(prefix="try-") as folder:
            return run(options, Path(folder))
    except Refused as error:
        print(f"try: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run(options: argparse.Namespace, folder: Path) -> int:
    """Run the program in a folder for everything; return the exit status."""
    program = unpack(options.program, options.entry, folder / "program")
    libraries = install(folder / "program/requirements.txt")
    check(program, folder / "program", environment(libraries))
    model_dir = Path(options.keep).absolute() if options.keep else folder / "model"
    model_dir.mkdir(parents=True, exist_ok=True)
    data_dir = str(data(options.data, folder / "data", options.profile, options.endpoint_url))
    config: dict[str, object] = {
        "name": "try",
        # As on a fleet, where both are on HDFS, open() and shutil don't see them.
        "data_dir": f"file://{data_dir}",
        "model_dir": f"file://{model_dir}",
        "max_steps": options.steps,
        "batch_size": options.batch_size,
        "program": str(program),
        "program_root": str(folder / "program"),
        "arguments": options.arguments,
        "work_dir": str(folder / "work"),
        "progress": str(folder / "train.json"),
        "tasks_dir": str(folder / "tasks"),
        "done_file": str(folder / "chief.done"),
        "reach_secs": 5,
    }
    names = ["chief-0"] if options.alone else ["ps-0", "chief-0", "worker-0", "evaluator-0"]
    if not options.alone:
        ports = free_ports(3)
        cluster = {kind: [f"127.0.0.1:{port}"] for kind, port in zip(("ps", "chief", "worker"), ports, strict=True)}
        config |= {"cluster": cluster, "evaluator": True}
    (folder / "job.json").write_text(json.dumps(config), encoding="utf-8")
    command = [str(PYTHON), "-m", "flotilla.train", "--config", str(folder / "job.json")]
    began = time.monotonic()
    with started(command, [] if options.alone else names, environment(libraries)) as tasks:
        problem, stopped = follow(tasks, folder, options)
    if problem:
        print(f"\ntry: {problem}", file=sys.stderr)
        return 1
    tell(folder, model_dir, options, time.monotonic() - began, stopped)
    return 0


def unpack(path: str, entry: str, to: Path) -> Path:
    """Copy the program as it would go to the hosts; return its entry."""
    if path.startswith(("git+", "s3://")):
        raise Refused(f"{path} isn't on this machine: fetch it, and give the folder.")
    given = Path(path).expanduser().absolute()
    names = [str(given.parent), given.name, "requirements.txt"] if given.suffix == ".py" else [str(given), "."]
    entry = entry or (given.name if given.suffix == ".py" else "main.py")
    checked = subprocess.run(
        [sys.executable, PACK, "--check", *names, entry], capture_output=True, text=True, check=False
    )
    if checked.returncode:
        raise Refused(f"{path}: {checked.stderr.strip()}.")
    packed = subprocess.run([sys.executable, PACK, *names], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed))) as archive:
        archive.extractall(to)
    return to / entry


def check(program: Path, root: Path, variables: Mapping[str, str]) -> None:
    """Judge the program as the hosts do before a task starts."""
    code = "import sys; from flotilla.adapter import program; program.check(*sys.argv[1:])"
    done = subprocess.run(
        [PYTHON, "-c", code, program, root], env=dict(variables), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(done.stderr.strip().splitlines()[-1].partition("BadInput: ")[2] or done.stderr.strip())


def install(requirements: Path) -> Path | None:
    """Install a program's requirements as a host would, beside TensorFlow; return where to."""
    if not requirements.is_file():
        return None
    content = requirements.read_bytes()
    key = hashlib.sha256(content + LOCK.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flotilla/try" / key
    if cache.is_dir():
        return cache
    print(f"installing {requirements.name} of the program", flush=True)
    part = cache.with_suffix(".part")
    pinned = [line.split()[0] for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line.split(" ")[0]]
    own = [f"{name} ; sys_platform == 'never'" for name in THERE]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pinned").write_text("\n".join(pinned) + "\n", encoding="utf-8")
        command = [os.environ.get("UV", "uv"), "pip", "install", "--quiet", "--python", str(PYTHON)]
        command += ["--target", str(part), "--constraint", f"{folder}/pinned", "--override", f"{folder}/there"]
        for there in (own, own + pinned):  # older programs ask for older versions of what comes with TensorFlow
            Path(folder, "there").write_text("\n".join(there) + "\n", encoding="utf-8")
            done = subprocess.run(
                [*command, "--requirement", str(requirements)],
                capture_output=True, text=True, check=False, cwd=requirements.parent,
            )  # fmt: skip
            said = " ".join(line.strip() for line in done.stderr.splitlines())
            if done.returncode == 0:
                break
            if there == own:
                print(f"with other versions of what comes with TensorFlow: {said}", flush=True)
    if done.returncode:
        raise Refused(f"The program's requirements.txt can't be met beside TensorFlow: {said}")
    part.rename(cache)
    return cache


def data(given: str, to: Path, profile: str | None, endpoint: str | None) -> Path:
    """Return the folder of the data set; of one in S3 a copy."""
    if not given.startswith("s3://"):
        folder = Path(given).expanduser().absolute() if given else to
        if given and not folder.is_dir():
            raise Refused(f"--data names {given}, which is no folder.")
        folder.mkdir(exist_ok=True)
        return folder
    parts = urlsplit(given)
    prefix = parts.path.strip("/") + "/"
    try:
        client = boto3.Session(profile_name=profile).client("s3", endpoint_url=endpoint)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=parts.netloc, Prefix=prefix)
        found = {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}
        if not found:
            raise Refused(f"{given} has no objects.")
        if sum(found.values()) > DATA_LIMIT:
            raise Refused(
                f"{given} has {sum(found.values()) / 1e9:.1f} GB: give --data a folder with some of its files, "
                "at most 1 GB of them in S3."
            )
        print(f"fetching {len(found)} objects, {sum(found.values()) / 1e6:.0f} MB", flush=True)
        for key in found:
            path = to / key[len(prefix) :]
            if key.endswith("/") or not path.resolve().is_relative_to(to.resolve()):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(parts.netloc, key, str(path))
    except (BotoCoreError, ClientError) as error:
        raise Refused(f"{given}: {error}") from error
    return to


def environment(libraries: Path | None) -> dict[str, str]:
    """Return the environment of the tasks."""
    path = [str(ROOT / "training"), *([str(libraries)] if libraries else [])]
    kept = {name: value for name, value in os.environ.items() if name not in ("TF_CONFIG", "PYTHONPATH")}
    return kept | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def free_ports(number: int) -> list[int]:
    """Return ports of the loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def started(command: Sequence[str], names: Sequence[str], variables: Mapping[str, str]) -> Iterator[list[Task]]:
    """Run a process for each task, or one for all; end those that still run."""
    tasks: list[Task] = []
    try:
        for name in names or ["chief-0"]:
            process = subprocess.Popen(
                [*command, *(["--task", name] if names else [])], env=dict(variables), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            )  # fmt: skip
            tasks.append(Task(name, process))
            threading.Thread(target=tasks[-1].listen, daemon=True).start()
        yield tasks
    finally:
        for task in tasks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.process.pid, signal.SIGKILL)
            task.process.wait()


def follow(tasks: Sequence[Task], folder: Path, options: argparse.Namespace) -> tuple[str, bool]:
    """Wait for the tasks' ends; return what went wrong, and whether the chief was told to end at the last step."""
    chief = next(task for task in tasks if task.name == "chief-0")
    limited = any("{max_steps}" in argument for argument in options.arguments)
    ended, stopped = 0.0, False
    while True:
        for task in tasks:
            if task.process.poll() not in (None, 0):
                if stopped and task is not chief:
                    continue
                time.sleep(0.5)  # until its last line is read
                return f"{task.name} has failed: {said(folder, task)}", stopped
        done = chief.process.poll() is not None
        ended = ended or (time.monotonic() if done else 0.0)
        late = [task.name for task in tasks if task.process.poll() is None]
        if done and (stopped or not late):
            return "", stopped
        # A worker whose part others have done waits in vain for a while; what the evaluator makes is wanted.
        if done and time.monotonic() - ended > (LAST_SECS if "evaluator-0" in late else WORKER_SECS):
            return "", stopped
        if not done and not limited and not stopped and report(folder).get("done", 0) >= options.steps:
            stopped = True
            chief.process.send_signal(signal.SIGTERM)
        time.sleep(POLL_SECS)


def report(folder: Path) -> dict[str, float]:
    """Return what the chief has said of its progress."""
    try:
        found = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(found)


def said(folder: Path, task: Task) -> str:
    """Return why a task has failed, as the fleet's terminal would say it."""
    with contextlib.suppress(OSError, ValueError):
        told = json.loads((folder / "tasks" / f"{task.name}.json").read_text(encoding="utf-8"))
        if told.get("problem"):
            return str(told["problem"])
    return task.last or f"exit status {task.process.returncode}"


def tell(folder: Path, model_dir: Path, options: argparse.Namespace, seconds: float, stopped: bool) -> None:
    """Say what came of it, and the command that does it on a fleet."""
    train = report(folder)
    files = [path.relative_to(model_dir) for path in sorted(model_dir.rglob("*")) if path.is_file()]
    exported = sorted({str(path.parent) for path in files if path.name == "saved_model.pb"})
    output = [str(path) for path in files if path.parts[0] == "local"]
    evaluation: dict[str, dict[str, float | None]] = next(
        (json.loads((model_dir / path).read_text()) for path in files if str(path) == "evaluation.json"), {}
    )
    print(f"\nit trains: {train.get('done', 0):.0f} steps, all of it in {seconds:.0f} s")
    if stopped:
        print(f"  ended after {options.steps} steps; with {{max_steps}} among its arguments you see its end, too")
    for name, value in (evaluation.get("metrics") or {}).items():
        print(f"  evaluation: {name} {'no number' if value is None else format(value, '.4g')}")
    print(f"  SavedModel: {', '.join(exported) or 'none (an Estimator makes one with an exporter in its EvalSpec)'}")
    if output:
        print(f"  written into its working folder, and stored with the model: {', '.join(output[:10])}")
    words = [f"training_program={shlex.quote(options.program)}"]
    words += [f"training_entry={options.entry}"] if options.entry else []
    shown = " ".join(f"-e {word}" for word in words)
    if options.arguments:
        arguments = json.dumps({"training_arguments": list(options.arguments)})
        shown += f" -e {shlex.quote(arguments)}"
    if options.data:
        source = options.data if "://" in options.data else f"s3://YOUR-BUCKET/{Path(options.data).name}/"
        shown += f" -e dataset_source={source}"
    print(f"next: ansible-playbook -i inventories/aws site.yml {shown}")


if __name__ == "__main__":
    sys.exit(main())
