"""What came of a sweep: its table, its files, the best of it, its pictures and its page; of made-up networks."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest

from flotilla.job import documents
from flotilla.storage import jsons
from flotilla.sweep import charts, plan, report, results
from flotilla.sweep.numbers import Description
from flotilla.sweep.plan import Sweep
from flotilla.sweep.results import Row

VARY = """vary:
  layers: [1, 2, 5, 10, 50, 100]
  nodes: {from: 4, to: 4096}
  activation: [relu, tanh]
  learning_rate: {from: 0.0001, to: 0.1, scale: log}
"""
LISTS = """network:
  network: {layers: [{dense: 8}, {dropout: 0.1}]}
vary:
  network.layers: [[{dense: 8}, {dense: 16}], [{dense: 32}, {dropout: 0.2}]]
  learning_rate: [0.1, 0.01]
"""
HOSTILE = "<script>alert(1)</script> & \"'\x00\ud800\nü"


def judged(more: str = VARY, trials: int = 40) -> Sweep:
    return plan.judge(documents.parse(f"data: rows.csv\nlabel: y\ntrials: {trials}\n{more}", "s.yml", "sweep"))


def row(number: int, **more: Any) -> Row:
    """A network that is done."""
    base: Any = {
        "number": number, "identity": f"{number:012x}", "parameters": {"layers": 1}, "state": "done", "score": 0.5,
        "accuracy": 0.5, "rmse": None, "loss": 0.7, "epochs": [0.25, 0.5], "seconds": 2.0, "cpu_seconds": 3.0,
        "parameters_count": 10, "host": "worker-1", "tries": 1, "started": 1000.0 + number, "ended": 1002.0 + number,
        "error": "",
    }  # fmt: skip
    found: Row = {**base, **more}
    return found


def failed(number: int, error: str = "", **more: Any) -> Row:
    none: Any = dict.fromkeys(("score", "accuracy", "loss", "seconds", "cpu_seconds", "parameters_count", "ended"))
    return row(number, **{**none, "state": "failed", "epochs": [], "error": error, **more})


def learned(sweep: Sweep, count: int) -> Iterator[Row]:
    """The first networks of a sweep, whose learning rate alone matters, and whose layers cost time."""
    for point in sorted(plan.points(sweep), key=lambda point: point.number)[:count]:
        parameters = dict(point.parameters)
        score = 0.9 - 0.1 * abs(math.log10(float(parameters.get("learning_rate", 0.01))) + 2)
        more = {"score": score, "seconds": 1 + 0.1 * float(parameters.get("layers", 1))}
        yield row(point.number, identity=point.identity, parameters=parameters, **more)


def described(task: str = "classification", columns: int = 2) -> Description:
    kinds: Any = ("number", "category")
    return {
        "format": "flotilla-table/1", "table": "rows.csv", "rows": 1000, "training": 800, "held_out": 200,
        "split": 0.2, "seed": 0, "features": [f"c{number}" for number in range(columns)],
        "columns": [
            {
                "name": f"c{number}", "kind": kinds[number % 2], "style": ".", "least": 0.0, "most": 1.0,
                "median": 0.5, "fill": 0.5, "values": [], "missing": False,
            }
            for number in range(columns)
        ],
        "left_out": {"id": "left out: it numbers the rows"},
        "label": {
            "name": "y", "task": task, "classes": [] if task == "regression" else ["no", "yes"],
            "mean": 3.0, "std": 2.0, "style": ".",
        },
        "notes": ["c1: taken as missing: 1 infinite value"],
    }  # fmt: skip


class Page(HTMLParser):
    """The words and elements of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.words, self.tags, self.links = "", list[str](), list[str]()
        self.feed(content)

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name == "href"]


def page(rows: Iterator[Row] | list[Row], sweep: Sweep, description: Description | None = None, **more: Any) -> Page:
    content = report.render(results.frame(rows), sweep, description or described(), **more)
    assert len(content.encode()) < 3_000_000
    assert not re.search(r"(src|href)=\"?(https?:)?//", content)
    return Page(content)


