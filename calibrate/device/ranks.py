"""Times communication between ranks, and what it does to computing beside it.

Ranks are processes of ``reference_model.ranks.run_ranks``, one thread each; they talk over gloo on a CPU and NCCL on
GPUs, through the very exchange that the model uses. They live for many measurements, wait for orders on a pipe, and
agree on every decision (how many repeats) by the slowest. A time is the slowest rank's. It is not normalised by the
probe: a wire does not wait for the CPU's clock (the probe is recorded all the same).
"""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Any

from calibrate.device.case import Case
from perfmodel.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from calibrate.device.samples import Measurement
    from calibrate.device.timing import Bench
    from reference_model.parallel import Exchange

SAMPLES = 15
MIN_SAMPLE_S = 10e-3
"""Small messages wait for the scheduler now and then (ticks of 4 ms), so that a sample is a mean over many."""
MAX_S = 2.0
MAX_REPEATS = 1000
CONTENTION_ROUNDS = 7
CONTENTION_MIN_S = 2e-3
"""Exchanges shorter than this end before compute beside them can be counted."""
FOREVER_S = 1e6


def wire_bytes(kernel: str, size: float, ranks: int) -> float:
    """Bytes that leave one rank in one direction, counted as in :mod:`perfmodel.ops.communication` in one domain.

    ``size`` is what that module takes: all-gather's result, reduce-scatter's and all-reduce's input, what a rank hands
    to an all-to-all (its own part included), what it sends to one other.
    """
    share = (ranks - 1) / ranks
    factors = {"all_reduce": 2 * share, "send_recv": 1.0}
    return size * factors.get(kernel, share)


