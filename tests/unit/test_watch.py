"""What scripts/watch makes of the hosts' answers: one object, a screen, a line, and how it ends."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import inventory
import pytest
import watch
from rich.console import Console

ROOT = Path(__file__).parents[2]

NOW = 1_800_000_000.0


def unit(active: str = "active", sub: str = "running", told: dict[str, Any] | None = None, **more: Any) -> Any:
    values = {
        "active": active,
        "sub": sub,
        "result": "success",
        "restarts": 0,
        "since": NOW - 100,
        "memory": 612_000_000,
    }
    return values | {"told": told} | more


def told(task: str, **values: Any) -> dict[str, Any]:
    return {"job": "cifar10", "task": task, "updated": NOW - 3, "step": 238, "device": "GPU 0 T4"} | values


TRAINS = {"steps_per_second": 1.8, "examples_per_second": 230.4, "staleness": 0.97}
EVALUATED = {"accuracy": 0.251, "loss": 2.03, "examples_per_second": 911.0, "step": 200, "updated": NOW - 50}
TRAIN = {
    "phase": "train", "state": "running", "done": 240, "total": 400, "unit": "steps", "rate": 472.1,
    "rate_unit": "examples/s", "eta": 50.0, "detail": {"loss": 1.93456, "accuracy": 0.3, "steps_per_second": 3.7},
    "message": "", "updated": NOW - 4,
}  # fmt: skip
STORE = {"phase": "store", "state": "running", "done": 12, "total": 30, "message": "uploading x", "updated": NOW - 1}
HEALTH = {
    "problem": "", "live": ["chief-0", "ps-0"], "dead": ["worker-0"], "missing": 0, "under_replicated": 4,
    "used": 400_000_000, "capacity": 60_000_000_000, "safe_mode": False,
}  # fmt: skip
OFF = {"active": "inactive", "sub": "dead"}
LOOKS: dict[str, dict[str, Any]] = {
    "ps-0": {
        "tasks": {
            "evaluator-0": unit(told=told("evaluator-0", **EVALUATED, device="CPU")),
            "ps-0": unit(told={"job": "cifar10", "task": "ps-0", "updated": NOW - 99, "device": "CPU"}),
        },
        "hdfs": HEALTH,
    },
    "chief-0": {
        "tasks": {"chief-0": unit(told=told("chief-0", **TRAINS))},
        "phases": {"stage": {"phase": "stage", "state": "done", "updated": NOW - 500}, "train": TRAIN},
        "store": unit(**OFF),
    },
    "worker-0": {"tasks": {"worker-0": unit(told=told("worker-0", **TRAINS), restarts=2)}},
}


def fleet(**changed: Any) -> list[Any]:
    """Hosts that answered a second ago; `chief_0={...}` replaces keys of a host's look, None is one that never did."""
    hosts = []
    for name, look in copy.deepcopy(LOOKS).items():
        change = changed.get(name.replace("-", "_"), {})
        host = watch.Host(name, ["ssh"], "2027-01-15T10:00:00Z", "demo")
        if change is None:
            host.problem = "Connection refused"
        else:
            job = {"name": "cifar10", "max_steps": 400}
            empty = {"time": NOW - 1, "job": job, "phases": {}, "store": None, "infer": None, "hdfs": None}
            host.look, host.heard = empty | look | change, NOW - 1
        hosts.append(host)
    return hosts


def chief(active: str = "inactive", train: Any = None, store: Any = None, unit_of_store: Any = OFF, **more: Any) -> Any:
    phases = {"train": TRAIN | (train or {})} | ({"store": STORE | store} if store else {})
    tasks = {"chief-0": unit(active, **({"sub": "dead"} | more))}
    return {"tasks": tasks, "phases": phases, "store": unit_of_store and unit(**unit_of_store)}


def shown(hosts: list[Any], gone: str = "") -> str:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(watch.screen(watch.summarize(hosts, NOW, gone)))
    return console.export_text()


