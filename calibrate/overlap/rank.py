"""One rank of the overlap experiment: a process in a namespace of its own that does what its pipe says.

Started by :mod:`calibrate.overlap.ranks` as ``python -m calibrate.overlap.rank FD`` with the usual environment
variables (RANK, MASTER_ADDR, ...). Both ranks get every order and do it at the same time, since that is how a block
runs: they share caches, memory bandwidth and, on some machines, cores. Times are by the clock, with the probe beside
them, unless it says otherwise.
"""

import hashlib
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from calibrate.device.builders import build
from calibrate.device.case import Case
from calibrate.device.environment import describe
from calibrate.device.timing import Bench
from calibrate.overlap.workload import DTYPE, NUM_RANKS, Workload
from reference_model.kernels import linear
from reference_model.model import LongcatFlash
from reference_model.parallel import Exchange, Pending, Received
from reference_model.ranks import joined
from reference_model.weights import init_weights
from reference_model.work import Cache, Group

PROBE_S = 60e-3
"""Before and after a block ranks probe together for this long, together about as long as a block computes: so the probe
and the block feel the same share of the machine's short hiccups, which a single probe mostly misses. Together, because
where virtual CPUs share a core a probe tells nothing unless the other rank computes too."""
GAP_S = 20e-3
"""Between dispatch and combine of a timed exchange, for the link's bucket to fill as it does in a block."""
REFERENCE_PROBE_S = 0.2
KERNEL_MAX_S = 0.3
SLICE_ROWS = 64
"""Rows of the product that is the slice of compute in which contention is measured; its weights are cold."""
ALONE_SLICES = 30

Answer = dict[str, Any]


