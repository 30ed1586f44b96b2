"""tf.compat.v1.train.Supervisor, by which programs trained before MonitoredTrainingSession, with a session's hooks.

Its sessions are plain ones, and run() knows no hooks: what the kit puts beside a training is called around it here, as
tensorflow.python.training.monitored_session does.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from tensorflow.python.client.session import SessionInterface
from tensorflow.python.training import monitored_session


class _Plain(SessionInterface):  # type: ignore[misc]
    """A session as hooks see it, whose run() has no hooks."""

    def __init__(self, session: Any) -> None:
        self._session, self.run = session, session.run

    @property
    def graph(self) -> Any:
        """The session's graph."""
        return self._session.graph

    @property
    def sess_str(self) -> Any:
        """The session's name in TensorFlow."""
        return self._session.sess_str


class Supervised:
    """A Supervisor's session, and the hooks that are called while it runs."""

    def __init__(self, supervisor: Any, hooks: Sequence[Any]) -> None:
        """Begin the hooks; the graph can still be changed."""
        self._supervisor, self._hooks = supervisor, hooks
        self._session: _Plain | None = None
        self._told = False  # the program, that it should stop
        for hook in hooks:
            hook.begin()

    def watch(self, session: Any) -> None:
        """Call the hooks at each run of a session from now on."""
        plain = self._session = _Plain(session)
        for hook in self._hooks:
            hook.after_create_session(plain, self._supervisor.coord)
        hooked = monitored_session._HookedSession(plain, self._hooks)
        trains = threading.get_ident()  # the Supervisor's own threads run summaries, and queues

        def run(*arguments: Any, **options: Any) -> Any:
            if self._session is None and threading.get_ident() == trains and not self._told:
                raise SystemExit(0)  # it was to stop, and doesn't ask
            if self._session is None or threading.get_ident() != trains:
                return plain.run(*arguments, **options)
            result = hooked.run(*arguments, **options)
            if hooked.should_stop():
                self.end()
                self._supervisor.request_stop()
            return result

        session.run = run

    def should_stop(self, answer: bool) -> bool:
        """Note that the program has asked whether to go on."""
        self._told = self._told or answer
        return answer

    def end(self) -> None:
        """Call the hooks' end, once, if the training hasn't failed."""
        session, self._session = self._session, None
        if session and not self._supervisor.coord._exc_info_to_raise:
            for hook in self._hooks:
                hook.end(session)