def row(text: str, task: str) -> list[str]:
    (found,) = [line.split() for line in text.splitlines() if line.startswith(task)]
    return found


def test_one_object_of_all_answers() -> None:
    summary = watch.summarize(fleet(), NOW)
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["job"], summary["state"], summary["step"], summary["max_steps"]) == (
        "cifar10",
        "training",
        240,
        400,
    )
    assert summary["loss"] == 1.93456 and summary["examples_per_second"] == 472.1
    assert summary["time_left"] == 46, "what has passed since it was told is gone"
    assert summary["evaluation"] == {"step": 200, "accuracy": 0.251, "loss": 2.03}
    assert summary["expires_in"] == 1_800_007_200 - NOW
    assert [task["task"] for task in summary["tasks"]] == ["evaluator-0", "ps-0", "chief-0", "worker-0"]
    assert summary["tasks"][3] == {
        "task": "worker-0", "host": "worker-0", "state": "running", "device": "GPU 0 T4", "step": 238, **TRAINS,
        "restarts": 2, "memory": 612_000_000, "problem": "",
    }  # fmt: skip


def test_what_is_wrong_with_a_task_is_said_until_it_runs() -> None:
    version = told("worker-0", problem="worker-0 has version a of the program, the chief b.")
    wrong = fleet(worker_0={"tasks": {"worker-0": unit("failed", result="exit-code", told=version)}})
    assert "worker-0: worker-0 has version a of the program, the chief b." in shown(wrong)
    assert "the chief b." in watch.line(watch.summarize(wrong, NOW))
    assert "the chief b." not in shown(fleet(worker_0={"tasks": {"worker-0": unit(told=version)}}))


def test_a_job_that_is_still_to_come() -> None:
    done = fleet(chief_0=chief(train={"state": "done", "message": "trained 400 steps"}, store={"state": "done"}))
    assert watch.summarize(done, NOW, wanted="cifar10")["state"] == "done"
    waiting = watch.summarize(done, NOW, wanted="next")
    assert (waiting["state"], waiting["message"]) == ("waiting", "for next: there is still cifar10")
    assert watch.summarize(done, NOW, "its time was over", "next")["state"] == "gone"


def test_screen() -> None:
    text = shown(fleet())
    assert text.startswith("cifar10 on demo  training\n")
    assert "240 of 400 steps" in text and "0:46 left" in text
    assert "472 examples/s   loss 1.935   last evaluation: accuracy 0.2510, loss 2.030, step 200\n" in text
    assert "fleet ends in 2:00 h\n" in re.sub(" +\n", "\n", text)
    rows = [" ".join(row(text, task)) for task in ("worker-0", "evaluator-0", "ps-0")]
    assert rows == [
        "worker-0 worker-0 running GPU 0 T4 238 1.80 230 1.0 2 612 MB",
        "evaluator-0 ps-0 running CPU 200 911 0 612 MB",
        "ps-0 ps-0 running CPU 0 612 MB",
    ]
    assert "HDFS   2 DataNodes, without worker-0, 0 blocks missing, 4 under-replicated, 0.4 of 60 GB used" in text
    late = fleet(chief_0=chief("active", {"eta": 9000.0}))
    assert "fleet ends in 2:00 h, before the training" in shown(late)


def test_a_chief_that_is_lost_is_said_by_a_parameter_server() -> None:
    said = {"phase": "train", "state": "failed", "updated": NOW - 1, "message": "chief-0 hasn't answered for 4 min."}
    hosts = fleet(ps_0={"phases": {"train": said}})
    assert watch.summarize(hosts, NOW)["state"] == "training", "the chief itself knows better"
    hosts[1].heard = NOW - 250
    summary = watch.summarize(hosts, NOW)
    assert (summary["state"], summary["message"]) == ("failed", said["message"])
    hosts[1].look["phases"]["train"]["updated"] = NOW
    assert watch.summarize(hosts, NOW)["state"] == "training", "what was said before this chief began is over"


