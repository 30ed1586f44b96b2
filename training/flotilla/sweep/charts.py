"""Pictures of a sweep, as SVG: score and time against each parameter, the sweep's course, which parameters matter."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

import matplotlib
import numpy as np
import optuna
import polars as pl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from flotilla.sweep import results
from flotilla.sweep.plan import Sweep
from flotilla.sweep.values import Values

LEAST = 2  # networks with a score, below which nothing is drawn
LEAST_IMPORTANCE = 10  # of them, that importances are computed from; and at most:
MOST_TRIALS = 3000
MOST_POINTS = 2000  # of a picture
MOST_VALUES = 20  # of a number; more of them are put into so many bins at most, and such with so many networks:
BINS, BIN_NETWORKS = 12, 5
MOST_CATEGORIES = 12  # of a picture
MOST_BARS = 20
MOST_BYTES = 1_400_000  # of all pictures
_TOP = 0.1  # share of the networks that importances are about
_FEW = 50  # networks, of which that is 5: the least that Optuna advises
_REACH = 5  # times the median's distance from the best that scores are drawn down to, so that these stay apart
_WORST = -1.0  # the least R² that is drawn: the mean's is 0, and downwards there is no end
_STEEP = 20  # ratio above which an axis is logarithmic
_CUT, _CUT_CATEGORY = 44, 20  # characters of a name, and of a category
_WIDE = 4.0  # inches, 384 pixels
# Of the colours that M. Okabe and K. Ito chose for all kinds of colour vision
_POINT, _MEDIAN, _BEST = "#8c8c8c", "#0072b2", "#d55e00"
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "flotilla", "text.parse_math": False, "font.size": 8.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.grid": True,
    "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True,
}  # fmt: skip
_LABELS = {
    "layers": "hidden layers", "nodes": "nodes of each hidden layer", "learning_rate": "learning rate",
    "batch_size": "batch size (rows)", "dropout": "dropout (share of nodes)", "training.epochs": "epochs",
}  # fmt: skip
_UNITS = ((7200.0, 3600.0, "h"), (300.0, 60.0, "min"), (0.0, 1.0, "s"))  # from so many seconds, of so many each

_MARKS = str.maketrans("", "", '[]{}"')  # of lists, which are JSON; their words are enough

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


class Picture(NamedTuple):
    """What the page shows; without svg, the text says why there is none."""

    title: str
    text: str
    svg: str


class _Look(TypedDict, total=False):
    """How matplotlib draws points or a line."""

    linestyle: str
    marker: str
    color: str
    markersize: float
    markeredgewidth: float
    linewidth: float
    alpha: float
    rasterized: bool
    label: str


class _Parameter(NamedTuple):
    name: str
    values: pl.Series  # of the networks with a score
    numeric: bool
    log: bool
    bins: int  # that numbers are put into; 0: each has a place of its own

    @property
    def label(self) -> str:
        return _LABELS.get(self.name, _cut(self.name, _CUT))


class _Measured(NamedTuple):
    """The networks with a score, in the order of their numbers."""

    score: Floats
    seconds: Floats  # NaN: not known
    some: Whole  # which of them are drawn
    regression: bool


class _Places(NamedTuple):
    """Where the networks are on a parameter's axis."""

    points: Floats  # NaN: nowhere
    groups: Whole  # which one they are of; -1: none
    centres: Floats  # of the groups


