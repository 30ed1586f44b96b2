"""Whole sweeps on a real PostgreSQL: killed workers, a server that is away, a fleet that takes another's over."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from moto import mock_aws
from postgres import PROGRAMS, Server

from flotilla import sweeper
from flotilla.job.errors import BadInput, Temporary
from flotilla.storage import s3
from flotilla.sweep import control, plan, queue
from flotilla.sweep import database as databases
from flotilla.sweep.ledger import DONE, EARLY, FAILED, WAITING, Ledger, Score
from flotilla.sweep.settings import SweepConfig

SWEEPS = Path(__file__).parents[2] / "sweeps"
SWEEP = """
data: flowers.csv
label: kind
trials: 24
epochs: 6
best: 2
vary:
  layers: [1, 2]
  nodes: [4, 8, 16]
  learning_rate: {from: 0.001, to: 0.1, scale: log}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("postgres"))
    found.make(control.NAME)
    yield found
    with contextlib.suppress(subprocess.CalledProcessError):
        found.stop()


@pytest.fixture
def connected(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has all programs use the server."""
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")
    for key, value in (
        ("PGHOST", "127.0.0.1"), ("PGPORT", str(server.port)), ("PGUSER", "flotilla"), ("PGDATABASE", control.NAME),
    ):  # fmt: skip
        monkeypatch.setenv(key, value)


@pytest.fixture
def database(server: Server, connected: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes an empty database, and has this process use it."""

    def use(name: str) -> None:
        server.make(name)
        monkeypatch.setenv("PGDATABASE", name)

    return use


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """S3 by moto, with the bucket `out`."""
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    with mock_aws():
        client = s3.connect()
        client.create_bucket(Bucket="out")
        monkeypatch.setattr(s3, "connect", lambda: client)
        yield client


@pytest.fixture
def config(tmp_path: Path) -> SweepConfig:
    """A sweep over a table of three kinds of flowers."""
    rows = [f"{kind * 2 + n % 7 / 7:.3f};{kind - n % 5 / 9:.3f};{'abc'[kind]}" for n in range(60) for kind in range(3)]
    (tmp_path / "flowers.csv").write_text("\n".join(["long;wide;kind", *rows]) + "\n")
    (tmp_path / "flowers.yml").write_text(SWEEP)
    content = {
        "sweep": str(tmp_path / "flowers.yml"), "table": str(tmp_path / "table"), "shared": str(tmp_path / "shared"),
        "target": "s3://out/flowers/", "progress": str(tmp_path / "progress.json"),
        "database": f"sweep_{time.time_ns()}", "done_file": str(tmp_path / "sweep.done"),
    }  # fmt: skip
    return SweepConfig(**content)


@contextlib.contextmanager
def workers(tmp_path: Path, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    command = [sys.executable, "-m", "flotilla.trials", "--folder", str(tmp_path / "workers")]
    found = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield found
    finally:
        for one in found:
            one.kill()
            one.wait()


def table(client: Any) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(client.get_object(Bucket="out", Key="flowers/trials.parquet")["Body"].read()))


def test_every_network_has_one_row_whoever_is_killed(
    server: Server, connected: None, stored: Any, config: SweepConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A worker is killed, then the server for some seconds; another fleet finds all done in the copy."""
    monkeypatch.setattr(queue, "LOST_SECS", 7.0)  # of the lead alone; its workers beat each 5 s
    with workers(tmp_path, 2) as running:

        def disturb() -> None:
            rows = Ledger(f"dbname={config.database}")
            while rows.is_empty() or rows.counts().get(DONE, 0) < 4:
                time.sleep(0.1)
            running[0].send_signal(signal.SIGKILL)
            server.stop()
            time.sleep(3)
            server.start()

        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        content = sweeper.Lead(config).run()
        disturbing.join()
    found = table(stored)
    assert content["counts"] == {DONE: 24}
    assert sorted(found["number"]) == list(range(24)) and found["identity"].n_unique() == 24
    assert found["tries"].max() <= 2 and set(found["state"]) == {DONE}
    best = found.sort("score", descending=True)["score"][0]
    assert best > 0.9
    keys = {one["Key"].removeprefix("flowers/") for one in stored.list_objects_v2(Bucket="out")["Contents"]}
    assert {"index.html", "trials.csv", "manifest.json", "sweep.yml", "sweep/trials.dump"} <= keys
    assert sum(key.endswith("saved_model.pb") for key in keys) == 2 == sum(key.endswith("network.yml") for key in keys)

    stored.delete_object(Bucket="out", Key="flowers/manifest.json")  # the first fleet ended just before
    again = sweeper.Lead(dataclasses.replace(config, database="second")).run()  # without any worker
    assert again["counts"] == content["counts"] and table(stored)["seconds"].to_list() == found["seconds"].to_list()


def test_a_sampler_and_trials_without_hope(connected: None, stored: Any, config: SweepConfig, tmp_path: Path) -> None:
    text = SWEEP.replace("trials: 24", "trials: 30\nhow: tpe\nend_early: true").replace("epochs: 6", "epochs: 8")
    (tmp_path / "flowers.yml").write_text(text)
    with workers(tmp_path, 1) as running:
        content = sweeper.Lead(config).run()
        assert running[0].wait(60) == 0, "a worker ends with the sweep"
    found = table(stored)
    assert sum(content["counts"].values()) == 30 == found["identity"].n_unique()  # type: ignore[attr-defined]
    assert set(found["state"]) <= {DONE, EARLY, FAILED} and (found["state"] == EARLY).any()
    assert all(len(epochs) < 8 for epochs in found.filter(pl.col("state") == EARLY)["epochs"])


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.yml")), ids=lambda file: file.stem)
def test_the_kits_own_sweeps(connected: None, stored: Any, config: SweepConfig, tmp_path: Path, file: Path) -> None:
    """Each with fewer networks than it asks for."""
    content = yaml.safe_load(file.read_text()) | {
        "trials": 3 if file.stem == "defaults" else 24,
        "epochs": 20,
        "best": 1,
    }
    (tmp_path / "flowers.yml").write_text(yaml.safe_dump(content))
    (tmp_path / content["data"]).write_bytes((SWEEPS / content["data"]).read_bytes())
    with workers(tmp_path, 1):
        sweeper.Lead(config).run()
    found = table(stored)
    assert set(found["state"]) == {DONE}
    assert found["accuracy"].max() > (0.9 if file.stem == "iris" else 0.3)


def test_a_target_that_holds_something_else_is_refused(
    connected: None, stored: Any, config: SweepConfig, tmp_path: Path
) -> None:
    stored.put_object(Bucket="out", Key="flowers/photo.jpg", Body=b"")
    with pytest.raises(BadInput, match=r"has photo\.jpg, and no sweep"):
        sweeper.Lead(config).run()
    stored.delete_object(Bucket="out", Key="flowers/photo.jpg")
    stored.put_object(Bucket="out", Key="flowers/sweep/sweep.json", Body=b"{}")
    with pytest.raises(BadInput, match="holds another sweep"):
        sweeper.check(config, 1, 0)


def test_the_check_says_what_would_be_done(stored: Any, config: SweepConfig, tmp_path: Path) -> None:
    found = sweeper.check(config, 4, 0.5)
    text = "\n".join(str(line) for line in found["says"])  # type: ignore[attr-defined]
    assert "flowers.csv: 180 rows, 3 columns" in text and "24 networks that learn kind" in text
    assert "it takes 4 workers about" in text and "costs $0.01" in text
    assert not list(stored.list_objects_v2(Bucket="out").get("Contents", []))


def test_a_sweep_is_begun_and_ended_by_a_file(
    connected: None, stored: Any, config: SweepConfig, tmp_path: Path
) -> None:
    """As playbook and page do it; systemd has the lead run while the file is there."""
    (tmp_path / "flowers.yml").write_text(SWEEP.replace("trials: 24", "trials: 300") + "network: shape.yml\n")
    (tmp_path / "shape.yml").write_text("network: {layers: [dense: {units: 8}]}\n")
    rows = Ledger(f"dbname={config.database}")

    def lead_until(more: int, then: Callable[[], None]) -> int:
        """Run the lead, and do something when so many networks are done; return its exit code."""

        def disturb() -> None:
            while rows.is_empty() or rows.counts().get(DONE, 0) < more:
                time.sleep(0.1)
            then()

        disturbing = threading.Thread(target=disturb)
        disturbing.start()
        code = sweeper.main(["run", "--config", str(tmp_path / control.FILE)])
        disturbing.join()
        return code

    control.begin(tmp_path, config)
    with workers(tmp_path, 1) as running:
        assert lead_until(1, lambda: control.stop(tmp_path)) == 0 and control.Control().running() is None
        assert json.loads((tmp_path / "progress.json").read_text())["state"] == "stopped"
        assert running[0].wait(60) == 0 and rows.counts()[WAITING]
    other = dataclasses.replace(config, sweep="another")
    control.begin(tmp_path, config)
    with workers(tmp_path, 2):
        more = rows.counts()[DONE] + 1
        assert lead_until(more, lambda: control.begin(tmp_path, other)) == Temporary.code, "systemd starts it again"
    assert control.now(tmp_path) == other
    control.begin(tmp_path, config)
    with workers(tmp_path, 1):
        assert lead_until(0, lambda: None) == 0
    assert control.now(tmp_path) is None and json.loads((tmp_path / "sweep.done").read_text())["counts"] == {DONE: 300}
    rows.close()


def test_a_lead_without_a_sweep_tells_the_workers_so(connected: None, tmp_path: Path) -> None:
    """Of a sweep that was stopped while no lead ran."""
    fleet = control.Control()
    fleet.ask(lambda connection: connection.execute("DROP TABLE IF EXISTS running"))
    assert sweeper.main(["run", "--config", str(tmp_path / control.FILE)]) == 0, "nor was there one before"
    fleet.make("sweep_stopped")
    fleet.say(control.Running("sweep_stopped", "s.yml", {"s.yml": ""}, "shared", 1.0))
    assert fleet.running() is not None
    assert sweeper.main(["run", "--config", str(tmp_path / control.FILE)]) == 0
    assert fleet.running() is None
    fleet.close()


def test_a_stop_while_the_table_is_prepared_claims_nothing(
    connected: None, stored: Any, config: SweepConfig, tmp_path: Path
) -> None:
    with pytest.raises(sweeper.Stopped):
        sweeper.Lead(config, wanted=lambda: False).run()
    assert "Contents" not in stored.list_objects_v2(Bucket="out")


def points(count: int) -> list[plan.Point]:
    return [plan.point_of({"layers": number}, number) for number in range(count)]


def score(value: float, epochs: int = 3) -> Score:
    return Score(DONE, value, value, None, 0.1, [value] * epochs, 1.0, 1.0, 7)


def test_a_trial_has_two_tries_and_belongs_to_the_last(database: Callable[[str], None]) -> None:
    database("tries")
    rows = Ledger()
    rows.make()
    rows.make()
    rows.add(points(3))
    rows.add(points(4))
    assert rows.counts() == {WAITING: 4} and [number for number, _ in rows.open()] == [0, 1, 2, 3]
    begun = rows.begin(0, "a")
    assert begun and (begun[0], begun[1]) == (points(1)[0], 1)
    rows.give_up(0)  # its host has gone
    rows.give_up(1)  # which had not begun
    assert rows.counts() == {WAITING: 4}
    again = rows.begin(0, "b")
    assert again and again[1] == 2
    assert not rows.end(0, 1, score(0.5)), "by the first, which was only slow"
    rows.give_up(0)
    (failed,) = [one for one in rows.trials() if one.state == FAILED]
    assert failed.error == "its worker ended or stood still 2 times, the last time on b: too little memory?"
    assert rows.begin(0, "c") is None
    assert rows.begin(1, "c") and rows.end(1, 1, score(0.9)) and not rows.end(1, 1, score(0.9))
    assert rows.begin(2, "c") and rows.fail(2, 1, "the loss is no number")
    assert rows.counts() == {WAITING: 1, DONE: 1, FAILED: 2}
    assert [one.number for one in rows.best(5)] == [1] and rows.best(5)[0].epochs == [0.9] * 3
    assert [one.number for one in rows.ended(0.0)] == [0, 1, 2] and rows.ended(time.time() + 60) == []
    rows.close()


def test_trials_below_the_median_of_others_are_hopeless(database: Callable[[str], None]) -> None:
    database("median")
    rows = Ledger()
    rows.make()
    rows.add(points(12))
    for number in range(11):
        assert not rows.hopeless(2, 0.0), "too few have come as far"
        rows.begin(number, "a")
        rows.end(number, 1, score(number / 10, epochs=3 if number != 4 else 1))
    assert rows.hopeless(2, 0.49) and not rows.hopeless(2, 0.55)
    assert not rows.hopeless(4, 0.0), "nobody has come as far"
    rows.close()


def test_a_server_that_answers_nothing_is_asked_again(
    server: Server, database: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    database("frozen")
    monkeypatch.setattr(databases, "ANSWER_SECS", 1.0)
    rows = Ledger(patience=20)
    rows.make()
    process = server.process()
    os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(Temporary, match=r"PostgreSQL doesn't answer"):
            Ledger(patience=0).make()
        threading.Timer(3, os.kill, (process, signal.SIGCONT)).start()
        rows.close()
        rows.add(points(2))
    finally:
        os.kill(process, signal.SIGCONT)
    assert rows.counts() == {WAITING: 2}
    rows.close()


def test_another_table_is_another_sweep(connected: None, stored: Any, config: SweepConfig, tmp_path: Path) -> None:
    (tmp_path / "flowers.yml").write_text(SWEEP.replace("trials: 24", "trials: 2"))
    with workers(tmp_path, 1):
        sweeper.Lead(config).run()
    assert sweeper.check(config, 1, 0)["done"] is True
    before = {one["Key"]: one["ETag"] for one in stored.list_objects_v2(Bucket="out")["Contents"]}
    sweeper.Lead(config).run()
    assert {one["Key"]: one["ETag"] for one in stored.list_objects_v2(Bucket="out")["Contents"]} == before
    with (tmp_path / "flowers.csv").open("a") as file:
        file.write("9;9;a\n")
    with pytest.raises(BadInput, match="holds another sweep"):
        sweeper.check(config, 1, 0)
    (tmp_path / "flowers.csv").unlink()
    with pytest.raises(BadInput, match=r"there is no file .*flowers\.csv \(data\)"):
        sweeper.check(config, 1, 0)


def test_a_table_in_s3_is_fetched(stored: Any, tmp_path: Path) -> None:
    stored.put_object(Bucket="out", Key="tables/my flowers.csv", Body=b"a,b\n1,2\n")
    (tmp_path / "s.yml").write_text("data: s3://out/tables/my flowers.csv\nlabel: b\n")
    found = sweeper.fetch(plan.load(str(tmp_path / "s.yml")), tmp_path)
    assert found.read_bytes() == b"a,b\n1,2\n"
    (tmp_path / "s.yml").write_text("data: /home/me/tables/t.csv\nlabel: b\n")
    with pytest.raises(BadInput, match=r"there is no file /home/me/tables/t\.csv \(data\)"):
        sweeper.fetch(plan.load(str(tmp_path / "s.yml")), tmp_path)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")  # as the playbook brings it
    assert sweeper.fetch(plan.load(str(tmp_path / "s.yml")), tmp_path) == tmp_path / "t.csv"
    (tmp_path / "s.yml").write_text("data: s3://out/tables/none.csv\nlabel: b\n")
    with pytest.raises(BadInput, match=r"line 1: there is no s3://out/tables/none\.csv \(data\)"):
        sweeper.fetch(plan.load(str(tmp_path / "s.yml")), tmp_path)