def test_a_mirror_that_does_not_get_into_s3() -> None:
    phases = {
        "train": TRAIN,
        "mirror": {"phase": "mirror", "state": "done", "done": 200, "message": "", "updated": NOW},
    }
    assert "S3" not in shown(fleet(chief_0={"phases": phases}))
    phases["mirror"] |= {"state": "failed", "message": "s3://b/ refuses."}
    text = shown(fleet(chief_0={"phases": phases}))
    assert "no checkpoint goes to S3: s3://b/ refuses." in text


def test_hosts_that_do_not_answer() -> None:
    hosts = fleet(worker_0=None)
    hosts[0].heard = NOW - 75
    hosts[0].problem = "Connection timed out"
    text = shown(hosts)
    assert (
        "no answer for 1:15" in text and "worker-0: Connection refused" in text and "ps-0: Connection timed out" in text
    )
    assert "HDFS" not in text, "what was said long ago isn't how it is"
    assert "evaluator-0 no answer for 1:15" in watch.line(watch.summarize(hosts, NOW))
    # Not one of them, and not a host in the inventory.
    assert watch.summarize(fleet(ps_0=None, chief_0=None, worker_0=None), NOW)["state"] == "waiting"
    assert shown([], "no running host").startswith("no job yet  gone  no running host")


def test_a_fleet_before_its_training() -> None:
    stage = {"phase": "stage", "state": "running", "done": 50e6, "total": 200e6, "updated": NOW}
    before = {"tasks": {}, "phases": {"stage": stage}, "job": {"name": None, "max_steps": None}}
    text = shown(fleet(ps_0=before | {"hdfs": None}, chief_0=before | {"phases": {}}, worker_0=before))
    assert "no job yet on demo  waiting  no host has a chief yet" in text
    assert "stage 25 %" in text and "no task" in text


@pytest.mark.parametrize(
    ("task", "state"),
    [
        (unit(told=told("worker-0", updated=NOW - 3)), "running"),
        (unit(told=None), "starting"),
        (unit(told=told("worker-0", updated=NOW - 101)), "starting"),  # by the process before
        (unit(told=told("worker-0", job="another")), "starting"),
        (unit(told={"job": "cifar10", "updated": NOW - 60, "device": "CPU"}), "starting"),  # no step yet
        (unit(told=told("worker-0", updated=NOW - 65)), "silent for 1:05"),
        (unit(told=told("worker-0", updated=NOW - 65, step=401)), "running"),  # it has nothing more to say
        (unit("activating", "auto-restart"), "restarting"),
        (unit("failed", "failed", result="exit-code"), "failed (exit-code)"),
        (unit("inactive", "dead"), "ended"),
    ],
)
def test_state_of_a_task(task: Any, state: str) -> None:
    (found,) = [one for one in watch.summarize(fleet(worker_0={"tasks": {"worker-0": task}}), NOW)["tasks"]
                if one["task"] == "worker-0"]  # fmt: skip
    assert found["state"] == state
    assert (found["examples_per_second"] is None) == (found["step"] is None or state != "running" or "s" not in task)


DONE = {"state": "done", "done": 400, "message": "trained 400 steps"}
STORED = {"state": "done", "message": "the model of step 400 is stored, see s3://x/manifest.json"}


