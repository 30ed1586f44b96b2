"""What benchmarks/sweeps.py measures, in the training's environment: `python swept.py ROW`, prints a line of JSON.

The sweeps are real ones: PostgreSQL (as the tests have it), a lead, and one worker, all of whose processors' seconds
count.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from flotilla import sweeper
from flotilla.storage import s3
from flotilla.sweep import control, plan, queue, report, results
from flotilla.sweep.ledger import DONE, Ledger, Score, Trial
from flotilla.sweep.settings import SweepConfig
from moto import mock_aws
from postgres import PROGRAMS, Server

ROOT = Path(__file__).parent.parent
ROWS, COLUMNS = 10_000, 20
VARIES = {
    "architectures": "layers: [1, 2, 3]\n  nodes: {from: 8, to: 64}",
    "rates": "learning_rate: {from: 0.0001, to: 0.1, scale: log}\nnetwork:\n  network: {layers: [*HIDDEN, *HIDDEN]}\n"
    "  training: {optimizer: adam, batch_size: 128}".replace("*HIDDEN", "{dense: {units: 36, activation: relu}}"),
}
# What varies where the best is looked for
FOR_PEOPLE = """
vary:
  layers: [1, 2, 3]
  nodes: [32, 64, 128, 256]
  activation: [relu, elu]
  dropout: {from: 0.0, to: 0.3}
  optimizer: [adam]
  learning_rate: {from: 0.0005, to: 0.02, scale: log}
  batch_size: [64, 256]
"""
# A training as people write it, in a process of its own
ALONE = """
import sys
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(1); tf.config.threading.set_inter_op_parallelism_threads(1)
x, y = np.load(sys.argv[1]), np.load(sys.argv[2])
model = tf.keras.Sequential([*[tf.keras.layers.Dense(36, "relu") for _ in range(2)], tf.keras.layers.Dense(2)])
model.compile("adam", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
model.fit(x[2000:], y[2000:], 128, 5, 0, validation_data=(x[:2000], y[:2000]))
"""


def cpu(pid: int | str, children: bool = True) -> float:
    """Return the processor's seconds of a process, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if children else 13])) / os.sysconf("SC_CLK_TCK")


def pss(pid: int) -> float:
    """Return a process's memory, its share of what others use, too, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def table(folder: Path) -> None:
    """Write a table of two classes that a small network can learn."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] + x[:, 2] + generator.normal(0, 0.3, ROWS) > 0).astype(np.int64)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    lines = [",".join([*(f"c{number}" for number in range(COLUMNS)), "kind"])]
    lines += [",".join([*(f"{value:.5g}" for value in row), "ab"[kind]]) for row, kind in zip(x, y, strict=True)]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")


def sweep(folder: Path, server: Server, vary: str, trials: int) -> tuple[dict[str, float], float]:
    """Run a sweep with one worker; return the processor's seconds of each process, and the worker's most MB."""
    text = f"data: table.csv\nlabel: kind\ntrials: {trials}\nepochs: 5\nbest: 1\nvary:\n  {vary}\n"
    (folder / "sweep.yml").write_text(text)
    name = f"sweep_{time.monotonic_ns()}"
    content = {
        "sweep": str(folder / "sweep.yml"), "table": str(folder / name / "table"),
        "shared": str(folder / name / "shared"), "target": f"s3://out/{name}/", "database": name,
    }  # fmt: skip
    before = cpu(server.process())
    command = [sys.executable, "-m", "flotilla.trials", "--folder", str(folder / name)]
    worker = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    began, most = resource.getrusage(resource.RUSAGE_SELF), 0.0
    lead = sweeper.Lead(SweepConfig(**content))  # type: ignore[arg-type]  # texts alone
    told = lead._tell

    def tell(counts: dict[str, int]) -> None:
        nonlocal most
        most = max(most, pss(worker.pid))
        told(counts)

    lead._tell = tell  # type: ignore[method-assign]
    lead.run()
    seconds = {"worker": cpu(worker.pid)}
    worker.terminate()
    worker.wait()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds["lead"] = after.ru_utime + after.ru_stime - began.ru_utime - began.ru_stime
    time.sleep(1)
    seconds["PostgreSQL"] = cpu(server.process()) - before
    return seconds, most


def disturbed(folder: Path, server: Server, trials: int, disturb: Callable[[Workers], None]) -> list[Trial]:
    """Run a sweep with four workers, which something is done to meanwhile; return its rows."""
    text = f"data: table.csv\nlabel: kind\ntrials: {trials}\nepochs: 30\nbest: 1\nvary:\n  {VARIES['architectures']}\n"
    text += "  learning_rate: {from: 0.001, to: 0.1, scale: log}\n"  # of layers and nodes alone there are 171
    (folder / "sweep.yml").write_text(text)
    config = SweepConfig(
        sweep=str(folder / "sweep.yml"), table=str(folder / "table"), shared=str(folder / "shared"),
        target="s3://out/disturbed/", database="sweep_disturbed",
    )  # fmt: skip
    os.environ["PGDATABASE"] = control.NAME
    rows = Ledger(f"dbname={config.database}")
    with Workers(folder / "workers", 4) as workers:

        def later() -> None:
            while rows.is_empty() or rows.counts().get(DONE, 0) < trials // 20:
                time.sleep(0.2)
            disturb(workers)

        disturbing = threading.Thread(target=later, daemon=True)
        disturbing.start()
        sweeper.Lead(config).run()
    return list(rows.trials())


class Workers:
    """Processes that train, each of which is started again when it ends, as systemd does it."""

    def __init__(self, folder: Path, count: int) -> None:
        self._command = [sys.executable, "-m", "flotilla.trials", "--folder", str(folder)]
        self.running = [self._start() for _ in range(count)]
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._keeper.join()
        for one in self.running:
            one.kill()
            one.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stderr=subprocess.DEVNULL)

    def _keep(self) -> None:
        while not self._over.wait(2):
            self.running = [self._start() if one.poll() is not None else one for one in self.running]


