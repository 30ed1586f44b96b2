"""Optuna's TPE as what proposes the next networks of a sweep, by what the earlier ones have reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from flotilla.sweep import plan
from flotilla.sweep.ledger import DONE, EARLY, FAILED, Trial
from flotilla.sweep.plan import Point, Sweep
from flotilla.sweep.values import Values

MOST_REPEATED = 50  # proposals that are there already, one after the other: then there is nothing new


class Sampler:
    """Proposes points of a sweep, none twice; it learns from trials in the order in which they are told."""

    def __init__(self, sweep: Sweep) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep = sweep
        self._space = {name: distribution(values) for name, values in sweep.vary.items()}
        self._study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=sweep.seed))
        self._asked: dict[str, int] = {}  # Optuna's number of what has been proposed, by identity
        self._known: set[str] = set()
        self._told: set[str] = set()

    def learn(self, trials: Iterable[Trial]) -> None:
        """Hear of trials; of those that have ended, once each, what they have reached."""
        for one in trials:
            self._known.add(one.identity)
            if one.identity in self._told or one.state not in (DONE, EARLY, FAILED):
                continue
            self._told.add(one.identity)
            score = one.score if one.state in (DONE, EARLY) else None
            state = TrialState.FAIL if score is None else TrialState.COMPLETE
            if one.identity in self._asked:
                self._study.tell(self._asked[one.identity], score, state)
            else:  # by an earlier process
                self._study.add_trial(self._frozen(one, score, state))

    def propose(self, first: int, count: int) -> Sequence[Point]:
        """Return up to so many new points, numbered from `first` on; fewer where there is nothing new."""
        found: list[Point] = []
        repeated = 0
        while len(found) < count and repeated < MOST_REPEATED:
            asked = self._study.ask(self._space)
            point = plan.point_of(asked.params, first + len(found))
            if point.identity in self._known:
                repeated += 1
                self._study.tell(asked, state=TrialState.FAIL)
                continue
            repeated = 0
            self._known.add(point.identity)
            self._asked[point.identity] = asked.number
            found.append(point)
        return found

    def _frozen(self, one: Trial, score: float | None, state: TrialState) -> FrozenTrial:
        return optuna.trial.create_trial(
            state=state, value=score, params=dict(one.parameters), distributions=self._space
        )


def distribution(values: Values) -> BaseDistribution:
    """Return what Optuna calls the values of a parameter."""
    if values.choices:
        return CategoricalDistribution(list(values.choices))
    low, high = values.ends
    if values.whole:
        return IntDistribution(int(low), int(high), values.log, int(values.step or 1))
    return FloatDistribution(float(low), float(high), values.log, values.step or None)