def test_columns_have_types() -> None:
    parameters = {"whole": 1, "real": 1, "flag": True, "words": "relu", "mixed": 1, "huge": 1}
    other = {"whole": 2, "real": 0.5, "flag": False, "words": "[1,2]", "mixed": "none", "huge": 10**30, "late": 3}
    frame = results.frame([row(1, parameters=other), row(0, parameters=parameters)])
    assert frame["number"].to_list() == [0, 1]
    assert frame.schema["whole"] == pl.Int64
    assert frame["real"].to_list() == [1.0, 0.5]
    assert frame.schema["flag"] == pl.Boolean
    assert frame["words"].to_list() == ["relu", "[1,2]"]
    assert frame["mixed"].to_list() == ["1", "none"]
    assert frame["huge"].to_list() == ["1", str(10**30)]
    assert frame["late"].to_list() == [None, 3]
    assert frame["host"].to_list() == ["worker-1"] * 2
    assert frame["error"].to_list() == [None] * 2
    assert frame["epochs"].to_list() == [[0.25, 0.5]] * 2


def test_what_is_not_finite_is_missing() -> None:
    frame = results.frame(
        [row(0, score=math.nan, loss=math.inf, epochs=[0.5, math.nan], parameters={"a": math.nan, "b": -math.inf})]
    )
    assert frame.select("score", "loss", "a", "b").row(0) == (None,) * 4
    assert frame["epochs"].to_list() == [[0.5, None]]
    assert results.scored(frame).height == 0


def test_a_parameter_that_is_called_as_a_result_has_a_prefix() -> None:
    parameters = {"score": 3, "parameter_score": 4, "plain": 5}
    frame = results.frame([row(0, parameters=parameters)])
    assert frame["score"].to_list() == [0.5]
    assert frame["parameter_score"].to_list() == [3]
    assert list(results.parameters_of(frame).values()) == list(parameters)
    best = results.summary(frame, judged())["best"][0]
    assert best["parameters"] == parameters


def test_no_rows_make_a_table(tmp_path: Path) -> None:
    frame = results.frame([])
    assert dict(frame.schema) == results.RESULTS
    results.write(frame, tmp_path)
    assert (tmp_path / results.CSV).read_text() == ",".join(results.RESULTS) + "\n"


def test_files_hold_the_table(tmp_path: Path) -> None:
    rows = [row(0, parameters={"a": 0.1, "b": True, "c": "tanh"}), failed(1, parameters={"a": 1e-7, "b": False})]
    frame = results.frame(rows)
    results.write(frame, tmp_path)
    assert pl.read_parquet(tmp_path / results.PARQUET).equals(frame)
    with (tmp_path / results.CSV).open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (float(first["a"]), first["b"], first["c"], first["score"]) == (0.1, "true", "tanh", "0.5")
    assert (float(second["a"]), second["score"], second["c"], second["error"]) == (1e-7, "", "", "")
    assert json.loads(first["epochs"]) == [0.25, 0.5]
    assert json.loads(second["epochs"]) == []


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("=1+1", "'=1+1"),
        ("  =1+1", "  '=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", " '=1"),
        ('fine;"=1+1"', 'fine;"\'=1+1"'),
        ("＝1", "'＝1"),  # noqa: RUF001
        ("-2", "-2"),
        ("+1.5e-3", "+1.5e-3"),
        ("[-1,2]", "[-1,2]"),
        ("a = b, a-b", "a = b, a-b"),
    ],
)
def test_no_text_is_a_formula(tmp_path: Path, words: str, written: str) -> None:
    results.write(results.frame([failed(0, words, parameters={words: words})]), tmp_path)
    with (tmp_path / results.CSV).open(newline="") as file:
        heads, cells = csv.reader(file)
    found = dict(zip(heads, cells, strict=True))
    assert found["error"] == written
    assert found[written] == written
    assert results.frame([failed(0, words)])["error"].to_list() == [words.replace("\t", " ")]