class Ranks:
    """Processes that time communication. To be used in a ``with`` statement.

    Raises:
        DataError: fewer than two ranks, or fewer GPUs than ranks.
    """

    def __init__(self, num_ranks: int, bench: "Bench") -> None:
        if num_ranks < 2:
            raise DataError(f"ranks = {num_ranks}: communication needs at least 2")
        if bench.device == "cuda":
            import torch

            if torch.cuda.device_count() < num_ranks:
                raise DataError(
                    f"ranks = {num_ranks}: there are {torch.cuda.device_count()} GPUs; lower --ranks"
                )
        self.num_ranks = num_ranks
        self._settings = (bench.device, bench.reference_probe_s)
        self._thread = ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> "Ranks":
        from reference_model.ranks import run_ranks

        pipes = [Pipe() for _ in range(self.num_ranks)]
        self._orders = [ours for ours, _ in pipes]
        backend = "gloo" if self._settings[0] == "cpu" else "nccl"
        self._result: Future[list[Any]] = self._thread.submit(
            run_ranks,
            _serve,
            self.num_ranks,
            [theirs for _, theirs in pipes],
            *self._settings,
            backend=backend,
            timeout_s=FOREVER_S,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._orders:
            pipe.close()  # a rank that reads from a closed pipe ends
        self._thread.shutdown()

    def measure(self, case: Case) -> "Measurement":
        """Time a communication case, s, the slowest rank's.

        Raises:
            DataError: the case is for another number of ranks, or a rank failed (what it said is in the message).
        """
        from calibrate.device.samples import Measurement

        return Measurement(**self._ask("measure", case))

    def contention(self, case: Case) -> Mapping[str, float]:
        """``held`` and ``exchange_stretch`` (see :class:`calibrate.device.journal.Contention`) of an all-to-all.

        Raises:
            DataError: as :meth:`measure`.
        """
        return self._ask("contention", case)

    def _ask(self, order: str, case: Case) -> Mapping[str, Any]:
        if case.shape["ranks"] != self.num_ranks:
            raise DataError(f"{case.label}: there are {self.num_ranks} ranks")
        try:
            for pipe in self._orders:
                pipe.send((order, case))
            while not self._orders[0].poll(0.1):
                if self._result.done():
                    raise EOFError
            answer: Mapping[str, Any] = self._orders[0].recv()
        except (OSError, EOFError) as error:
            raise DataError(f"{case.label}: the ranks ended: {self._why()}") from error
        return answer

    def _why(self) -> str:
        """The last line of what a failed rank said."""
        error = self._result.exception(timeout=10.0)
        return str(error).strip().splitlines()[-1] if error else "no reason given"


def _serve(pipes: Sequence[Connection], device: str, reference_probe_s: float) -> None:
    """What a rank does: answers orders until its pipe is closed. Rank 0 alone replies."""
    import torch
    import torch.distributed as dist

    from calibrate.device.timing import Bench
    from reference_model.parallel import Exchange

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives the orders
    rank = dist.get_rank()
    if device == "cuda":
        torch.cuda.set_device(rank)
    bench = Bench(device, 1, rank, reference_probe_s=reference_probe_s)
    exchange = Exchange(dist.get_world_size(), device=f"cuda:{rank}" if device == "cuda" else device)
    orders: dict[str, Callable[[Case, Bench, Exchange], dict[str, float]]] = {
        "measure": _measure,
        "contention": _contention,
    }
    with torch.inference_mode():
        while True:
            try:
                order, case = pipes[rank].recv()
            except EOFError:
                break
            answer = orders[order](case, bench, exchange)
            if rank == 0:
                pipes[rank].send(answer)
    exchange.close()


def _measure(case: Case, bench: "Bench", exchange: "Exchange") -> dict[str, float]:
    """Fields of a Measurement, the same on every rank."""
    import dataclasses

    from calibrate.device.samples import Sample, summarise

    run = _build(case, bench, exchange)
    for _ in range(3):
        run()
    once_s = _slowest([_timed(run, 1) for _ in range(3)])
    once = sorted(once_s)[1]
    repeats = max(1, min(MAX_REPEATS, math.ceil(MIN_SAMPLE_S / once)))
    samples = max(3, min(SAMPLES, int(MAX_S / (repeats * once))))
    times, probes = [], []
    for _ in range(samples):
        probes.append(bench.probe())
        times.append(_timed(run, repeats) / (2 if case.kernel == "send_recv" else 1))
    taken = [Sample(*pair) for pair in zip(_slowest(times), probes, strict=True)]
    return dataclasses.asdict(summarise(taken, None, repeats))


def _contention(case: Case, bench: "Bench", exchange: "Exchange") -> dict[str, float]:
    """Compute alone, the exchange alone and both at once, in turn; medians over rounds.

    The compute is the probe, over and over for as long as the exchange is in flight, so that each overlaps fully with
    the other. On a GPU the exchange is over when a stream of its own has waited for it.
    """
    import numpy as np
    import torch
    import torch.distributed as dist

    start_exchange = _in_background(case, bench, exchange)
    alone_s, slice_s, together_s, slices = [], [], [], []
    with ThreadPoolExecutor(max_workers=1) as waiter:
        for _ in range(CONTENTION_ROUNDS + 1):
            dist.barrier()
            slice_s.append(_mean_slice(bench, 20))
            dist.barrier()
            start = time.perf_counter()
            alone_s.append(waiter.submit(_finish, start_exchange(), exchange.device).result() - start)
            dist.barrier()
            start = time.perf_counter()
            end = waiter.submit(_finish, start_exchange(), exchange.device)
            ends = []
            while not end.done():
                _slice(bench)
                ends.append(time.perf_counter())
            together_s.append(end.result() - start)
            slices.append(_count_until(end.result(), start, ends))
    held = 1.0 - np.array(slices) * np.array(slice_s) / np.array(together_s)
    stretch = np.array(_slowest(together_s)) / np.array(_slowest(alone_s))
    mean_held = torch.tensor([float(np.median(held[1:]))], device=bench.device)  # the first round warms up
    dist.all_reduce(mean_held)
    return {
        "held": max(0.0, float(mean_held) / exchange.num_ranks),
        "exchange_stretch": float(np.median(stretch[1:])),
    }


def _mean_slice(bench: "Bench", count: int) -> float:
    """Seconds of a slice of compute, over ``count`` of them."""
    start = time.perf_counter()
    for _ in range(count):
        _slice(bench)
    return (time.perf_counter() - start) / count


def _slice(bench: "Bench") -> None:
    """Compute, to its end. Not a probe, which is taken again when the exchange's own thread takes its core."""
    import torch

    bench.run_probe()
    if bench.device == "cuda":
        torch.cuda.current_stream().synchronize()


def _count_until(end: float, start: float, ends: Sequence[float]) -> float:
    """Slices of compute done at ``end``, the last one in part."""
    whole = sum(1 for one in ends if one <= end)
    if whole == len(ends):
        return float(whole)
    began = ends[whole - 1] if whole else start
    return whole + (end - began) / (ends[whole] - began)


def _finish(pending: Any, device: "torch.device") -> float:
    """Waits for an exchange, on a thread of its own, and returns when it was over."""
    import torch

    if device.type == "cpu":
        pending.wait()
        return time.perf_counter()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.device(device), torch.cuda.stream(stream):
        pending.wait()
        stream.synchronize()
    return time.perf_counter()


def _in_background(case: Case, bench: "Bench", exchange: "Exchange") -> Callable[[], Any]:
    """What starts the exchange of a case and returns at once."""
    from reference_model.parallel import Received

    x, counts = _rows(case, bench, exchange)
    received = Received(x, counts, received_rows=counts, sent_rows=counts)
    return lambda: exchange.combine(x, received, overlapped=True)


def _rows(case: Case, bench: "Bench", exchange: "Exchange") -> tuple["Tensor", list[int]]:
    """Elements that a rank holds, and how many go to each rank: equal parts, its own included."""
    size = case.shape["bytes"] / (exchange.num_ranks - 1) / _width(case)
    part = max(1, round(size))
    return bench.warm(part * exchange.num_ranks, dtype=case.dtype), [part] * exchange.num_ranks


def _build(case: Case, bench: "Bench", exchange: "Exchange") -> Callable[[], object]:
    """One call of the communication of a case, complete when it returns (but for a GPU's stream)."""
    import torch
    import torch.distributed as dist

    ranks = exchange.num_ranks
    size = case.shape["bytes"] / wire_bytes(case.kernel, 1.0, ranks) / _width(case)  # as wire_bytes takes it
    if case.kernel == "all_to_all":
        x, counts = _rows(case, bench, exchange)
        return lambda: exchange.swap(x, counts, counts)
    part = max(1, round(size / ranks))
    if case.kernel == "send_recv":
        return _ping_pong(bench.warm(max(1, round(size)), dtype=case.dtype), exchange.rank)
    whole, shard = (bench.warm(count, dtype=case.dtype) for count in (part * ranks, part))
    if case.kernel == "all_gather":
        # the *_single forms are the newer names
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        return lambda: gather(whole, shard)
    if case.kernel == "reduce_scatter":
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        return lambda: scatter(shard, whole)
    zeros = torch.zeros_like(whole)  # sums of zeros stay finite however often they are summed
    return lambda: dist.all_reduce(zeros)


def _ping_pong(x: "Tensor", rank: int) -> Callable[[], object]:
    """Rank 0 sends to rank 1 and gets it back: twice the time of a send, so :func:`_measure` halves it."""
    import torch.distributed as dist

    def there_and_back() -> None:
        if rank == 0:
            dist.send(x, 1)
            dist.recv(x, 1)
        elif rank == 1:
            dist.recv(x, 0)
            dist.send(x, 0)

    return there_and_back


def _width(case: Case) -> int:
    from calibrate.device.calls import DTYPES

    return DTYPES[case.dtype].itemsize


def _timed(run: Callable[[], object], repeats: int) -> float:
    """Seconds per call of this rank, started together with the others."""
    import torch
    import torch.distributed as dist

    dist.barrier()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def _slowest(seconds: Sequence[float]) -> list[float]:
    """The largest over the ranks, one by one."""
    import torch
    import torch.distributed as dist

    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    values = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    result: list[float] = values.tolist()
    return result