def pictures(frame: pl.DataFrame, sweep: Sweep, task: str) -> list[Picture]:
    """Return the pictures: importances, the course, and one for each parameter, those that matter most first.

    The same table gives the same pictures. Together they have at most MOST_BYTES; where that leaves some out, the
    last one says so. Below LEAST networks with a score there are none.

    Args:
        frame: a table as `results.frame` returns it.
        task: classification or regression, as the table's description has it.
    """
    scored = results.scored(frame)
    if scored.height < LEAST:
        return []
    score = scored["score"].to_numpy()
    seconds = scored["seconds"].fill_null(math.nan).to_numpy()
    some = np.union1d(_some(len(score), MOST_POINTS), [score.argmax()])
    measured = _Measured(score, seconds, some, task == "regression")
    columns = {name: results.column_of(name) for name in sweep.vary}
    parameters = [
        _parameter(name, scored[column], sweep.vary[name])
        for name, column in columns.items()
        if column in scored.columns and scored[column].drop_nulls().n_unique() > 1
    ]
    shares = _importances(parameters, score)
    parameters.sort(key=lambda one: -shares.get(one.name, 0.0))
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's fonts have it
        drawn = [_importance(parameters, shares, score), _course(scored["ended"], measured)]
        for number, one in enumerate(parameters):
            picture = _numbers(one, measured) if one.numeric else _categories(one, measured)
            if sum(len(other.svg) for other in (*drawn, picture)) > MOST_BYTES:
                left = [other.label for other in parameters[number:]]
                names = ", ".join(left[:MOST_BARS]) + ", …" * (len(left) > MOST_BARS)
                return [*drawn, Picture("Other parameters", f"Not drawn, for the page's size: {names}.", "")]
            drawn.append(picture)
    return drawn


def _some(count: int, most: int) -> Whole:
    """Return places, evenly spread, of at most so many."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _cut(words: str, most: int) -> str:
    """Return a name's begin and end: paths of layers differ in either."""
    return f"{words[: most // 2]}…{words[1 - most // 2 :]}" if len(words) > most else words