@pytest.mark.parametrize(
    ("look", "state", "words"),
    [
        (chief("active", {"message": "exporting"}), "training", "exporting"),
        (chief("active", DONE | {"updated": NOW - 200}), "training", ""),  # of the job before
        (chief("activating", sub="auto-restart"), "training", ""),
        (chief("deactivating", DONE), "training", "trained 400 steps"),
        (chief("inactive", DONE, STORED), "done", "s3://x/manifest.json"),
        (chief("inactive", DONE, unit_of_store=None), "done", "trained 400 steps"),
        (chief("inactive", DONE, {}, {"active": "activating", "sub": "start"}), "storing", "trained 400 steps"),
        (chief("inactive", DONE, {"done": 1}, {"active": "activating", "sub": "start"}), "storing", "uploading x"),
        # The store's file is of an earlier model.
        (chief("inactive", DONE, STORED | {"updated": NOW - 5}), "stopped", "flotilla-store doesn't run"),
        (
            chief(
                "inactive", DONE, {"state": "failed", "message": "No bucket."}, {"active": "failed", "sub": "failed"}
            ),
            "failed",
            "No bucket.",
        ),
        (chief("failed", {"state": "failed", "message": "No data."}), "failed", "No data."),
        (chief("failed", result="exit-code", restarts=5), "failed", "exit-code after 5 restarts"),
        (chief("inactive"), "stopped", "its job isn't done"),
    ],
)
def test_judge(look: dict[str, Any], state: str, words: str) -> None:
    summary = watch.summarize(fleet(chief_0=look), NOW)
    assert summary["state"] == state and words in summary["message"]
    assert state in watch.line(summary) and state in shown(fleet(chief_0=look))


def test_progress_of_the_store() -> None:
    look = chief("inactive", DONE, {"done": 12}, {"active": "activating", "sub": "start"})
    assert "model  running 12 of 30 objects" in shown(fleet(chief_0=look))


def test_line() -> None:
    assert watch.line(watch.summarize(fleet(worker_0={"tasks": {"worker-0": unit("activating")}}), NOW)) == (
        "cifar10: training  240 of 400 steps  472 examples/s  loss 1.935  last evaluation: accuracy 0.2510, "
        "loss 2.030, step 200  0:46 left  worker-0 starting"
    )


def test_a_job_that_was_stopped_of_a_program_that_tells_no_examples() -> None:
    """systemd forgets the units; what the chief told last is still there."""
    train = {"rate": 55.2, "rate_unit": "steps/s", "total": 900, "detail": {"loss": 0.5}}
    gone = chief(train=train) | {"tasks": {}}
    summary = watch.summarize(fleet(chief_0=gone, ps_0={"tasks": {}}, worker_0={"tasks": {}}), NOW)
    assert (summary["state"], summary["step"], summary["max_steps"]) == ("stopped", 240, 900)
    assert summary["examples_per_second"] is None
    text = shown(fleet(chief_0=gone))
    assert "55.2 steps/s" in text and "examples/s  loss" not in text


INFER = {
    "phase": "infer", "state": "running", "done": 1200, "total": 20_000, "unit": "inputs", "rate": 580.4,
    "rate_unit": "inputs/s", "eta": 34.0, "detail": {"broken": 12, "accuracy": 0.91}, "message": "", "updated": NOW - 2,
}  # fmt: skip
TRAINED = chief("inactive", DONE | {"updated": NOW - 900}, STORED)


def inference(active: str = "active", infer: Any = None, **more: Any) -> dict[str, Any]:
    """What the host says where an inference runs, or ran."""
    return {"tasks": {}, "phases": {"infer": INFER | (infer or {})}, "infer": unit(active, **more)}


SWEPT = {
    "phase": "sweep", "state": "running", "done": 320, "total": 1000, "unit": "networks", "rate": 212.4,
    "rate_unit": "networks/min", "eta": 192.0, "detail": {"failed": 3, "best": 0.9731}, "message": "",
    "updated": NOW - 2,
}  # fmt: skip