class Rank:
    """What a rank holds between orders: the model, its input, a bench and the exchange."""

    def __init__(self, workload: Workload) -> None:
        """Joins the others, so all ranks must come here."""
        self.workload, self.rank = workload, dist.get_rank()
        config, tokens = workload.config, workload.tokens
        self.bench = Bench("cpu", 1, self.rank)
        self.bench.reference_probe_s = _mean_of_ranks(self._probe(REFERENCE_PROBE_S))
        self.exchange = Exchange(config.n_routed_experts)
        self.waiter = ThreadPoolExecutor(max_workers=1)
        self.model = LongcatFlash(config, exchange=self.exchange).eval()
        init_weights(self.model, seed=0)
        self.stream, self.delta = (self.bench.warm(tokens, config.hidden_size, dtype=DTYPE) for _ in range(2))
        group = Group("prefill", torch.zeros(1, tokens, dtype=torch.long), Cache(config, 1, tokens))
        self.places = self.model.rotary.places([group], torch.float32)
        self.ids = torch.from_numpy(workload.ids[self.rank])
        hidden = config.hidden_size
        self.slice_x = self.bench.warm(SLICE_ROWS, hidden, dtype=DTYPE)
        self.slice_weight = self.bench.cold(hidden, hidden, dtype=DTYPE)

    def hello(self) -> Answer:
        """Warms up every block in both forms; says what was found."""
        for turn in range(len(self.model.blocks)):
            for overlapped in (False, True):
                self._block(turn, overlapped=overlapped)
        environment = describe("cpu", 1) | {"copy_bytes_per_s": self.bench.copy_bytes_per_s()}
        return {"environment": environment, "reference_probe_s": self.bench.reference_probe_s}

    def kernel(self, case: Case, samples: int) -> Answer:
        """Times a compute kernel; ``seconds`` are normalised by the probe."""
        run = build(case, self.bench)
        dist.barrier()
        found = self.bench.measure(run, samples=samples, max_s=KERNEL_MAX_S)
        return {"seconds": found.seconds, "spread": found.spread, "probe_s": found.probe_s}

    def block(self, turn: int, overlapped: bool) -> Answer:
        """Runs one block; ``digest`` is of every bit of its output."""
        before = self._probe()
        seconds, outputs = self._timed(lambda: self._block(turn, overlapped=overlapped))
        probe_s = (before + self._probe()) / 2
        return {"seconds": seconds, "probe_s": probe_s, "digest": _digest(outputs)}

    def exchange_rows(self, rows: int) -> Answer:
        """Dispatches and combines ``rows`` to and from the other rank, and as many to itself."""
        x, counts = self._rows(rows)
        dispatch_s, received = self._timed(lambda: self.exchange.dispatch(x, counts, overlapped=False).wait())
        time.sleep(GAP_S)
        combine_s, _ = self._timed(lambda: self.exchange.combine(x, received, overlapped=False).wait())
        return {"dispatch_s": dispatch_s, "combine_s": combine_s}

    def contention(self, rows: int) -> Answer:
        """Seconds of a slice of compute alone and beside an exchange in flight, and of that exchange.

        ``together_s`` is NaN where no slice ended before the exchange did.
        """
        x, _ = self._rows(rows)
        split = (x.shape[0] // NUM_RANKS,) * NUM_RANKS
        received = Received(x, [], received_rows=split, sent_rows=split)
        dist.barrier()
        start = time.perf_counter()
        for _ in range(ALONE_SLICES):
            self._slice()
        alone_s = (time.perf_counter() - start) / ALONE_SLICES
        dist.barrier()
        start = time.perf_counter()
        end = self.waiter.submit(_finish, self.exchange.combine(x, received, overlapped=True))
        ends = [start]
        while not end.done():
            self._slice()
            ends.append(time.perf_counter())
        inside = [one for one in ends if one <= end.result()]
        together_s = (inside[-1] - start) / (len(inside) - 1) if len(inside) > 1 else float("nan")
        return {"alone_s": alone_s, "together_s": together_s, "exchange_s": end.result() - start}

    def _block(self, turn: int, *, overlapped: bool) -> tuple[Tensor, Tensor]:
        block = self.model.blocks[turn % len(self.model.blocks)]
        outputs: tuple[Tensor, Tensor] = block(
            self.stream, self.delta, self.places, overlapped=overlapped, routed_ids_NK=self.ids
        )
        return outputs

    def _rows(self, rows: int) -> tuple[Tensor, list[int]]:
        """Rows for both ranks, spread over the experts as evenly as they go."""
        config = self.workload.config
        local = config.n_routed_experts // NUM_RANKS
        counts = [rows // local + (expert < rows % local) for expert in range(local)] * NUM_RANKS
        return self.bench.warm(NUM_RANKS * rows, config.hidden_size, dtype=DTYPE), counts

    def _timed(self, run: Callable[[], Any]) -> tuple[float, Any]:
        dist.barrier()
        start = time.perf_counter()
        result = run()
        return time.perf_counter() - start, result

    def _slice(self) -> None:
        linear(self.slice_x, self.slice_weight())

    def _probe(self, duration_s: float = PROBE_S) -> float:
        """Seconds per probe, hiccups included, while all ranks probe."""
        dist.barrier()
        start, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < duration_s:
            self.bench.run_probe()
            count += 1
        return elapsed / count


def _finish(pending: Pending[Tensor]) -> float:
    pending.wait()
    return time.perf_counter()


def _digest(outputs: tuple[Tensor, ...]) -> str:
    found = hashlib.sha256()
    for tensor in outputs:
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def _mean_of_ranks(value: float) -> float:
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(tensor)
    return float(tensor) / dist.get_world_size()


def main() -> None:
    """Answers orders until the pipe is closed; an error is an answer too, and the last one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives the orders
    pipe = Connection(int(sys.argv[1]))
    try:
        with joined(), torch.inference_mode():
            rank = Rank(pipe.recv())
            while True:
                order, arguments = pipe.recv()
                pipe.send((True, getattr(rank, order)(**arguments)))
    except EOFError:
        pass
    except Exception:
        pipe.send((False, traceback.format_exc()))


if __name__ == "__main__":
    main()