def _parameter(name: str, values: pl.Series, wanted: Values) -> _Parameter:
    numeric, log = values.dtype.is_numeric(), wanted.log
    if numeric and wanted.choices:  # a list such as 1, 2, 5, 10, …, 500 says no scale
        log = values.min() > 0 and values.max() / values.min() >= _STEEP
    bins = 0 if wanted.count and wanted.count <= MOST_VALUES else max(1, min(BINS, len(values) // BIN_NETWORKS))
    return _Parameter(results.plain(name), values, numeric, log, bins)


def _importances(parameters: Sequence[_Parameter], score: Floats) -> dict[str, float]:
    """Return by PED-ANOVA which share each parameter has in what sets the best tenth apart, the greatest first.

    It is empty where that can't be said: of few networks, or where as good as all have the best score.
    """
    some = _some(len(score), MOST_TRIALS)
    if len(score) < LEAST_IMPORTANCE or np.ptp(score[some]) == 0:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    columns = [one.values.gather(some).to_list() for one in parameters]
    spaces = [_space(one) for one in parameters]
    for value, row in zip(score[some], zip(*columns, strict=True), strict=False):
        there = [at for at, cell in enumerate(row) if cell is not None]
        study.add_trial(
            optuna.create_trial(
                value=float(value), params={parameters[at].name: row[at] for at in there},
                distributions={parameters[at].name: spaces[at] for at in there},
            )
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all are equal, as their sum says too
        found = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_TOP).evaluate(study)
    total = sum(found.values())
    return {name: share / total for name, share in found.items()} if total else {}


def _space(one: _Parameter) -> optuna.distributions.BaseDistribution:
    """Return a parameter's values, as Optuna has them: those of the networks, so that all of these are in it."""
    distinct = one.values.drop_nulls().unique(maintain_order=True)
    if one.numeric and len(distinct) > MOST_VALUES:
        return optuna.distributions.FloatDistribution(distinct.min(), distinct.max(), log=one.log)
    return optuna.distributions.CategoricalDistribution(distinct.to_list())


def _importance(parameters: Sequence[_Parameter], shares: Mapping[str, float], score: Floats) -> Picture:
    title, count = "Which parameters matter", len(score)
    if not shares:
        if not parameters:
            why = "no parameter has several values"
        elif count < LEAST_IMPORTANCE:
            why = f"{count} networks have a score, and {LEAST_IMPORTANCE} are the least"
        else:
            why = "nearly all networks have the same score"
        return Picture(title, f"That can't be said: {why}.", "")
    shown = list(shares.items())[:MOST_BARS]
    figure = Figure((_WIDE, 0.8 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(shown)), [100 * share for _name, share in shown], color=_MEDIAN, height=0.6)
    for place, (_name, share) in enumerate(shown):
        axes.annotate(f" {100 * share:.0f} %", (100 * share, place), va="center")
    axes.set_yticks(range(len(shown)), [_cut(name, _CUT_CATEGORY) for name, _share in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 118 * shown[0][1])
    axes.set_xlabel("importance (%)")
    of = f"{MOST_TRIALS:,} of {count:,}" if count > MOST_TRIALS else f"{count:,}"
    text = f"Each parameter's share in what sets the best tenth of {of} networks apart (PED-ANOVA)."
    text += " So few networks give no more than a rough idea." * (count < _FEW)
    text += f" The {MOST_BARS} greatest of {len(shares)} are drawn." * (len(shares) > MOST_BARS)
    return Picture(title, text, _svg(figure))


def _course(ended: pl.Series, measured: _Measured) -> Picture:
    timed = not ended.null_count()
    order = np.argsort(ended.to_numpy(), kind="stable") if timed else np.arange(len(ended))
    score = measured.score[order]
    some = np.flatnonzero(np.isin(order, measured.some))
    best = np.maximum.accumulate(score)
    steps = np.append(np.flatnonzero(np.diff(best, prepend=-np.inf)), len(best) - 1)
    figure = Figure((_WIDE, 2.6), layout="constrained")
    axes = figure.subplots()
    low, below = _score_axis(axes, axes.yaxis, measured)
    axes.plot(some + 1, score[some].clip(low), **_dots(len(some)))
    axes.step(steps + 1, best[steps].clip(low), where="post", color=_BEST)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_number))
    axes.set_xlabel(f"networks, in the order of their {'ends' if timed else 'numbers'}")
    _legend(figure, Line2D([], [], color=_BEST, label="best so far"))
    return Picture("The sweep's course", _drawn(measured) + below, _svg(figure))


def _numbers(one: _Parameter, measured: _Measured) -> Picture:
    """Draw score and time, one above the other, against a number."""
    values = one.values.cast(pl.Float64).fill_null(math.nan).to_numpy()
    scaled = np.log10(values) if one.log else values
    known = ~np.isnan(values)
    distinct = np.unique(scaled[known])
    if one.bins:
        edges = np.linspace(distinct[0], distinct[-1], one.bins + 1)
        groups, centres = np.searchsorted(edges[1:-1], scaled, side="right"), (edges[1:] + edges[:-1]) / 2
    else:
        groups, centres = np.searchsorted(distinct, scaled), distinct
        scaled = scaled + _spread(len(values)) * min(np.diff(distinct).min(), 0.1 * np.ptp(distinct))
    if one.log:
        scaled, centres = 10.0**scaled, 10.0**centres
    places = _Places(scaled, np.where(known, groups, -1), centres)
    timed = bool(np.isfinite(measured.seconds).any())
    figure = Figure((_WIDE, 4.2 if timed else 2.6), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(1 + timed, sharex=True)))
    for axes in panels:
        axes.set_xscale("log" if one.log else "linear")
    below = _panels(panels, places, measured, "-", False)
    if one.bins:
        _ticks(panels[-1].xaxis, 6, one.log, values[known])
    else:
        _tick_values(panels[-1], centres)
    panels[-1].set_xlabel(one.label)
    _legend(figure, *_marks("-"))
    text = _drawn(measured) + below
    text += f" Median and best are of {one.bins} equal parts of the axis." * (one.bins > 1)
    return Picture(one.label, text, _svg(figure))


