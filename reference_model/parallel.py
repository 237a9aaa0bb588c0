"""Expert parallelism: rows go to the ranks of their experts and back, waiting for it or beside other work.

Attention is data-parallel: each rank has its own tokens and all weights but the experts', which are divided evenly. How
many rows a rank sends to another depends on routing, so every dispatch exchanges counts first.

Overlapped, the whole exchange (counts, rows) runs on a thread of its own, and on CUDA on a stream of its own, while the
caller computes. The numbers are the same either way.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Received:
    """Rows of all ranks for this rank's experts."""

    rows_PH: Tensor
    """By source rank, then by expert."""
    counts: list[int]
    """Rows of each of this rank's experts."""
    order_P: Tensor | None = None
    """Index that puts them in the order of the experts; None: they are."""
    back_P: Tensor | None = None
    """Index that undoes it."""
    received_rows: Sequence[int] = ()
    """Rows from each rank."""
    sent_rows: Sequence[int] = ()
    """Rows to each rank."""


class Pending(Generic[T]):
    """A result that may still be under way."""

    def __init__(self, result: "T | Future[T]", then: Callable[[T], None] | None = None) -> None:
        """``then`` is called with the result by whoever waits for it."""
        self._result, self._then = result, then

    def wait(self) -> T:
        """The result; raises what went wrong on the other thread."""
        result = self._result.result() if isinstance(self._result, Future) else self._result
        if self._then is not None:
            self._then(result)
        return result


class Alone:
    """The exchange of a model that has all experts on one rank: rows stay where they are."""

    rank, num_ranks = 0, 1

    def __init__(self, num_experts: int) -> None:
        """All ``num_experts`` are local."""
        self.num_local_experts = num_experts

    def dispatch(self, rows_PH: Tensor, counts: list[int], *, overlapped: bool) -> Pending[Received]:
        """The rows themselves."""
        del overlapped
        return Pending(Received(rows_PH, counts))

    def combine(self, y_PH: Tensor, received: Received, *, overlapped: bool) -> Pending[Tensor]:
        """The outputs themselves."""
        del received, overlapped
        return Pending(y_PH)