def wrong(rows: Sequence[Trial], trials: int) -> float:
    """Return how many rows are lost, doubled or failed."""
    done = {one.identity for one in rows if one.state == DONE}
    return float(trials - len(done) + len(rows) - len({one.identity for one in rows}))


def stopped(folder: Path, server: Server) -> tuple[dict[str, float], float]:
    """Stop the server for 12 s; return how many rows are wrong, or were begun anew."""

    def disturb(_workers: Workers) -> None:
        server.stop()
        time.sleep(12)
        server.start()

    rows = disturbed(folder, server, 200, disturb)
    anew = float(sum(one.tries > 1 for one in rows))
    return {"rows": float(len(rows)), "begun anew": anew}, wrong(rows, 200) + anew


def killed(folder: Path, server: Server) -> tuple[dict[str, float], float]:
    """Kill one worker every 30 s; return how many rows are wrong."""
    count = 0

    def disturb(workers: Workers) -> None:
        nonlocal count
        while True:
            workers.running[count % 4].kill()
            count += 1
            time.sleep(30)

    rows = disturbed(folder, server, 300, disturb)
    anew = float(sum(one.tries > 1 for one in rows))
    return {"rows": float(len(rows)), "workers killed": float(count), "begun anew": anew}, wrong(rows, 300)