def test_a_sweep() -> None:
    sweep = {"tasks": {}, "phases": {"sweep": SWEPT}, "sweep": unit("active")}
    hosts = fleet(ps_0=sweep, chief_0=TRAINED)
    summary = watch.summarize(hosts, NOW)
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["job"], summary["state"], summary["inference"]) == ("sweep", "sweeping", None)
    assert summary["sweep"] == {
        "done": 320, "total": 1000, "failed": 3, "networks_per_minute": 212.4, "best": 0.9731,
    }  # fmt: skip
    numbers = ["320 of 1000 networks", "212 networks/min", "3 failed", "best 0.9731"]
    assert watch.line(summary).startswith("  ".join(["sweep: sweeping", *numbers, "3:"]))
    text = shown(hosts)
    assert text.startswith("sweep on demo  sweeping\n") and all(number in text for number in numbers)
    ended = {"tasks": {}, "phases": {"sweep": SWEPT | {"state": "done", "message": "s3://x/"}}, "sweep": None}
    both = inference("inactive", INFER | {"state": "done", "updated": NOW - 50}) | {"tasks": {}}
    newer = both | {"phases": both["phases"] | ended["phases"], "sweep": unit("inactive", since=NOW - 2)}
    summary = watch.summarize(fleet(ps_0=newer, chief_0=TRAINED), NOW)
    assert (summary["job"], summary["state"], summary["message"]) == ("sweep", "done", "s3://x/")
    stopped = sweep | {"phases": {"sweep": SWEPT | {"state": "stopped"}}, "sweep": unit("inactive")}
    assert "start it again by playbooks/sweep.yml" in watch.summarize(fleet(ps_0=stopped), NOW)["message"]


def test_an_inference() -> None:
    hosts = fleet(ps_0=inference(), chief_0=TRAINED)
    summary = watch.summarize(hosts, NOW)
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["job"], summary["state"], summary["message"]) == ("inference", "inferring", "")
    assert summary["inference"] == {
        "done": 1200, "total": 20_000, "broken": 12, "inputs_per_second": 580.4, "accuracy": 0.91,
    }  # fmt: skip
    assert summary["time_left"] == 32, "what has passed since it was told is gone"
    numbers = ("1200 of 20000 inputs", "580 inputs/s", "12 broken", "accuracy 0.9100", "0:32 left")
    assert watch.line(summary) == "  ".join(["inference: inferring", *numbers])
    text = shown(hosts)
    assert text.startswith("inference on demo  inferring\n") and all(number in text for number in numbers)
    assert "steps" not in text and "loss" not in text, "nothing of the training's"
    assert "before the inference" in shown(fleet(ps_0=inference(infer={"eta": 9000.0}), chief_0=TRAINED))
    # Nobody knows how many records files have before they are read.
    text = watch.line(watch.summarize(fleet(ps_0=inference(infer={"total": 0, "eta": None}), chief_0=TRAINED), NOW))
    assert text == "inference: inferring  1200 inputs  580 inputs/s  12 broken  accuracy 0.9100"


INFERRED = {"state": "done", "done": 20_000.0, "message": "the predictions are in s3://x/", "updated": NOW - 50}


@pytest.mark.parametrize(
    ("look", "state", "words"),
    [
        (inference("active", INFERRED | {"updated": NOW - 200}), "inferring", ""),  # of the one before
        (inference("activating", {"message": "Trying again."}, sub="auto-restart"), "inferring", "Trying again."),
        (inference("inactive", INFERRED), "done", "s3://x/"),
        (inference("inactive", INFERRED) | {"infer": None}, "done", "s3://x/"),
        (inference("failed", {"state": "failed", "message": "No model."}), "failed", "No model."),
        (inference("failed", result="exit-code", restarts=240), "failed", "exit-code after 240 restarts: see"),
        (inference("failed", result="exit-code") | {"phases": {}}, "failed", "see journalctl -u flotilla-infer on"),
        (inference("inactive", {"state": "stopped"}), "stopped", "start it again by playbooks/infer.yml"),
        (inference("inactive"), "stopped", "not all inputs are classified"),  # it was killed, or waited to try again
    ],
)
def test_judge_an_inference(look: dict[str, Any], state: str, words: str) -> None:
    alone = [host for host in fleet(ps_0=look) if host.name != "chief-0"]
    for hosts in (fleet(ps_0=look, chief_0=TRAINED), alone):
        summary = watch.summarize(hosts, NOW)
        assert (summary["job"], summary["state"]) == ("inference", state) and words in summary["message"]
        assert summary["time_left"] is None or state == "inferring"
        assert state in watch.line(summary) and state in shown(hosts)


