"""How many steps a training makes that has some minutes: as many as fit into them, by the speed of its first ones."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from flotilla.job.config import TrainConfig
from flotilla.job.errors import ProgramError
from flotilla.storage import hdfs

NOTE = "steps.json"  # in the model directory
NOTE_SECS = 30
POLL_SECS = 3
# What is measured of a training: from the half to the end of its first fifth, of a minute at most, and some steps
# at least. Before, its trainers are still to join it.
FIRST_PART, FIRST_SECS, FIRST_STEPS = 0.2, 60.0, 5

_log = logging.getLogger("flotilla")


class Budget:
    """The job's minutes, and the step that they end at: the leading trainer finds it and notes it, the others read it.

    A trainer that is started again keeps to it. Other minutes, or other max_steps, are another budget and begin anew.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.last_step: int | None = None  # None: isn't known yet, or there are no minutes
        self.ended = False  # whether it has ended this process's training

    @property
    def known(self) -> bool:
        return self.last_step is not None or not self._config.minutes

    def passed(self, step: int) -> bool:
        """Whether a training that is at this step has made all its steps, as far as this task knows."""
        return step >= (self._config.max_steps if self.last_step is None else self.last_step)

    def look(self) -> None:
        """Read what the leading trainer has noted; raise hdfs.Unreachable."""
        if self.known:
            return
        found = hdfs.read_json(self._note) or {}
        if self._key.items() <= found.items():
            self.last_step = int(str(found["last_step"]))

    def wait(self) -> None:
        """Look again and again, in a thread of its own, until it is noted."""
        if not self.known:
            threading.Thread(target=self._wait, name="budget", daemon=True).start()

    def set(self, last_step: int) -> None:
        """Note the step, on HDFS first; raise hdfs.Unreachable."""
        note = {**self._key, "last_step": last_step}
        hdfs.retry(lambda: hdfs.write_json(self._note, note), NOTE_SECS)
        self.last_step = last_step

    @property
    def _note(self) -> str:
        return hdfs.join(self._config.model_dir, NOTE)

    @property
    def _key(self) -> dict[str, float]:
        return {"minutes": self._config.minutes, "max_steps": self._config.max_steps}

    def _wait(self) -> None:
        while not self.known:
            time.sleep(POLL_SECS)
            with contextlib.suppress(ProgramError):  # it is asked again
                self.look()


class Pace:
    """Finds the last step that fits into some seconds, from the steps and times of a training's beginning."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._span = min(FIRST_SECS, FIRST_PART * seconds)
        self._first: tuple[float, int] | None = None
        self._half: tuple[float, int] | None = None
        self._last = 0

    def last_step(self, now: float, step: int) -> tuple[int, float] | None:
        """Take a step's end (monotonic seconds); return the last step and the steps a second, or None: not yet."""
        if self._first is None or step < self._last:  # a step back is a restored checkpoint
            self._first, self._half = (now, step), None
        self._last = step
        passed = now - self._first[0]
        if self._half is None:
            if passed >= self._span / 2:
                self._half = (now, step)
            return None
        steps, seconds = step - self._half[1], now - self._half[0]
        # Where single steps take long, what is known after half of the time has to do.
        if passed < self._span or (steps < FIRST_STEPS and passed < self._seconds / 2) or steps < 1 or seconds <= 0:
            return None
        rate = steps / seconds
        return step + max(0, int(rate * (self._seconds - passed))), rate


def sentence(minutes: float, last_step: int, most: int, rate: float, unit: str) -> str:
    """Say how many steps it is going to be, and why."""
    steps = (
        f"{last_step} steps"
        if not most
        else f"all {most} steps"
        if last_step >= most
        else f"{last_step} of {most} steps"
    )
    return f"at {rate:.4g} {unit}, {steps} fit into {minutes:g} minute" + "s" * (minutes != 1)