def _categories(one: _Parameter, measured: _Measured) -> Picture:
    """Draw score and time, side by side, for each value: where there are many, for those with the best median."""
    names = [results.text(value) for value in one.values.drop_nulls().unique(maintain_order=True)]
    number = {name: place for place, name in enumerate(names)}
    groups = np.array([-1 if value is None else number[results.text(value)] for value in one.values])
    used, medians, _bests = _by_group(groups, measured.score)
    shown = used[np.argsort(-medians, kind="stable")][:MOST_CATEGORIES]
    row = np.full(len(names) + 1, -1)  # -1 stays so
    row[shown] = np.arange(len(shown))
    rows = row[groups]
    points = np.where(rows < 0, math.nan, rows + _spread(len(rows)))
    timed = bool(np.isfinite(measured.seconds).any())
    figure = Figure((_WIDE, 1.1 + 0.3 * len(shown)), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(1, 1 + timed, sharey=True)))
    below = _panels(panels, _Places(points, rows, np.arange(len(shown), dtype=np.float64)), measured, "", True)
    labels = [_cut(names[at].translate(_MARKS), _CUT_CATEGORY) for at in shown]
    panels[0].set_yticks(range(len(shown)), labels)
    panels[0].set_ylim(len(shown) - 0.5, -0.5)
    for axes in panels:
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
    _legend(figure, *_marks(""))
    few = f" Of {len(names)} values, the {len(shown)} with the best median are drawn." * (len(shown) < len(names))
    return Picture(one.label, _drawn(measured) + below + few, _svg(figure))


def _panels(panels: Sequence[Axes], places: _Places, measured: _Measured, line: str, across: bool) -> str:
    """Draw points, median and best of the score, and of the time where there is a panel for it.

    Args:
        line: the style of lines between the groups.
        across: whether the parameter's axis is the vertical one.

    Returns:
        How many points lie outside.
    """
    axis = [axes.xaxis if across else axes.yaxis for axes in panels]
    low, below = _score_axis(panels[0], axis[0], measured)
    values = [measured.score.clip(low)]
    if len(panels) > 1:
        values.append(_time_axis(panels[1], axis[1], measured))
    for axes, heights in zip(panels, values, strict=True):
        some = measured.some[places.groups[measured.some] >= 0]
        used, medians, bests = _by_group(places.groups, heights)
        lines = [(places.points[some], heights[some], _dots(len(some)))]
        if axes is panels[0]:
            lines.append((places.centres[used], bests, _mark("best", line)))
        lines.append((places.centres[used], medians, _mark("median", line)))
        for along, height, how in lines:
            axes.plot(*((height, along) if across else (along, height)), **how)
    return below


def _by_group(groups: Whole, values: Floats) -> tuple[Whole, Floats, Floats]:
    """Return the groups that have values, with the medians and the greatest of these."""
    there = (groups >= 0) & ~np.isnan(values)
    used, of = np.unique(groups[there], return_inverse=True)
    parts = np.split(values[there][np.argsort(of, kind="stable")], np.cumsum(np.bincount(of))[:-1]) if len(used) else []
    return used, np.array([np.median(part) for part in parts]), np.array([part.max() for part in parts])


def _spread(count: int) -> Floats:
    """Return by how much points of the same value are moved apart, of the distance to the next one."""
    return np.random.RandomState(0).uniform(-0.25, 0.25, count)