@pytest.mark.parametrize(
    "look",
    [
        LOOKS["chief-0"],  # it runs since
        chief("active", DONE | {"updated": NOW - 900}, since=NOW - 10),  # it has told nothing yet, but the job before
        chief("failed", DONE | {"updated": NOW - 900}, since=NOW - 10, result="exit-code"),
        chief("inactive", DONE, STORED),
    ],
)
def test_a_training_after_an_inference(look: dict[str, Any]) -> None:
    old = inference("inactive", INFERRED | {"updated": NOW - 200}, since=NOW - 5)  # since its host's boot
    summary = watch.summarize(fleet(ps_0=old, chief_0=look), NOW)
    assert summary["job"] == "cifar10" and summary["inference"] is None
    alone = watch.summarize(fleet(chief_0=look), NOW)
    assert [summary[key] for key in ("state", "message", "time_left")] == [
        alone[key] for key in ("state", "message", "time_left")
    ]


def test_the_job_that_is_wanted_is_judged() -> None:
    hosts = fleet(ps_0=inference(), chief_0=TRAINED)
    assert watch.summarize(hosts, NOW, wanted="cifar10")["state"] == "done"
    assert watch.summarize(hosts, NOW, wanted="inference")["state"] == "inferring"
    assert watch.summarize(hosts, NOW, wanted="next")["message"] == "for next: there is still inference"
    assert watch.summarize(hosts, NOW, "its time was over")["state"] == "gone"


def test_a_fleet_for_inference_alone_misses_no_chief() -> None:
    before = {"tasks": {}, "job": {"name": None, "max_steps": None}}
    hosts = [host for host in fleet(ps_0=before, worker_0=before) if host.name != "chief-0"]
    assert "no job yet on demo  waiting  no job has been begun" in shown(hosts)


def test_inventory() -> None:
    variables = {
        "ansible_host": {"__ansible_unsafe": "203.0.113.7"}, "ansible_user": "admin",
        "ansible_ssh_private_key_file": "~/.ssh/key",
        "ansible_ssh_common_args": "-o 'UserKnownHostsFile=/a b' -o HostKeyAlias=i-1",
        "fleet_expires": "2027-01-15T10:00:00Z",
    }  # fmt: skip
    listed = {
        "_meta": {"hostvars": {"ps-0": variables, "chief-0": {}, "elsewhere": {}}},
        "all": {"children": ["ungrouped", "fleet"]},
        "ungrouped": {"hosts": ["elsewhere"]},
        "fleet": {"children": ["ps", "chief", "worker"]},
        "ps": {"hosts": ["ps-0"]},
        "chief": {"hosts": ["chief-0"]},
    }
    hosts = watch.read_inventory(json.loads(json.dumps(listed), object_hook=inventory.unmarked))
    assert list(hosts) == ["chief-0", "ps-0"]
    assert hosts["ps-0"].expires == "2027-01-15T10:00:00Z"
    command = hosts["ps-0"].command
    assert command[command.index("UserKnownHostsFile=/a b") + 2] == "HostKeyAlias=i-1"
    assert command[command.index("-i") + 1] == str(Path.home() / ".ssh/key")
    assert command[-4:] == ["-l", "admin", "203.0.113.7", "flotilla-status --tasks --every 3"]
    assert hosts["chief-0"].command[-2:] == ["chief-0", "flotilla-status --tasks --every 3"]
    assert watch.read_inventory({"_meta": {"hostvars": {}}, "all": {"children": ["fleet"]}}) == {}