def speed(folder: Path, server: Server, vary: str, trials: int) -> tuple[dict[str, float], float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    alone = [sys.executable, "-c", ALONE, str(folder / "x.npy"), str(folder / "y.npy")]
    for _time in range(3):
        subprocess.run(alone, check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    each = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 3
    seconds, _most = sweep(folder, server, vary, trials)
    whole = sum(seconds.values()) / trials
    found = {"s of a process a training": each, "s a network of the sweep": whole, "networks a minute": 60 / whole}
    return found | {f"of the sweep {name}": value for name, value in seconds.items()}, each / whole


def memory(folder: Path, server: Server) -> tuple[dict[str, float], float]:
    _seconds, most = sweep(folder, server, VARIES["architectures"], 1000)
    return {}, most


def engine(server: Server, trials: int) -> tuple[dict[str, float], float]:
    """Return the processor's ms a trial that trains nothing, where there are so many."""
    name = f"engine_{trials}"
    server.make(name)
    os.environ["PGDATABASE"] = name
    rows = Ledger()
    rows.make()
    queue.make()
    began = time.process_time()
    rows.add([plan.point_of({"layers": 2, "learning_rate": 0.1 + number}, number) for number in range(trials)])
    queue.fill(rows)
    filled = time.process_time() - began
    wanted = 800
    if trials > wanted:  # as late in the sweep: all but the last ones have ended
        rows.ask(
            lambda c: c.execute(
                "UPDATE trials SET state = 'done', score = random() WHERE number < %s", (trials - wanted,)
            )
        )
        rows.ask(
            lambda c: c.execute(
                "UPDATE procrastinate_jobs SET status = 'succeeded' WHERE (args->'numbers'->>0)::int < %s",
                (trials - wanted,),
            )
        )
        rows.ask(lambda c: c.execute("VACUUM ANALYZE"))
    score = Score(DONE, 0.9, 0.9, None, 0.1, [0.9] * 5, 1.0, 1.0, 100)

    def trial(number: int) -> None:
        begun = rows.begin(number, "here")
        if begun:
            rows.end(number, begun[1], score)

    time.sleep(2)
    server_before, began = cpu(server.process()), time.process_time()
    queue.work(trial, forever=False)
    rows.close()
    time.sleep(2)
    mine, its = time.process_time() - began, cpu(server.process()) - server_before
    assert rows.counts().get("waiting", 0) == 0
    memory = sum(map(pss, family(server.process())))
    each = 1000 * (mine + its) / min(wanted, trials)
    found = {"worker, ms": 1000 * mine / wanted, "PostgreSQL, ms": 1000 * its / wanted, "s to fill": filled}
    return found | {"MB of PostgreSQL": memory}, each


def better(folder: Path, _server: Server) -> tuple[dict[str, float], float]:
    """Return by how many points the best of 100 networks is better than HistGradientBoosting, on three tables.

    Each is split three times. Both are judged by rows that neither has seen: a sweep chooses by a part of its own rows.
    """
    import polars as pl
    import tensorflow as tf

    said = subprocess.run([sys.argv[3], str(ROOT / "benchmarks/rival.py"), str(folder / "rival")],
                          check=True, capture_output=True, text=True)  # fmt: skip
    rival = json.loads(said.stdout.splitlines()[-1])
    figures: dict[str, float] = {}
    for name, label in rival["labels"].items():
        ours, theirs = [], []
        for seed in range(3):
            here = folder / "rival" / f"{name}-{seed}"
            (here / "sweep.yml").write_text(
                f"data: train.csv\nlabel: {label}\ntrials: 100\nhow: tpe\nend_early: true\nepochs: 20\nbest: 1\n"
                f"seed: {seed}\n{FOR_PEOPLE}"
            )
            config = SweepConfig(
                sweep=str(here / "sweep.yml"), table=str(here / "table"), shared=str(here / "shared"),
                target=f"s3://out/{here.name}/", database=f"sweep_{name}_{seed}",
            )  # fmt: skip
            os.environ["PGDATABASE"] = control.NAME
            with Workers(here / "workers", 2):
                best = sweeper.Lead(config).run()["best"]
            prefix = s3.Prefix(config.target)
            model = f"models/{best['number']}/saved_model/"  # type: ignore[index]
            for one in prefix.objects():
                if one.path.startswith(model):
                    to = here / one.path
                    to.parent.mkdir(parents=True, exist_ok=True)
                    to.write_bytes(prefix.read(one.path))
            call = tf.saved_model.load(str(here / model)).signatures["serving_default"]
            test = pl.read_csv(here / "test.csv", infer_schema_length=None)
            given = {
                column: tf.constant(test[column].cast(pl.Float32 if spec.dtype == tf.float32 else pl.String).to_list())
                for column, spec in call.structured_input_signature[1].items()
            }
            guessed = [text.decode() for text in call(**given)["label"].numpy()]
            right = sum(a == str(b) for a, b in zip(guessed, test[label], strict=True))
            ours.append(100 * right / len(test))
            theirs.append(100 * rival["accuracy"][here.name])
        figures[f"{name}, %"], figures[f"{name} by the other, %"] = sum(ours) / 3, sum(theirs) / 3
        print(name, ours, theirs, file=sys.stderr, flush=True)
    return figures, min(figures[f"{name}, %"] - figures[f"{name} by the other, %"] for name in rival["labels"])


def page(folder: Path, server: Server) -> tuple[dict[str, float], float]:
    """Return the MB of the page of 50,000 networks, and the seconds that making it takes."""
    (folder / "wide.yml").write_text(
        f"data: table.csv\nlabel: kind\ntrials: 50000\nvary:\n  {VARIES['architectures']}\n"
    )
    made = plan.load(str(folder / "wide.yml"))
    generator = np.random.default_rng(1)
    found: list[results.Row] = [
        {
            "number": number, "identity": str(number),
            "parameters": {"layers": 1 + number % 3, "nodes": 8 + number % 57}, "state": "done",
            "score": float(generator.random()), "accuracy": 0.9, "rmse": None, "loss": 0.1, "epochs": [0.5] * 5,
            "seconds": float(generator.random()), "cpu_seconds": 1.0, "parameters_count": 100 + number % 999,
            "host": "ps-0", "tries": 1, "started": float(number), "ended": number + 1.0, "error": "",
        }
        for number in range(50_000)
    ]  # fmt: skip
    from flotilla.sweep import columns, numbers
    from flotilla.sweep import table as tables

    described = numbers.prepare(columns.judge(tables.read(folder / "table.csv"), "kind")).description
    began = time.process_time()
    text = report.render(results.frame(found), made, described)
    (Path(sys.argv[2]) / report.NAME).write_text(text, encoding="utf-8")
    return {"MB": len(text) / 1e6, "s to make": time.process_time() - began}, 0.0


def main() -> None:
    """Measure the row that the command line names."""
    os.environ["PATH"] = f"{PROGRAMS}:{os.environ['PATH']}"
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[key] = "testing"
    with tempfile.TemporaryDirectory() as name, mock_aws():
        folder = Path(name)
        folder.chmod(0o755)
        table(folder)
        server = Server(folder)
        server.make(control.NAME)
        os.environ.update(PGHOST="127.0.0.1", PGPORT=str(server.port), PGUSER="flotilla")
        client = s3.connect()
        client.create_bucket(Bucket="out")
        s3.connect = lambda threads=16: client  # type: ignore[assignment]  # as the tests do
        try:
            row = sys.argv[1]
            if row in VARIES:
                found = speed(folder, server, VARIES[row], 100 if row == "architectures" else 300)
            elif row.startswith("engine"):
                found = engine(server, int(row.removeprefix("engine-")))
            else:
                found = {"better": better, "memory": memory, "page": page, "stopped": stopped, "killed": killed}[row](
                    folder, server
                )
        finally:
            server.stop()
    print(json.dumps({"figures": found[0], "value": found[1]}))


if __name__ == "__main__":
    main()
