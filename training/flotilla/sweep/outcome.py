"""What a sweep leaves, as files of one folder: all trials as a table, a page of them, the best networks' models."""

from __future__ import annotations

import json
from pathlib import Path

from flotilla.storage import jsons
from flotilla.sweep import export, plan, report, results, stored
from flotilla.sweep.ledger import Ledger
from flotilla.sweep.plan import Point
from flotilla.sweep.results import Row
from flotilla.sweep.trial import Trainer

SUMMARY = "summary.json"
SWEEP = "sweep.yml"


def make(path: str, table: str, folder: str) -> None:
    """Write the files of a sweep, of a prepared table on this host; the best networks are trained again for it."""
    sweep, work, rows = plan.load(path), Path(folder), Ledger()
    prepared = stored.load(Path(table))
    description = prepared.description
    trainer = Trainer(prepared)
    chosen = rows.best(sweep.best)
    for one in chosen:
        point = Point(one.number, one.identity, one.parameters)
        classes = len(description["label"]["classes"])
        network = plan.made(sweep, point, description["features"], classes)
        trained = trainer.train(network, plan.architecture_of(point), plan.seed_of(sweep, point))
        place = work / report.MODELS / str(one.number)
        trainer.export(place / "saved_model")
        (place / "network.yml").write_text(export.network_file(network), encoding="utf-8")
        # Another kind of processor rounds otherwise
        said = {"parameters": dict(point.parameters), "score": one.score, "score_again": trained.score}
        (place / "result.json").write_text(jsons.dumps(said, indent=2) + "\n", encoding="utf-8")
    frame = results.frame(_row(one._asdict()) for one in rows.trials())
    results.write(frame, work)
    page = report.render(frame, sweep, description, {one.number for one in chosen})
    (work / report.NAME).write_text(page, encoding="utf-8")
    (work / stored.DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    (work / SUMMARY).write_text(jsons.dumps(results.summary(frame, sweep), indent=2) + "\n", encoding="utf-8")
    (work / SWEEP).write_bytes(Path(path).read_bytes())


def _row(content: dict[str, object]) -> Row:
    row: Row = content  # type: ignore[assignment]  # a Trial has the same fields
    return row
