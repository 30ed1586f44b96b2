"""The page that shows what came of a sweep: one file of HTML, with its pictures in it."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Container, Sequence

import polars as pl

from flotilla.sweep import plan, results
from flotilla.sweep.charts import LEAST, Picture, pictures
from flotilla.sweep.numbers import Description
from flotilla.sweep.plan import Sweep
from flotilla.sweep.results import CSV, PARQUET, STATES, Failure, Summary, plain

NAME = "index.html"
MODELS = "models"  # beside the page, a folder for each network that is kept, called by its number
MOST_ROWS, MOST_BEST = 200, 50
MOST_COLUMNS = 40  # of parameters
_MOST_LINES, _MOST_NAMES, _MOST_CLASSES = 100, 200, 20
_CUT, _CUT_CELL, _CUT_BEST = 500, 40, 300  # characters of a line, and of a cell

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .6rem; text-align: left; vertical-align: top }
td { overflow-wrap: anywhere; min-width: 5rem; max-width: 24rem } td.n, th.n { text-align: right }
td.n { min-width: 0; font-variant-numeric: tabular-nums; white-space: nowrap; overflow-wrap: normal }
tbody tr:nth-child(odd) { background: #f5f5f5 }
.wide { overflow-x: auto } .rows { max-height: 40rem; overflow: auto; font-size: .85rem }
.rows th { position: sticky; top: 0; background: #fff }
th button { all: unset; cursor: pointer; font-weight: bold } th button:focus-visible { outline: 2px solid #0072b2 }
th[aria-sort=ascending] button::after { content: " ▲" } th[aria-sort=descending] button::after { content: " ▼" }
.pictures { columns: 22rem; column-gap: 2rem }
figure { margin: 0 0 1.5rem; break-inside: avoid } figure img { width: 100% } figcaption { font-size: .85rem }
progress { width: 20rem; max-width: 100% } li { overflow-wrap: anywhere }
"""
# Cells without a number stay below
_SCRIPT = """
for (const head of document.querySelectorAll("th button")) head.onclick = () => {
  const cell = head.parentNode, body = cell.closest("table").tBodies[0], at = cell.cellIndex
  const sign = cell.getAttribute("aria-sort") === "descending" ? 1 : -1
  const number = cell.className === "n", text = row => row.cells[at].textContent
  const order = (a, b) => number ? a - b : a.localeCompare(b)
  const rows = [...body.rows].sort((a, b) =>
    (text(a) === "") - (text(b) === "") || sign * order(text(a), text(b)))
  for (const other of cell.parentNode.cells) other.removeAttribute("aria-sort")
  cell.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending")
  body.append(...rows)
}
"""
# Nothing is loaded from anywhere, whatever the texts of a table may hold
_RULES = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_HEADS = {
    "number": "network", "parameters_count": "weights", "seconds": "training (s)", "cpu_seconds": "processor (s)",
    "rmse": "RMSE",
}  # fmt: skip


def render(frame: pl.DataFrame, sweep: Sweep, description: Description, models: Container[int] = ()) -> str:
    """Return the page of a sweep, be it done, in progress, or not begun; the same for the same arguments.

    It links CSV, PARQUET and MODELS, which lie beside it.

    Args:
        frame: a table as `results.frame` returns it.
        description: of the table that the networks learn, as `numbers.prepare` makes it.
        models: the numbers of the networks that have a folder in MODELS.
    """
    summary, task = results.summary(frame, sweep), description["label"]["task"]
    score = "R²" if task == "regression" else "accuracy"
    body = [
        f"<h1>Networks that predict {_text(description['label']['name'], _CUT_CELL)}</h1>",
        *_progress(summary, score),
        "<h2>The sweep</h2>", *_list(plan.says(sweep, plan.count(sweep))),
        "<h2>The data</h2>", *_data(description),
        "<h2>The best networks</h2>", *_best(frame, sweep, score, models),
        "<h2>Pictures</h2>", *_pictures(pictures(frame, sweep, task), results.scored(frame).height),
        *_failures(summary["failures"]),
        "<h2>The table</h2>", *_rows(frame, score, models),
    ]  # fmt: skip
    head = (
        f'<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=Content-Security-Policy content="{_RULES}">'
        f'<meta name=viewport content="width=device-width"><title>Sweep</title><style>{_STYLE}</style>'
    )
    return "\n".join([head, *body, f"<script>{_SCRIPT}</script>", ""])