def test_the_best_are_the_smallest_and_earliest_of_equals() -> None:
    frame = results.frame(
        [
            row(0, score=0.9, parameters_count=None), row(1, score=0.9, parameters_count=20),
            row(2, score=0.9, parameters_count=10), row(3, score=0.9, parameters_count=10),
            row(4, score=0.95, parameters_count=99, state="ended early"), row(5, score=math.nan),
            failed(6, score=0.99), row(7, score=1.0, state="running"), row(8, score=0.1),
        ]
    )  # fmt: skip
    assert results.best(frame, 5)["number"].to_list() == [4, 2, 3, 1, 0]
    assert results.best(frame, 50)["number"].to_list() == [4, 2, 3, 1, 0, 8]


def test_the_summary_counts() -> None:
    rows = [
        *(row(number) for number in range(6)), row(6, score=math.nan), row(7, state="ended early"),
        failed(8, "The loss is NaN after epoch 3."), failed(9, "The loss is NaN after epoch 12."), failed(10),
        failed(11, state="running"), failed(12, state="waiting", started=None),
    ]  # fmt: skip
    found = results.summary(results.frame(rows), judged())
    assert found["networks"] == 40
    assert found["states"] == {"done": 7, "ended early": 1, "failed": 3, "running": 1, "waiting": 1}
    assert found["without_score"] == 1
    assert [one["number"] for one in found["best"]] == [0, 1, 2, 3, 4]
    assert found["processor_hours"] == pytest.approx(8 * 3 / 3600)
    assert found["wall_seconds"] == 9
    assert found["networks_per_minute"] == pytest.approx(60 * 8 / 9)
    assert found["failures"] == [
        {"reason": "The loss is NaN after epoch 3.", "count": 2, "numbers": [8, 9]},
        {"reason": "no reason is known", "count": 1, "numbers": [10]},
    ]
    assert json.loads(jsons.dumps(found)) == found


def test_the_summary_of_nothing() -> None:
    found = results.summary(results.frame([]), judged())
    assert (found["networks"], found["best"], found["failures"]) == (40, [], [])
    assert found["processor_hours"] is found["wall_seconds"] is found["networks_per_minute"] is None


def test_each_parameter_has_a_picture() -> None:
    sweep = judged(trials=300)
    frame = results.frame(learned(sweep, 300))
    drawn = charts.pictures(frame, sweep, "classification")
    assert [one.title for one in drawn[:3]] == ["Which parameters matter", "The sweep's course", "learning rate"]
    labels = {"hidden layers", "nodes of each hidden layer", "activation", "learning rate"}
    assert {one.title for one in drawn[2:]} == labels
    assert "Median and best are of 12 equal parts" in drawn[2].text
    for one in drawn:
        words = " ".join(ElementTree.fromstring(one.svg).itertext())
        assert one is drawn[0] or "accuracy (share)" in words
        assert one in drawn[:2] or "training time (s)" in words
    words = " ".join(ElementTree.fromstring(next(one.svg for one in drawn if "layers" in one.title)).itertext())
    assert all(f" {layers} " in words for layers in (1, 2, 5, 10, 50, 100))
    assert charts.pictures(frame, sweep, "classification") == drawn
    regression = charts.pictures(frame, sweep, "regression")
    assert all("R²" in one.svg for one in regression[1:])


def test_many_networks_are_thinned() -> None:
    sweep = judged("vary: {nodes: {from: 1, to: 5000}}\n", 5000)
    frame = results.frame(learned(sweep, 5000)).with_columns(score=pl.col("number") / 5000)
    drawn = charts.pictures(frame, sweep, "classification")
    assert "of 3,000 of 5,000 networks" in drawn[0].text
    assert drawn[1].text.startswith("2,000 of 5,000 networks are drawn.")
    assert sum(len(one.svg) for one in drawn) < 500_000


