"""What hosts a network asks for, by arithmetic: how long a step takes them, and what their network carries.

Rates are rough, and a fleet's first minutes say more; but they tell a network of one parameter server from one of four.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from flotilla.job.design import FLOAT, SLOTS, Design
from flotilla.job.network_file import NetworkFile

GIB = 2**30
BESIDE = 3 * GIB  # of a trainer's memory that HDFS, the system and TensorFlow take
SHARE = 0.7  # of a host's bandwidth, so that answers don't wait
WORKERS = 2  # where the file doesn't say it
SLOW_SECS = 2.0  # a step that takes CPUs longer is worth a GPU
OVERHEAD_SECS = 0.005  # of a step of any network: its session, and the way to the parameter servers and back
MOST_SERVERS = 8


class Machine(NamedTuple):
    """An instance type."""

    name: str
    memory: int  # GiB
    gigabits: float  # a second that it has at all times
    gigaflops: float  # of training, measured where there was such a host, else by its peak


# From AWS's list of general-purpose, network-optimized and accelerated types, on-demand prices growing in each row
TRAINERS = (
    Machine("m5.large", 8, 0.75, 40), Machine("m5.xlarge", 16, 1.25, 80), Machine("m5.2xlarge", 32, 2.5, 160),
    Machine("m5.4xlarge", 64, 5.0, 320), Machine("m5.12xlarge", 192, 12.0, 960),
)  # fmt: skip
GPUS = (Machine("g4dn.xlarge", 16, 5.0, 2500), Machine("g4dn.2xlarge", 32, 10.0, 2500))
SERVERS = (
    Machine("m5.large", 8, 0.75, 40), Machine("c5n.large", 5, 3.0, 40), Machine("c5n.xlarge", 10, 5.0, 80),
    Machine("c5n.2xlarge", 21, 10.0, 160), Machine("m5.4xlarge", 64, 5.0, 320), Machine("m5.12xlarge", 192, 12.0, 960),
)  # fmt: skip


class Advice(NamedTuple):
    """What a network asks for."""

    servers: int
    server_type: str
    workers: int
    trainer_type: str
    step_secs: float  # of a trainer of that type, without waiting for parameter servers
    busiest: float  # megabits that the busiest parameter server carries in a trainer's step
    notes: tuple[str, ...]


def advise(file: NetworkFile, design: Design) -> Advice:
    """Return parameter servers, workers and instance types; what the file says of them stays as it is."""
    notes: list[str] = []
    optimizer = str(file.settings["optimizer"])
    workers = int(str(file.groups.get("worker", {}).get("count", WORKERS)))
    needed = design.memory(file.batch_size, optimizer, alone=False) + BESIDE
    flops = design.flops(file.batch_size)
    choice = GPUS if flops / TRAINERS[0].gigaflops / 1e9 > SLOW_SECS else TRAINERS
    fitting = [machine for machine in (*choice, *TRAINERS) if machine.memory * GIB >= needed]
    if not fitting:
        notes.append(
            f"A step needs {needed / GIB:.0f} GiB of memory, more than any type here has: take smaller batches."
        )
    trainer = (fitting or TRAINERS[-1:])[0]
    step_secs = flops / trainer.gigaflops / 1e9 + OVERHEAD_SECS
    held = FLOAT * sum(v.elements for v in design.variables) * (1 + SLOTS[optimizer]) + 2 * GIB

    def carried(servers: int) -> float:
        return max(design.traffic(servers))

    def rate(servers: int) -> float:  # gigabits a second of the busiest
        return carried(servers) * (1 + workers) / step_secs / 1000

    for machine in SERVERS:
        least = file.servers or max(1, math.ceil(held / machine.memory / GIB))
        counts = [least] if file.servers else range(least, max(least, min(MOST_SERVERS, len(design.variables))) + 1)
        enough = next((n for n in counts if rate(n) <= SHARE * machine.gigabits), 0)
        if enough and held / enough <= machine.memory * GIB:
            return Advice(enough, machine.name, workers, trainer.name, step_secs, carried(enough), tuple(notes))
    servers = file.servers or min(range(1, min(MOST_SERVERS, len(design.variables)) + 1), key=carried)
    machine = next((machine for machine in SERVERS[3:] if held / servers <= machine.memory * GIB), SERVERS[-1])
    notes.append(
        f"Parameter servers would carry {rate(servers):.1f} Gbit/s, more than they have: trainers will wait for them. "
        "Take larger batches, or fewer workers."
    )
    return Advice(servers, machine.name, workers, trainer.name, step_secs, carried(servers), tuple(notes))


def groups(file: NetworkFile, advice: Advice) -> dict[str, dict[str, object]]:
    """Return the groups as fleet_groups has them: what the file says, and advice for what it leaves out."""
    wanted: dict[str, dict[str, object]] = {
        "ps": {"count": advice.servers, "instance_type": advice.server_type},
        "chief": {"count": 1, "instance_type": advice.trainer_type},
        "worker": {"count": advice.workers, "instance_type": advice.trainer_type},
    }
    return {name: {**group, **file.groups.get(name, {})} for name, group in wanted.items()}
