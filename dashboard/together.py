"""What a run of the script puts on the page, sent together.

Streamlit hands every element to the server's loop as it is written: the loop wakes up for each of a hundred, and both
threads wait for each other's lock. Here elements are gathered and handed over at once: before the run waits for
something that is computed, at its end, and else every twentieth of a second.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import local
from typing import Any

MOST_S = 0.05
"""That an element waits for others while the run goes on."""

_runs = local()
"""Of the run in this thread: ``gathered``, and ``since`` when it runs."""


class _Gathered:
    """Elements of a run, for the loop of the server."""

    def __init__(self, context: Any, session: Any) -> None:
        """Raises AttributeError where this Streamlit does not have what that takes."""
        self._session, self._runner = session, context._enqueue.__self__
        self._look = self._runner._maybe_handle_execution_control_request
        self._hand_over = session._event_loop.call_soon_threadsafe
        _ = session._scriptrunner, session._browser_queue.enqueue, session._message_enqueued_callback
        self._elements: list[Any] = []
        self._sent = time.monotonic()

    def add(self, element: Any) -> None:
        """Keep an element for later; raises what ends the run where the session is asked something else."""
        self._look()
        self._elements.append(element)
        if time.monotonic() - self._sent > MOST_S:
            self.send()

    def send(self) -> None:
        """Hand over what there is."""
        self._sent = time.monotonic()
        if self._elements:
            elements, self._elements = self._elements, []
            self._hand_over(self._arrive, elements)

    def _arrive(self, elements: list[Any]) -> None:
        """On the loop, as the session takes elements one by one; a run that is no longer its own has none."""
        session = self._session
        if session._scriptrunner is self._runner:
            for element in elements:
                session._browser_queue.enqueue(element)
            if session._message_enqueued_callback:
                session._message_enqueued_callback()


@contextmanager
def together() -> Iterator[None]:
    """Elements that are written inside are sent together; without a server (tests) they are written as ever."""
    from streamlit.runtime import get_instance
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    context: Any = get_script_run_ctx()
    try:
        sessions: Any = get_instance()
        gathered = _Gathered(context, sessions._session_mgr.get_session_info(context.session_id).session)
    except (AttributeError, RuntimeError):
        yield
        return
    one_by_one, context._enqueue = context._enqueue, gathered.add
    _runs.gathered, _runs.since = gathered, time.monotonic()
    try:
        yield
    finally:
        context._enqueue = one_by_one
        _runs.gathered = _runs.since = None
        gathered.send()


def send() -> None:
    """Send what this thread's run has written so far."""
    gathered: _Gathered | None = getattr(_runs, "gathered", None)
    if gathered is not None:
        gathered.send()


def since() -> float:
    """When this thread's run began, on the clock of ``time.monotonic``; outside of one: now."""
    began: float | None = getattr(_runs, "since", None)
    return time.monotonic() if began is None else began