class Exchange:
    """All-to-all of rows over the ranks of a process group of its own. Gradients take the same way back, where the
    caller waits for it; overlapped it is for inference.

    On gloo each pair of ranks posts its receive before it sends: its all-to-all takes one or two times the wire's time
    at random. On NCCL it is ``all_to_all_single``.

    All ranks must create it, and call it, in the same order.
    """

    def __init__(self, num_experts: int, *, device: torch.device | str = "cpu") -> None:
        """Joins all ranks of the default process group.

        Raises:
            ValueError: the experts can't be divided evenly over the ranks.
        """
        self.rank, self.num_ranks = dist.get_rank(), dist.get_world_size()
        if num_experts % self.num_ranks:
            raise ValueError(f"{num_experts} experts must be a multiple of the {self.num_ranks} ranks")
        self.num_local_experts = num_experts // self.num_ranks
        self.device = torch.device(device)
        self.group = dist.new_group()
        self._collective = dist.get_backend(self.group) == "nccl"
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="exchange")

    def close(self) -> None:
        """Ends the thread; the process group lives until ``destroy_process_group``."""
        self._thread.shutdown()

    def dispatch(self, rows_PH: Tensor, counts: list[int], *, overlapped: bool) -> Pending[Received]:
        """Sends rows, sorted by expert with ``counts`` of each, to the ranks of their experts."""
        return self._start(lambda: self._dispatch(rows_PH, counts), rows_PH, overlapped=overlapped)

    def combine(self, y_PH: Tensor, received: Received, *, overlapped: bool) -> Pending[Tensor]:
        """Sends outputs, in the order of ``received.rows_PH``, back to where the rows came from."""
        return self._start(
            lambda: self._swapped(y_PH, received.received_rows, received.sent_rows),
            y_PH,
            overlapped=overlapped,
        )

    def swap(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """``send[r]`` rows of ``x`` in turn go to rank r, ``receive[r]`` come from it; result in the order of ranks."""
        out = x.new_empty(sum(receive), *x.shape[1:])
        if self._collective:
            dist.all_to_all_single(out, x.contiguous(), list(receive), list(send), group=self.group)
            return out
        sources, targets = torch.split(out, list(receive)), torch.split(x.contiguous(), list(send))
        peers = [(self.rank + step) % self.num_ranks for step in range(1, self.num_ranks)]
        work = [dist.irecv(sources[peer], peer, group=self.group) for peer in peers if receive[peer]]
        work += [dist.isend(targets[peer], peer, group=self.group) for peer in peers if send[peer]]
        sources[self.rank].copy_(targets[self.rank])
        for one in work:
            assert one is not None, "this rank is in the group"
            one.wait()
        return out

    def _swapped(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """:meth:`swap`, with a gradient that goes back where the rows came from."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.swap(x, send, receive)
        swapped: Tensor = _Swap.apply(x, self, send, receive)  # type: ignore[no-untyped-call]
        return swapped

    def _dispatch(self, rows_PH: Tensor, counts: list[int]) -> Received:
        """Counts first, then rows."""
        once = [1] * self.num_ranks
        sent_RE = torch.tensor(counts).view(self.num_ranks, -1)
        to_device = sent_RE.to(self.device if self._collective else "cpu")
        received_RE = self.swap(to_device, once, once).cpu()
        sent, received = sent_RE.sum(dim=1).tolist(), received_RE.sum(dim=1).tolist()
        rows = self._swapped(rows_PH, sent, received)
        order, back = (index.to(rows.device) for index in expert_order(received_RE))
        return Received(rows, received_RE.sum(dim=0).tolist(), order, back, received, sent)

    def _start(self, exchange: Callable[[], T], rows: Tensor, *, overlapped: bool) -> Pending[T]:
        """Runs an exchange here and now, or on the other thread."""
        if overlapped and torch.is_grad_enabled() and rows.requires_grad:
            raise RuntimeError(
                "an overlapped Exchange has no backward pass: run the model under torch.no_grad()"
            )
        if not overlapped:
            return Pending(exchange())
        if self._stream is None:
            return Pending(self._thread.submit(exchange))
        return self._start_on_stream(exchange, rows, self._stream)

    def _start_on_stream(
        self, exchange: Callable[[], T], rows: Tensor, stream: torch.cuda.Stream
    ) -> Pending[T]:
        """The exchange waits for the rows, and whoever waits for the exchange makes its own stream wait for it.

        Memory that one stream allocates and another uses is recorded for both, or it would be reused too early.
        """
        ready, done = torch.cuda.Event(), torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        rows.record_stream(stream)

        def run() -> T:
            with torch.cuda.device(self.device), torch.cuda.stream(stream):
                stream.wait_event(ready)
                result = exchange()
                done.record(stream)
            return result

        def then(result: T) -> None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(done)
            for tensor in _tensors(result):
                tensor.record_stream(current)

        return Pending(self._thread.submit(run), then)


class _Swap(torch.autograd.Function):
    """An exchange of rows; the gradient's is the reverse. Every rank's graph has them in the same order."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, exchange: Exchange, send: Sequence[int], receive: Sequence[int]
    ) -> Tensor:
        """Rows go out."""
        ctx.exchange, ctx.ways = exchange, (list(send), list(receive))
        return exchange.swap(x, send, receive)

    @staticmethod
    def backward(ctx: Any, *came: Tensor) -> tuple[Tensor, None, None, None]:
        """Their gradients come back."""
        send, receive = ctx.ways
        return ctx.exchange.swap(came[0], receive, send), None, None, None


def expert_order(received_RE: Tensor) -> tuple[Tensor, Tensor]:
    """Indices between the order in which rows come (rank, expert) and the order of the experts, and back.

    ``received_RE`` are the rows of each rank for each local expert.
    """
    num_ranks, num_local = received_RE.shape
    experts_P = torch.arange(num_local).repeat(num_ranks).repeat_interleave(received_RE.flatten())
    order_P = torch.argsort(experts_P, stable=True)
    back_P = torch.empty_like(order_P)
    back_P[order_P] = torch.arange(len(order_P))
    return order_P, back_P


def _tensors(result: object) -> list[Tensor]:
    if isinstance(result, Received):
        return [t for t in (result.rows_PH, result.order_P, result.back_P) if t is not None]
    return [result] if isinstance(result, Tensor) else []