def _score_axis(axes: Axes, axis: Axis, measured: _Measured) -> tuple[float, str]:
    """Set an axis up; return the least score that is drawn, and what to say of those below."""
    high = float(measured.score.max())
    reach = _REACH * (high - float(np.median(measured.score))) or 1.0
    low = max(float(measured.score.min()), high - reach)
    if measured.regression and high > _WORST:
        low = max(low, _WORST)
    margin = 0.06 * (high - low) or 0.01
    ends = (low if low < high else high - 0.1) - margin, high + margin
    (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(*ends)
    axis.set_label_text("R²" if measured.regression else "accuracy (share)")
    _ticks(axis, 4 if axis is axes.xaxis else 6)
    count = int((measured.score < low).sum())
    return low, f" {count:,} that score less are drawn at the edge, {low:.3g}." * (count > 0)


def _time_axis(axes: Axes, axis: Axis, measured: _Measured) -> Floats:
    """Set an axis up; return the times in its unit."""
    most = float(np.nanmax(measured.seconds))
    _least, size, unit = next(one for one in _UNITS if most >= one[0])
    times = measured.seconds / size
    log = bool(np.nanmin(times) > 0 and most / size > _STEEP * np.nanmedian(times))
    set_scale = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
    set_scale("log" if log else "linear")
    if not log:  # so that what is twice as long looks so
        (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(0, 1.05 * most / size or 1)
    axis.set_label_text(f"training time ({unit})")
    _ticks(axis, 4 if axis is axes.xaxis else 6, log, times)
    return times


def _ticks(axis: Axis, count: int, log: bool = False, values: Floats | None = None) -> None:
    """Put about so many ticks where matplotlib's rules have them, with plain numbers."""
    if log and values is not None:
        decades = math.log10(np.nanmax(values) / np.nanmin(values))
        axis.set_major_locator(LogLocator(10, (1,) if decades > 2 else (1, 3), numticks=count))
        axis.set_minor_locator(FixedLocator([]))
    else:
        axis.set_major_locator(MaxNLocator(count))
    axis.set_major_formatter(FuncFormatter(_number))


def _tick_values(axes: Axes, values: Floats) -> None:
    """Put ticks where the values are, leaving out those whose numbers touched others."""
    axis = axes.xaxis
    low, high = axes.get_xlim()
    places = axis.get_transform().transform(np.array([low, high, *values]))
    places = (places[2:] - places[0]) / (places[1] - places[0])
    half = [0.014 * len(_number(value)) for value in values]  # of an axis that a number takes
    chosen: list[int] = []
    for at in range(len(values)):
        while chosen and at == len(values) - 1 and places[at] - half[at] < places[chosen[-1]] + half[chosen[-1]]:
            chosen.pop()
        if not chosen or places[at] - half[at] >= places[chosen[-1]] + half[chosen[-1]]:
            chosen.append(at)
    axis.set_major_locator(FixedLocator(values[chosen].tolist()))
    axis.set_minor_locator(FixedLocator([]))
    axis.set_major_formatter(FuncFormatter(_number))


def _number(value: float, _place: int | None = None) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 and abs(value) < 1e9 else f"{value:.6g}"


def _dots(count: int) -> _Look:
    """Return how points look; as an image, for thousands of them make a picture large."""
    many = count > 500
    return {
        "linestyle": "", "marker": "o", "color": _POINT, "markersize": 2.6 if many else 3.6, "markeredgewidth": 0,
        "alpha": 0.35 if many else 0.6, "rasterized": True,
    }  # fmt: skip


def _mark(what: str, line: str) -> _Look:
    """Return how a line looks: the best's larger, for the median's is drawn over it."""
    if what == "best":
        return {"linestyle": line, "marker": "D", "color": _BEST, "markersize": 5, "linewidth": 1.9, "label": what}
    return {"linestyle": line, "marker": "o", "color": _MEDIAN, "markersize": 3.5, "linewidth": 1.2, "label": what}


def _marks(line: str) -> list[Line2D]:
    return [Line2D([], [], **_mark(what, line)) for what in ("median", "best")]


def _legend(figure: Figure, *lines: Line2D) -> None:
    figure.legend(
        handles=[Line2D([], [], **_dots(0), label="a network"), *lines], loc="outside upper right", ncols=3,
        frameon=False, borderpad=0, handletextpad=0.3, columnspacing=1.2,
    )  # fmt: skip


def _drawn(measured: _Measured) -> str:
    count, drawn = len(measured.score), len(measured.some)
    return f"{drawn:,} of {count:,} networks are drawn." if drawn < count else f"{count:,} networks."


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", dpi=144, metadata={"Date": None})
    return out.getvalue()
