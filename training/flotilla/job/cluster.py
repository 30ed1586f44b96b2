"""Who this process is: the task and the cluster that TF_CONFIG describes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence

from flotilla.job.errors import BadInput

TYPES = ("chief", "worker", "ps", "evaluator")


@dataclasses.dataclass(frozen=True)
class Task:
    """One process of a job: its type (one of TYPES or "local"), index, and the addresses by type."""

    type: str = "local"
    index: int = 0
    cluster: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.type}-{self.index}"

    @property
    def leads(self) -> bool:
        """Whether it saves checkpoints, reports progress and finishes the job."""
        return self.type in ("local", "chief")

    @property
    def trainers(self) -> int:
        """How many train: the chief does, too."""
        return 1 + len(self.cluster.get("worker", []))

    @property
    def slot(self) -> tuple[int, int]:
        """Its place among the trainers of its host, and how many these are; (0, 1) where it shares with none."""
        if self.type not in ("chief", "worker"):
            return 0, 1
        own = self.cluster[self.type][self.index]
        trainers = [*self.cluster.get("chief", []), *self.cluster.get("worker", [])]
        here = [address for address in trainers if address.rsplit(":", 1)[0] == own.rsplit(":", 1)[0]]
        return here.index(own), len(here)

    @property
    def as_worker(self) -> tuple[dict[str, list[str]], int]:
        """The cluster as programs know it that have no chief, and this trainer's index there: the chief is worker 0."""
        cluster = {"ps": list(self.cluster["ps"]), "worker": [*self.cluster["chief"], *self.cluster.get("worker", [])]}
        return cluster, self.index + (self.type == "worker")

    @property
    def device(self) -> str:
        """Where it computes, as a cluster's device."""
        return f"/job:{self.type}/task:{self.index}"

    @property
    def device_filters(self) -> list[str]:
        """The devices it needs: with others in its view, it would wait for every missing worker."""
        own = {"chief": "/job:chief", "worker": f"/job:worker/task:{self.index}"}.get(self.type)
        return ["/job:ps", own] if own else []


def tf_config(cluster: Mapping[str, Sequence[str]], name: str) -> str:
    """Return the TF_CONFIG of the task with that name, such as worker-1."""
    match = re.fullmatch(r"([a-z]+)-(\d+)", name)
    if not match:
        raise BadInput(f"task is '{name}': give a type and an index, as in worker-1.")
    return json.dumps({"cluster": cluster, "task": {"type": match[1], "index": int(match[2])}})


def task_from(environ: Mapping[str, str]) -> Task:
    """Read TF_CONFIG; without it the process is on its own. Raise BadInput for what can't be a cluster."""
    text = environ.get("TF_CONFIG", "")
    if not text.strip():
        return Task()
    try:
        content = json.loads(text)
    except ValueError as error:
        raise BadInput(f"TF_CONFIG isn't JSON: {error}.") from error
    if content == {}:
        return Task()
    try:
        cluster = {str(kind): list(map(str, hosts)) for kind, hosts in content["cluster"].items()}
        kind, index = str(content["task"]["type"]), int(content["task"]["index"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput("TF_CONFIG lacks cluster, task.type or task.index: let the role write it.") from error
    if set(cluster) - {"chief", "worker", "ps"}:
        raise BadInput(f"TF_CONFIG's cluster has {sorted(cluster)}: only chief, worker and ps belong there.")
    if not cluster.get("ps") or len(cluster.get("chief", [])) != 1:
        raise BadInput("TF_CONFIG's cluster needs at least one ps and exactly one chief.")
    if kind not in TYPES:
        raise BadInput(f"TF_CONFIG's task.type is '{kind}': it is one of {', '.join(TYPES)}.")
    if not 0 <= index < len(cluster.get(kind, ["-"] if kind == "evaluator" else [])):
        raise BadInput(f"TF_CONFIG's task is {kind} {index}, which its cluster doesn't have.")
    return Task(kind, index, cluster)
