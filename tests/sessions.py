"""A running dashboard, and sessions of it without a browser: its websocket, as Streamlit's front end speaks it."""

import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from patience import patient_s
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parent.parent
SECONDS = patient_s(60.0)


class Served(int):
    """A dashboard's port, with the process group that serves it."""

    def __new__(cls, port, process):
        found = super().__new__(cls, port)
        found.process, found.group = process, process.pid
        return found

    def cpu_s(self):
        """CPU seconds that the whole group has taken so far, those of its children that have ended included."""
        ticks = 0
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(fields[2]) == self.group:
                ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def quiet_cpu_s(self, pause_s=0.05):
        """The same, once nothing is computed any more: what a run leaves behind delays whoever comes next."""
        before, now = -1.0, self.cpu_s()
        while now - before > 0.011:
            time.sleep(pause_s)
            before, now = now, self.cpu_s()
        return now


@contextmanager
def dashboard(log=subprocess.DEVNULL, command="perfmodel dashboard", folder=ROOT, **environment):
    """Port of a dashboard that was started as a user starts it, by ``command`` on a free port; what it says goes to
    ``log``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(command), "--port", str(port), "--headless"],
        cwd=folder,
        stdout=log,
        stderr=log,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        wait_until_served(port)
        yield Served(port, process)
    finally:
        with suppress(ProcessLookupError):  # a test has ended it
            os.killpg(process.pid, 15)
        process.wait(SECONDS)


def wait_until_served(port):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"the dashboard did not start within {SECONDS:g} s")


@dataclass
class Shown:
    """What one run of the script put on the page."""

    metrics: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    exceptions: list[str] = field(default_factory=list)
    widgets: dict[str, tuple[str, str]] = field(default_factory=dict)
    """User key -> kind of the widget, and the id by which the front end names it."""


class Session:
    """One user."""

    def __init__(self, port, query="", cookie=""):
        self.query = query
        address = f"ws://127.0.0.1:{port}/_stcore/stream"
        headers = {"Cookie": cookie} if cookie else {}
        self.connection = connect(
            address, subprotocols=["streamlit"], max_size=None, proxy=None, additional_headers=headers
        )
        self.socket = self.connection.__enter__()
        self.states = {}
        self.shown = Shown()

    def run(self, **changed):
        """Run the script, with controls (user keys) moved to new values and sections of the sidebar (``section-NAME``)
        opened, and read until it is over.
        """
        message = BackMsg()
        message.rerun_script.query_string = self.query
        for key, value in changed.items():
            kind, found = self.shown.widgets[key]
            state = WidgetState(id=found)
            if kind == "number_input":
                state.double_value = value
            elif kind == "expandable":
                state.bool_value = value
            elif kind == "selectbox":
                state.string_value = value
            elif kind == "button_group":
                state.string_array_value.data.append(value)
            else:
                state.double_array_value.data.append(value)
            self.states[key] = state
        message.rerun_script.widget_states.widgets.extend(self.states.values())
        self.socket.send(message.SerializeToString())
        self.shown = Shown(widgets=dict(self.shown.widgets) if changed else {})
        while True:
            answer = ForwardMsg.FromString(self.socket.recv(timeout=SECONDS))
            kind = answer.WhichOneof("type")
            if kind == "delta" and answer.delta.WhichOneof("type") == "new_element":
                self._element(answer.delta.new_element)
            elif kind == "delta" and answer.delta.add_block.expandable.id:
                found = answer.delta.add_block.expandable.id
                self.shown.widgets["section-" + found.rpartition("-section-")[2]] = ("expandable", found)
            elif kind == "script_finished":
                return self.shown

    def _element(self, element):
        kind = element.WhichOneof("type")
        if kind == "metric":
            self.shown.metrics[element.metric.label] = element.metric.body
        elif kind == "exception":
            self.shown.exceptions.append(element.exception.message)
        elif kind == "alert":
            self.shown.errors.append(element.alert.body)
        else:
            widget = getattr(element, kind, None)
            found = getattr(widget, "id", "")
            if isinstance(found, str) and "-ask-" in found:
                self.shown.widgets["ask-" + found.rpartition("-ask-")[2]] = (kind, found)

    def close(self):
        self.connection.__exit__(None, None, None)
