"""The two long-lived rank processes of the overlap experiment, and the link between them."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from calibrate.overlap.namespaces import Link
from calibrate.overlap.workload import NUM_RANKS, Workload
from perfmodel.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 120.0
END_S = 5.0
"""How long ranks have to end by themselves."""
LOOPBACK = "127.0.0.1"
PORT = 29500
"""Where ranks meet, in a namespace that nobody else is in."""


class RankPair:
    """Two ranks that do what they are told at the same time, for a ``with`` block.

    In two namespaces joined by a link whose rate can be set, or, with ``loopback``, as plain processes that talk over
    the loopback interface.

    Raises:
        NoNamespacesError: namespaces can't be had; the message says why.
        DataError: a rank failed while it started.
    """

    def __init__(self, workload: Workload, *, loopback: bool = False) -> None:
        self.workload = workload
        self.link = None if loopback else Link()
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> "RankPair":
        with ExitStack() as stack:
            if self.link is not None:
                stack.enter_context(self.link)
            stack.callback(self._end)
            port = free_port() if self.link is None else PORT
            for rank in range(NUM_RANKS):
                self._start(rank, port)
            for pipe in self._pipes:
                pipe.send(self.workload)
            self.greetings = self.ask("hello")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def set_rate(self, bits_per_s: float | None) -> None:
        """Shape the link, bit/s; None: as fast as it goes. Nothing happens on the loopback interface."""
        if self.link is not None:
            self.link.set_rate(bits_per_s)

    def ask(self, order: str, **arguments: Any) -> tuple[dict[str, Any], ...]:
        """Gives both ranks an order (a method of :class:`calibrate.overlap.rank.Rank`); their answers, by rank.

        Raises:
            DataError: a rank failed (its last words are in the message), ended or said nothing for two minutes.
        """
        try:
            for pipe in self._pipes:
                pipe.send((order, arguments))
            return self._answers(order)
        except (EOFError, OSError) as error:
            raise DataError(
                f"overlap experiment: a rank ended during {order}; see what it wrote to stderr"
            ) from error

    def _answers(self, order: str) -> tuple[dict[str, Any], ...]:
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) < len(self._pipes):
            waiting = [pipe for rank, pipe in enumerate(self._pipes) if rank not in answers]
            ready = wait(waiting, TIMEOUT_S)
            if not ready:
                raise DataError(f"overlap experiment: {order}: ranks said nothing for {TIMEOUT_S:.0f} s")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                good, answer = pipe.recv()
                rank = self._pipes.index(pipe)
                if not good:
                    print(answer, file=sys.stderr)
                    why = answer.strip().splitlines()[-1]
                    raise DataError(f"overlap experiment: {order}: rank {rank} failed (above): {why}")
                answers[rank] = answer
        return tuple(answers[rank] for rank in range(len(self._pipes)))

    def _start(self, rank: int, port: int) -> None:
        ours, theirs = Pipe()
        end = self.link.ends[rank] if self.link else None
        meeting = self.link.ends[0].address if self.link else LOOPBACK
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(NUM_RANKS),
            "MASTER_ADDR": meeting,
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": end.interface if end else "lo",
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # a namespace has no name service, and torch would warn of that
        }
        program: Sequence[str] = (sys.executable, "-m", "calibrate.overlap.rank", str(theirs.fileno()))
        self._processes.append(
            subprocess.Popen(
                [*(end.command if end else ()), *program],
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd=ROOT,
            )
        )
        theirs.close()
        self._pipes.append(ours)

    def _end(self) -> None:
        """A rank that reads from a closed pipe ends; one that waits for a lost peer is made to."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