def _text(value: object, most: int = _CUT) -> str:
    words = plain(str(value))
    return html.escape(f"{words[: most - 1]}…" if len(words) > most else words)


def _list(lines: Sequence[str]) -> list[str]:
    more = [f"<p>And {len(lines) - _MOST_LINES:,} more.</p>"] if len(lines) > _MOST_LINES else []
    return ["<ul>", *(f"<li>{_text(line)}</li>" for line in lines[:_MOST_LINES]), "</ul>", *more]


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return ["<details>", f"<summary>{_text(title)}</summary>", *lines, "</details>"]


def _progress(summary: Summary, score: str) -> list[str]:
    """Say how far the sweep is, and what it took."""
    states, total = summary["states"], summary["networks"]
    over = states["done"] + states["ended early"] + states["failed"]
    counts = [f"{states[state]:,} {state}" for state in STATES if states[state]]
    counts += [f"{total - sum(states.values()):,} not begun"] if sum(states.values()) < total else []
    said, meter = f"All {total:,} networks are finished", ""
    if over < total:
        said = f"In progress: {over:,} of {total:,} networks are finished ({100 * over // total} %)"
        meter = f" <progress max={total} value={over}></progress>"
    facts = [
        (f"highest {score}: {{:.6g}}", summary["best"][0]["score"] if summary["best"] else None),
        ("finished without a score: {:,}", summary["without_score"] or None),
        ("hours of processor: {:,.2f}", summary["processor_hours"]),
        ("from the first begin to the last end: {:,.0f} s", summary["wall_seconds"]),
        ("networks a minute: {:,.1f}", summary["networks_per_minute"]),
    ]
    return [
        f"<p><b>{said}</b>: {', '.join(counts)}.{meter}</p>",
        *_list([form.format(value) for form, value in facts if value is not None]),
    ]


def _data(description: Description) -> list[str]:
    """Say how the table was judged and prepared."""
    label, columns, left = description["label"], description["columns"], description["left_out"]
    kinds = Counter(one["kind"] for one in columns)
    kept = ", ".join(f"{count:,} of kind {kind}" for kind, count in sorted(kinds.items()))
    if label["task"] == "regression":
        predicted = f"{label['name']}, a number (mean {label['mean']:.6g}, standard deviation {label['std']:.6g})"
    else:
        names = ", ".join(_short(name) for name in label["classes"][:_MOST_CLASSES])
        more = ", …" * (len(label["classes"]) > _MOST_CLASSES)
        predicted = f"{label['name']}, {len(label['classes']):,} classes: {names}{more}"
    lines = [
        f"{description['table']}: {description['rows']:,} rows, of which {description['training']:,} are trained on "
        f"and {description['held_out']:,} are held out ({description['split'] * 100:g} %, seed {description['seed']})",
        f"to predict: {predicted}",
        f"columns used: {len(columns):,} ({kept}), which make {len(description['features']):,} numbers a row: each "
        "number scaled to 0 to 1 by the rows that are trained on, missing ones their median, each category a number "
        "for every value",
    ]
    used = ", ".join(_short(one["name"]) for one in columns[:_MOST_NAMES])
    used += f" and {len(columns) - _MOST_NAMES:,} more" * (len(columns) > _MOST_NAMES)
    why = [f"{_short(name)}: {reason}" for name, reason in left.items()]
    return [
        *_list(lines),
        *_folded(f"Columns used: {len(columns):,}", [f"<p>{_text(used, len(used))}</p>"]),
        *_folded(f"Columns left out: {len(left):,}", _list(why)),
        *_folded(f"Notes: {len(description['notes']):,}", _list(description["notes"])),
    ]


def _short(name: str) -> str:
    return f"{name[: _CUT_CELL - 1]}…" if len(name) > _CUT_CELL else name