def test_scores_far_below_do_not_squeeze_the_others() -> None:
    sweep = judged()
    rows = list(learned(sweep, 40))
    for number, one in enumerate(rows[:5]):
        one["score"] = -(10.0**number)
    drawn = charts.pictures(results.frame(rows), sweep, "regression")
    assert "5 that score less are drawn at the edge" in drawn[1].text
    ticks = [word.replace("\N{MINUS SIGN}", "-") for word in ElementTree.fromstring(drawn[1].svg).itertext()]
    assert "-10000" not in ticks


@pytest.mark.parametrize("count", [0, 1])
def test_of_few_networks_nothing_is_drawn(count: int) -> None:
    sweep = judged()
    rows = [*learned(sweep, count), *(failed(number, "no") for number in range(count, 40))]
    assert charts.pictures(results.frame(rows), sweep, "classification") == []
    shown = page(rows, sweep)
    assert f"There is nothing to draw: {count} networks have a score" in shown.words
    assert "All 40 networks are finished" in shown.words
    assert ("No network has a score." in shown.words) == (count == 0)
    assert "reason, but for its numbers" in shown.words


@pytest.mark.parametrize(
    ("count", "score", "why"),
    [
        (2, None, "2 networks have a score, and 10 are the least"),
        (9, None, "9 networks have a score, and 10 are the least"),
        (20, 1.0, "nearly all networks have the same score"),
    ],
)
def test_importances_that_cannot_be_said(count: int, score: float | None, why: str) -> None:
    sweep = judged()
    rows = list(learned(sweep, count))
    for one in rows if score else ():
        one["score"] = score
    drawn = charts.pictures(results.frame(rows), sweep, "classification")
    assert drawn[0] == ("Which parameters matter", f"That can't be said: {why}.", "")
    assert all(one.svg for one in drawn[1:])
    assert why in page(rows, sweep).words


def test_without_parameters_or_times_the_course_is_drawn() -> None:
    sweep = judged()
    rows = [row(number, score=number / 20, seconds=None, ended=None) for number in range(20)]
    importance, course = charts.pictures(results.frame(rows), sweep, "classification")
    assert importance.text == "That can't be said: no parameter has several values."
    assert "networks, in the order of their numbers" in course.svg


def test_lists_are_categories() -> None:
    sweep = judged(LISTS, 4)
    rows = list(learned(sweep, 4)) * 5
    frame = results.frame(rows)
    assert frame["network.layers"].to_list()[0] == '[{"dense":8},{"dense":16}]'
    drawn = charts.pictures(frame, sweep, "classification")
    picture = next(one for one in drawn if one.title == "network.layers")
    assert {"dense:8,dense:16", "dense:32,dropout:0.2"} < set(ElementTree.fromstring(picture.svg).itertext())
    assert '[{"dense":8},{"dense":16}]' in page(rows, sweep).words


def test_of_many_categories_the_best_are_drawn() -> None:
    sweep = judged()
    rows = [row(n, parameters={"activation": f"${n % 30}_{HOSTILE}"}, score=n % 30 / 30) for n in range(60)]
    picture = charts.pictures(results.frame(rows), sweep, "classification")[2]
    assert "Of 30 values, the 12 with the best median are drawn." in picture.text
    shown = [word for word in ElementTree.fromstring(picture.svg).itertext() if word.startswith("$")]
    assert [word[:4] for word in shown] == [f"${number}_" for number in range(29, 17, -1)]


def test_the_page_says_how_far_a_sweep_is() -> None:
    sweep = judged()
    rows = [
        *learned(sweep, 12), failed(12, "The host ended."),
        failed(13, state="running"), failed(14, state="waiting", started=None),
    ]  # fmt: skip
    shown = page(rows, sweep)
    said = "In progress: 13 of 40 networks are finished (32 %): 12 done, 1 failed, 1 running, 1 waiting, 25 not begun."
    assert said in shown.words
    assert "progress" in shown.tags
    none = page([], sweep)
    assert "In progress: 0 of 40 networks are finished (0 %): 40 not begun." in none.words
    assert "No network has a score." in none.words