def test_what_is_no_answer_is_none() -> None:
    host = watch.Host("ps-0", [])
    for line in (b"Last login: today\n", b'{"train": {}}', b"[1]", b'{"tasks": 1}'):
        host.hear(line)
    assert host.look is None
    host.hear(b'{"tasks": {}}\n')
    assert host.look == {"tasks": {}}


def run(tmp_path: Path, answers: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Watch two hosts, with an ssh that says for each what is scripted."""
    for host, answer in answers.items():
        (tmp_path / host).write_text(answer)
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\nfor last; do host=$said said=$last; done\ncat "{tmp_path}/$host" 2>&1 && exec sleep 30\n'
        'echo "connect to $host: refused" >&2; exit 255\n'
    )
    ssh.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, "scripts/watch.py", "-i", "chief-0,ps-0,", *options],
        cwd=ROOT, env=environment, text=True, capture_output=True, timeout=90,
    )  # fmt: skip


def answer(name: str, look: dict[str, Any]) -> str:
    (host,) = [host for host in fleet(**{name: look}) if host.name == name.replace("_", "-")]
    return json.dumps(host.look) + "\n"


def test_it_ends_with_the_job(tmp_path: Path) -> None:
    done = run(tmp_path, {"chief-0": answer("chief_0", chief("inactive", DONE, STORED))})
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith("cifar10: done  400 of 400 steps")
    assert "ps-0: connect to ps-0: refused" in line and line.endswith(STORED["message"])

    failure = chief("failed", {"state": "failed", "message": "batch_size is 0."})
    failed = run(tmp_path, {"chief-0": answer("chief_0", failure)}, "--json")
    assert failed.returncode == 1 and failed.stderr == "watch: the job has failed: batch_size is 0.\n"
    assert json.loads(failed.stdout)["state"] == "failed"

    answers = {"chief-0": answer("chief_0", TRAINED), "ps-0": answer("ps_0", inference("inactive", INFERRED))}
    inferred = run(tmp_path, answers)
    assert inferred.returncode == 0 and inferred.stdout.startswith("inference: done  20000 of 20000 inputs")
    off = inference("inactive", {"state": "stopped"})
    stopped = run(tmp_path, {"ps-0": answer("ps_0", off)}, "--once", "--json")
    assert stopped.returncode == 1 and json.loads(stopped.stdout)["state"] == "stopped"
    assert stopped.stderr.startswith("watch: the job has stopped: flotilla-infer doesn't run")


def test_one_look(tmp_path: Path) -> None:
    answers = {"chief-0": answer("chief_0", {}), "ps-0": answer("ps_0", {})}
    once = run(tmp_path, answers, "--once")
    assert (once.returncode, once.stderr) == (0, "")
    assert "training" in once.stdout and "HDFS   2 DataNodes" in once.stdout


def test_without_a_fleet() -> None:
    command = [sys.executable, "scripts/watch.py", "-i", "/nowhere"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=90)
    assert done.returncode == 2 and done.stderr.startswith("watch: The inventory /nowhere can't be read: ")


def test_what_a_running_task_waits_for_is_said_once() -> None:
    sentence = "waits for processors 95 % of the time"
    worker = {"tasks": {"worker-0": unit(told=told("worker-0", **TRAINS, warning=sentence))}}
    assert f"worker-0: {sentence}" in watch.line(watch.summarize(fleet(worker_0=worker), NOW))
    chief = {"phases": {"train": TRAIN | {"message": sentence}}}
    assert watch.line(watch.summarize(fleet(worker_0=worker, chief_0=chief), NOW)).count(sentence) == 1
    # An earlier process's is no news, nor is that of one that has ended.
    for change in ({"since": NOW - 1}, OFF):
        worker["tasks"]["worker-0"] |= change
        assert sentence not in watch.line(watch.summarize(fleet(worker_0=worker), NOW))