def _best(frame: pl.DataFrame, sweep: Sweep, score: str, models: Container[int]) -> list[str]:
    chosen = results.best(frame, min(sweep.best, MOST_BEST))
    if not chosen.height:
        return ["<p>No network has a score.</p>"]
    named = ["number", "score", "rmse", "parameters_count", "seconds"]
    return ["<div class=wide>", *_table(chosen, named, score, models, _CUT_BEST), "</div>"]


def _rows(frame: pl.DataFrame, score: str, models: Container[int]) -> list[str]:
    chosen = results.best(frame, MOST_ROWS)
    columns = len(results.parameters_of(frame))
    which = "all" if columns <= MOST_COLUMNS else f"{MOST_COLUMNS} of {columns:,}"
    all_of = f'All networks: <a href="{CSV}">{CSV}</a>, <a href="{PARQUET}">{PARQUET}</a>.'
    if not chosen.height:
        return [f"<p>{all_of}</p>"]
    named = ["number", "score", "rmse", "loss", "parameters_count", "seconds", "cpu_seconds", "state", "tries", "host"]
    return [
        f"<p>The best {chosen.height:,} of {frame.height:,} networks, with {which} parameters; a click on a column's "
        f"name sorts by it. {all_of}</p>",
        "<div class='wide rows'>", *_table(chosen, named, score, models, _CUT_CELL), "</div>",
    ]  # fmt: skip


def _table(chosen: pl.DataFrame, named: Sequence[str], score: str, models: Container[int], most: int) -> list[str]:
    """Return a table of results, where there are any, and of parameters, cells of at most so many characters."""
    parameters = dict(list(results.parameters_of(chosen).items())[:MOST_COLUMNS])
    heads = {name: _HEADS.get(name, name) for name in named if chosen[name].count()} | {"score": score} | parameters
    kinds = {name: " class=n" * chosen[name].dtype.is_numeric() for name in heads}
    lines = ["<table><thead><tr>"]
    lines += [f"<th{kinds[name]}><button>{_text(head, _CUT_CELL)}</button></th>" for name, head in heads.items()]
    lines.append("</tr></thead><tbody>")
    for row in chosen.iter_rows(named=True):
        cells = {name: _cell(row[name], most) for name in heads}
        if row["number"] in models:
            cells["number"] = f'<a href="{MODELS}/{row["number"]}/">{row["number"]}</a>'
        lines.append(f"<tr>{''.join(f'<td{kinds[name]}>{cell}</td>' for name, cell in cells.items())}</tr>")
    return [*lines, "</tbody></table>"]


def _cell(value: object, most: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else _text(value, most)


def _pictures(drawn: Sequence[Picture], scored: int) -> list[str]:
    if not drawn:
        return [f"<p>There is nothing to draw: {scored} networks have a score, and {LEAST} are the least.</p>"]
    figures = []
    for one in drawn:
        data = base64.b64encode(one.svg.encode()).decode()
        image = f'<img alt="{_text(one.title)}" src="data:image/svg+xml;base64,{data}">' if one.svg else ""
        says = f"<b>{_text(one.title)}</b><br>{_text(one.text)}"
        figures.append(f"<figure>{image}<figcaption>{says}</figcaption></figure>")
    return ["<div class=pictures>", *figures, "</div>"]


def _failures(failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    rows = [
        f"<tr><td class=n>{one['count']:,}</td><td>{_text(one['reason'])}</td>"
        f"<td>{', '.join(map(str, one['numbers']))}{', …' * (one['count'] > len(one['numbers']))}</td></tr>"
        for one in failures[:_MOST_LINES]
    ]
    more = [f"<p>And {len(failures) - _MOST_LINES:,} more reasons.</p>"] if len(failures) > _MOST_LINES else []
    heads = "<th class=n>networks</th><th>reason, but for its numbers</th><th>which</th>"
    table = [f"<table><thead><tr>{heads}</tr></thead><tbody>", *rows, "</tbody></table>"]
    return ["<h2>Failures</h2>", "<div class=wide>", *table, "</div>", *more]
