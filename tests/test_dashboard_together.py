"""Elements of a run are sent together, in their order, and no later than somebody could want them."""

from types import SimpleNamespace

import pytest
import streamlit.runtime
import streamlit.runtime.scriptrunner

from dashboard import together as module
from dashboard.together import send, together


class Runner:
    """Streamlit's, as far as it matters: what ends a run is raised when an element is written."""

    def __init__(self, arrived):
        self.arrived, self.ends = arrived, False

    def _enqueue_forward_msg(self, element):
        self._maybe_handle_execution_control_request()
        self.arrived.append([element])

    def _maybe_handle_execution_control_request(self):
        if self.ends:
            raise InterruptedError


@pytest.fixture
def streamlit_run(monkeypatch):
    """A run of a session: its context, its runner, its session, and what has arrived, handed over by hand-over."""
    arrived, queue = [], []
    runner = Runner(arrived)
    session = SimpleNamespace(
        _scriptrunner=runner,
        _browser_queue=SimpleNamespace(enqueue=queue.append),
        _message_enqueued_callback=lambda: (arrived.append(list(queue)), queue.clear()),
        _event_loop=SimpleNamespace(call_soon_threadsafe=lambda function, *args: function(*args)),
    )
    context = SimpleNamespace(session_id="one", _enqueue=runner._enqueue_forward_msg)
    manager = SimpleNamespace(get_session_info=lambda _: SimpleNamespace(session=session))
    monkeypatch.setattr(streamlit.runtime, "get_instance", lambda: SimpleNamespace(_session_mgr=manager))
    monkeypatch.setattr(streamlit.runtime.scriptrunner, "get_script_run_ctx", lambda: context)
    return SimpleNamespace(context=context, runner=runner, session=session, arrived=arrived)


def test_they_arrive_together_when_asked_and_at_the_end(streamlit_run):
    with together():
        for element in "abc":
            streamlit_run.context._enqueue(element)
        assert not streamlit_run.arrived
        send()
        send()  # nothing new
        streamlit_run.context._enqueue("d")
        assert streamlit_run.arrived == [["a", "b", "c"]]
    assert streamlit_run.arrived == [["a", "b", "c"], ["d"]]
    streamlit_run.context._enqueue("e")  # as ever
    send()
    assert streamlit_run.arrived[2:] == [["e"]]


def test_nobody_waits_longer_than_said(streamlit_run, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with together():
        streamlit_run.context._enqueue("a")
        now[0] += 0.9 * module.MOST_S
        streamlit_run.context._enqueue("b")
        assert not streamlit_run.arrived
        now[0] += 0.2 * module.MOST_S
        streamlit_run.context._enqueue("c")
        assert streamlit_run.arrived == [["a", "b", "c"]]


def test_a_run_ends_where_its_session_is_asked_something_else(streamlit_run):
    def run():
        with together():
            streamlit_run.context._enqueue("a")
            streamlit_run.runner.ends = True
            streamlit_run.context._enqueue("b")

    with pytest.raises(InterruptedError):
        run()
    assert streamlit_run.arrived == [["a"]]
    with together():
        streamlit_run.runner.ends = False
        streamlit_run.context._enqueue("c")
        streamlit_run.session._scriptrunner = None  # another run has begun
    assert streamlit_run.arrived == [["a"]]


def test_without_a_server_or_with_another_streamlit_they_are_written_as_ever(streamlit_run, monkeypatch):
    del streamlit_run.session._browser_queue
    with together():
        streamlit_run.context._enqueue("a")
        assert streamlit_run.arrived == [["a"]]
    monkeypatch.undo()
    with together():  # no runtime at all
        send()