def test_the_page_shows_what_was_asked_and_what_came() -> None:
    sweep = judged()
    shown = page(learned(sweep, 40), sweep, models={2, 39})
    for line in (*plan.says(sweep, 40), *described()["notes"], "id: left out: it numbers the rows"):
        assert line in shown.words
    assert "1,000 rows, of which 800 are trained on and 200 are held out (20 %, seed 0)" in shown.words
    assert "to predict: y, 2 classes: no, yes" in shown.words
    assert {"trials.csv", "trials.parquet"} < set(shown.links) <= {
        "trials.csv", "trials.parquet", "models/2/", "models/39/",
    }  # fmt: skip
    assert shown.tags.count("img") == 6
    assert "The best 40 of 40 networks, with all parameters" in shown.words


def test_the_page_of_a_regression() -> None:
    sweep = judged()
    shown = page([row(number, score=-5.0, rmse=2.5) for number in range(3)], sweep, described("regression"))
    assert "y, a number (mean 3, standard deviation 2)" in shown.words
    assert "highest R²: -5" in shown.words
    assert "RMSE" in shown.words


def test_strange_texts_stay_texts() -> None:
    sweep = judged()
    description = described()
    description["left_out"] = {HOSTILE: HOSTILE}
    description["notes"] = [HOSTILE]
    description["label"]["classes"] = [HOSTILE, "b"]
    description["label"]["name"] = description["table"] = description["columns"][0]["name"] = HOSTILE
    rows: list[Row] = [
        row(n, parameters={HOSTILE: HOSTILE, "activation": f"{HOSTILE}{n}"}, host=HOSTILE, score=n / 20)
        for n in range(20)
    ]
    rows.append(failed(20, HOSTILE))
    shown, plainly = page(rows, sweep, description), page(learned(sweep, 20), sweep)
    assert shown.tags.count("script") == plainly.tags.count("script") == 1
    assert shown.words.count("<script>alert(1)</script> & \"'") > 20


def test_a_page_has_an_end() -> None:
    sweep = judged("vary: {layers: [1, 2]}\n", 2)
    description = described(columns=5000)
    description["left_out"] = {f"out {number}": "why not " * 100 for number in range(5000)}
    description["notes"] = ["of note " * 100] * 5000
    description["label"]["classes"] = [f"class {number}" for number in range(10_000)]
    rows: list[Row] = [
        row(number, parameters={f"layer {place}": "<" * 1000 for place in range(100)}, score=number / 1000)
        for number in range(1000)
    ]
    rows += [failed(1000 + number, chr(0x4E00 + number) * 1000) for number in range(1000)]
    shown = page(rows, sweep, description)
    assert "columns used: 5,000 (2,500 of kind category, 2,500 of kind number)" in shown.words
    assert "c199 and 4,800 more" in shown.words
    assert "The best 200 of 2,000 networks, with 40 of 101 parameters" in shown.words
    assert "And 900 more reasons." in shown.words


def test_pictures_that_are_too_large_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "MOST_BYTES", 100_000)
    sweep = judged()
    drawn = charts.pictures(results.frame(learned(sweep, 40)), sweep, "classification")
    assert drawn[-1].title == "Other parameters"
    assert "Not drawn, for the page's size: " in drawn[-1].text
    assert sum(len(one.svg) for one in drawn) <= 100_000


def test_the_same_rows_make_the_same_files(tmp_path: Path) -> None:
    sweep = judged()
    written = []
    for name in ("a", "b"):
        frame = results.frame(learned(sweep, 40))
        (tmp_path / name).mkdir()
        results.write(frame, tmp_path / name)
        files = [(tmp_path / name / file).read_bytes() for file in (results.CSV, results.PARQUET)]
        written.append((files, report.render(frame, sweep, described())))
    assert written[0] == written[1]
