"""Starting ranks: as child processes of one call, or by hand with the usual environment variables."""

import contextlib
import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Final

import torch
import torch.distributed as dist

GRACE_S: Final = 2.0
"""How long ranks have to report, after one has failed."""


@contextlib.contextmanager
def joined(backend: str = "gloo", **rendezvous: Any) -> Iterator[None]:
    """A process group around a block, one thread per rank.

    Without arguments a rank is one that was started by hand, say in a network namespace of its own: MASTER_ADDR,
    MASTER_PORT, RANK, WORLD_SIZE say where and which it is, GLOO_SOCKET_IFNAME over which interface it talks.
    ``rendezvous`` is handed to ``init_process_group`` (init_method, rank, world_size).
    """
    torch.set_num_threads(1)
    dist.init_process_group(backend, **rendezvous)
    try:
        yield
    finally:
        dist.destroy_process_group()


def run_ranks(
    function: Callable[..., Any], num_ranks: int, *args: Any, backend: str = "gloo", timeout_s: float = 300.0
) -> list[Any]:
    """Runs ``function(*args)`` in ``num_ranks`` new processes that form a process group; results by rank.

    Processes are spawned, so ``function`` must be importable by name and arguments and results picklable. Ranks of one
    machine meet in a file and talk over the loopback interface.

    Raises:
        RuntimeError: a rank failed (its traceback is in the message) or died; the others are ended.
        TimeoutError: ``timeout_s`` passed.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(num_ranks)]
        processes = [
            context.Process(
                target=_rank,
                args=(sender, function, args, backend, f"file://{folder}/meet", rank, num_ranks),
                daemon=True,
            )
            for rank, (_, sender) in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        for _, sender in pipes:
            sender.close()
        try:
            return _collect([receiver for receiver, _ in pipes], timeout_s)
        finally:
            for process in processes:
                process.terminate()
                process.join()


def _collect(receivers: list[Connection], timeout_s: float) -> list[Any]:
    """One result from each rank, in whatever order they come."""
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    while len(results) + len(failures) < len(receivers):
        waiting = {id(r): rank for rank, r in enumerate(receivers) if rank not in results | failures}
        # After a failure the others get a moment: they fail in its wake, and the first to say so need not be its cause.
        ready = wait([receivers[rank] for rank in waiting.values()], GRACE_S if failures else timeout_s)
        if not ready:
            break
        for rank in (waiting[id(receiver)] for receiver in ready):
            try:
                good, result = pickle.loads(receivers[rank].recv_bytes())
            except EOFError:
                good, result = False, "it died without a word"
            (results if good else failures)[rank] = result
    if failures:
        raise RuntimeError("\n".join(f"rank {rank} failed:\n{text}" for rank, text in failures.items()))
    if len(results) < len(receivers):
        silent = [rank for rank in range(len(receivers)) if rank not in results]
        raise TimeoutError(f"ranks {silent} said nothing for {timeout_s} s")
    return [results[rank] for rank in range(len(receivers))]


def _rank(
    sender: Connection,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    backend: str,
    meeting: str,
    rank: int,
    num_ranks: int,
) -> None:
    """What a child does. Results are pickled here: tensors sent by multiprocessing itself need their sender alive."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        with joined(backend, init_method=meeting, rank=rank, world_size=num_ranks):
            result = function(*args)
        sender.send_bytes(pickle.dumps((True, result)))
    except BaseException:
        sender.send_bytes(pickle.dumps((False, traceback.format_exc())))
        raise SystemExit(1) from None
