"""A Ray cluster as an executor (``perfmodel[ray]``); Ray is imported when one is asked for, and nowhere else.

A value that many pieces need lies in Ray's object store: a node fetches it once, and each of its processes reads it
from there. Pieces of a node that was lost are run again by Ray, on another.
"""

import io
import os
import re
import socket
import struct
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Generic, TextIO, TypeVar
from uuid import uuid4

import perfmodel
from perfmodel.errors import PerfModelError, WorkerError
from perfmodel.spec.paths import printable

Value = TypeVar("Value")

RETRIES = 5
"""Times that a piece is begun again when its process or node is lost; more are the piece's own doing."""
REACHED_S = 5.0
"""Time in which a cluster's head must answer."""
HOW = "start one with ray start --head, and give --address HOST:6379 (docs/sweep.md)"


class Cluster(Executor):
    """Processors of a Ray cluster, one piece each at a time."""

    def __init__(self, address: str | None = None) -> None:
        """Join a cluster.

        Args:
            address: HOST:PORT of its head; None: that of the environment's RAY_ADDRESS, or the one that runs here.

        Raises:
            WorkerError: Ray is not installed, or no cluster answers.
        """
        try:
            import ray
        except ImportError as error:
            raise WorkerError(
                f"--on ray: Ray can't be imported ({error}): pip install 'perfmodel[ray]'"
            ) from None
        self._ray = ray
        self._waiting: set[Any] = set()
        asked = address or os.environ.get("RAY_ADDRESS") or "auto"
        if asked != "auto":
            _reached(asked)
        try:
            ray.init(address=asked, log_to_driver=False, logging_level="ERROR", namespace="perfmodel")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            said = " ".join(str(error).split())
            which = "no cluster runs here" if asked == "auto" else f"--address {asked}: can't be joined"
            raise WorkerError(f"--on ray: {which} ({said[:300]}): {HOW}") from None
        self._call = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(_called)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As an executor does. Its error is the function's own, or WorkerError where its nodes were lost."""
        future: Future[Any] = Future()
        reference = self._call.remote(perfmodel.__version__, partial(fn, *args, **kwargs))
        self._waiting.add(reference)
        reference.future().add_done_callback(partial(self._ended, future, reference))
        future.add_done_callback(partial(self._dropped, reference))
        return future

    def share(self, value: Value) -> "OnCluster[Value]":
        """A value put where each node fetches it once."""
        return OnCluster(self._ray.put(value), uuid4().hex)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Leave the cluster; what is under way is stopped."""
        for reference in list(self._waiting):
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()

    def _dropped(self, reference: Any, future: Future[Any]) -> None:
        """What was cancelled is not begun."""
        if future.cancelled() and reference in self._waiting:
            self._ray.cancel(reference, force=True)

    def _ended(self, future: Future[Any], reference: Any, inner: Future[Any]) -> None:
        self._waiting.discard(reference)
        if not future.set_running_or_notify_cancel():
            return
        error = inner.exception()
        if error is None:
            future.set_result(inner.result())
            return
        cause = getattr(error, "cause", None)
        if isinstance(cause, PerfModelError):
            error = cause
        elif isinstance(error, self._ray.exceptions.RayError):
            error = WorkerError(f"--on ray: {_reason(error, cause)}")
        future.set_exception(error)


class OnCluster(Generic[Value]):
    """A value in the object store; a process reads it once."""

    def __init__(self, reference: Any, name: str) -> None:
        self._reference, self._name = reference, name

    def get(self) -> Value:
        """The value, from this process's memory or else from its node's."""
        import ray

        if self._name not in _FETCHED:
            _FETCHED.clear()  # what an earlier run shared
            _FETCHED[self._name] = ray.get(self._reference)
        found: Value = _FETCHED[self._name]
        return found


_FETCHED: dict[str, Any] = {}


class FirstLines(io.TextIOBase):
    """Of each text that is printed its first line, without colours."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Pass on what is worth a line."""
        lines = COLOURS.sub("", text).strip().splitlines()
        if lines and "[state-dump]" not in lines[0]:
            self._stream.write(f"{printable(lines[0])[:LONGEST]}\n")
        return len(text)


COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LONGEST = 200
"""Of a line that Ray says."""


def _called(version: str, call: Callable[[], Any]) -> Any:
    """A piece, in a process of a node; its perfmodel has to be the one that asks."""
    if perfmodel.__version__ != version:
        raise WorkerError(
            f"--on ray: node {socket.gethostname()} has perfmodel {perfmodel.__version__}, this is {version}: install "
            "the same one everywhere"
        )
    return call()


def _reason(error: BaseException, cause: BaseException | None) -> str:
    if isinstance(cause, ModuleNotFoundError) or "No module named 'perfmodel" in str(error):
        return (
            f"a node has no perfmodel: pip install 'perfmodel[ray]=={perfmodel.__version__}' on all of them"
        )
    if cause is not None:
        return f"a piece failed: {type(cause).__name__}: {cause}"
    lines = str(error).strip().splitlines()
    return f"a piece was lost {RETRIES + 1} times ({lines[0] if lines else type(error).__name__})"


def _reached(address: str) -> None:
    """Refuse an address where no gRPC server answers: Ray itself would wait for one, for minutes.

    An HTTP/2 server (RFC 9113, 3.4) answers the client's preface with a SETTINGS frame (type 4).

    Raises:
        WorkerError: as said.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise WorkerError(f"--address {address}: must be HOST:PORT of the cluster's head, e.g. 10.0.0.1:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACHED_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.settimeout(REACHED_S)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">HBBBL", 0, 0, 4, 0, 0))
            answered = connection.recv(9, socket.MSG_WAITALL)
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise WorkerError(f"--address {address}: can't be reached ({said}): {HOW}") from None
    if len(answered) < 9 or answered[3] != 4:
        raise WorkerError(f"--address {address}: something else than a Ray cluster answers there: {HOW}")
