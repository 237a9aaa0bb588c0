"""How long a call takes on a device whose speed wanders.

On a CPU one sample is a probe, the call (a kernel once, between others; anything else often enough to fill a
millisecond), and a probe. The probe is a small matrix product, always the same, so its time says how fast the machine
is *now*. A sample is divided by the mean of its two probes and multiplied by the reference probe of the calibration: it
is the time on a machine as fast as when the reference was taken. A GPU reports and holds its clock; there the factor is
one, and calls are launched one by one, as the reference model does, so that a short kernel's time contains what
launching it costs.
"""

import itertools
import math
import os
import resource
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibrate.device.calls import DTYPES, Between, BetweenOthers, WithGradients
from calibrate.device.case import Run
from calibrate.device.environment import available_memory_bytes, keep_freed_memory, last_level_cache_bytes
from calibrate.device.samples import Measurement, Sample, prefer_undisturbed, summarise
from perfmodel.errors import DataError
from perfmodel.units import GIB, MS

Array = NDArray[np.float64]

PROBE_SHAPE = {"cpu": (64, 512, 512), "cuda": (4096, 4096, 4096)}
"""Product whose time is the probe: M, N, K, FP32 on a CPU and BF16 on a GPU. It runs until it gets no faster."""
REFERENCE_PROBES = 300
SETTLED, MAX_PROBE_RUNS = 0.995, 16
"""A probe is settled when a run takes at least this share of the run before it."""
MIN_POOL_BYTES = 128 * 2**20
WARM_UPS = 2
SAMPLES, SAMPLES_OF_SHORT, SHORT_S = 9, 25, 3e-4
"""Samples of a call, of one that takes less than 0.3 ms."""
MAX_ROUNDS = 3
"""How many times the wanted samples are taken at most to get as many that no other process disturbed."""
MAX_REPEATS = 20_000
MAX_VIEWS = 4096
"""Views of the pool made beforehand, so that a call only takes the next; enough for all weights above 32 KiB."""
GOLDEN_RATIO = 0.618034


def _forced_switches() -> int:
    """How often the kernel took a core from this process's threads to give it to others."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class Bench:
    """A device to time calls on, with its pool of cold operands, its probe and its clock.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: torch's threads within an op, for the whole process.
        seed: of the random operands.
        reference_probe_s: probe time that samples are normalised to, s; None: measured now.
        clock: nanoseconds; only tests replace it.

    Raises:
        DataError: a device that torch does not have here, or no such number of threads.
    """

    def __init__(
        self,
        device: str = "cpu",
        threads: int = 1,
        seed: int = 0,
        *,
        reference_probe_s: float | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        _check_device(device, threads)
        keep_freed_memory()
        torch.set_num_threads(threads)
        self.device, self.threads = device, threads
        self.clock = clock
        self._generator = torch.Generator(device).manual_seed(seed)
        self._pools: dict[str, Tensor] = {}
        self._num_cold = self._swept = self._reserved = 0
        self._made: list[Tensor] = []
        rows, columns, inner = PROBE_SHAPE[device]
        dtype = "fp32" if device == "cpu" else "bf16"
        self._probe_x = self.warm(rows, inner, dtype=dtype)
        self._probe_weight = self.warm(columns, inner, dtype=dtype)
        self.reference_probe_s = reference_probe_s or float(
            np.median([self.probe() for _ in range(REFERENCE_PROBES)])
        )

    # --- operands -------------------------------------------------------------------------------------------

    def warm(self, *shape: int, dtype: str) -> Tensor:
        """Standard normal values that stay where they are: an activation.

        Raises:
            DataError: more than half of the free memory.
        """
        nbytes = math.prod(shape) * DTYPES[dtype].itemsize
        if nbytes > free_bytes(self.device) / 2:
            raise DataError(
                f"a tensor of {nbytes / GIB:.1f} GiB does not fit beside others in the "
                f"{free_bytes(self.device) / GIB:.1f} GiB that are free; lower --max-tokens or --max-context"
            )
        made = torch.randn(shape, generator=self._generator, device=self.device, dtype=DTYPES[dtype])
        self._made.append(made)
        return made

    def saved(self, *shape: int, dtype: str) -> Tensor:
        """An activation that a forward left for its backward: it stays where it is, nobody writes it again before it is
        read, and its gradient may be asked for.

        Raises:
            DataError: more than half of the free memory.
        """
        made = self.warm(*shape, dtype=dtype)
        self._made.pop()
        return made.requires_grad_()

    def cold(self, *shape: int, dtype: str) -> Callable[[], Tensor]:
        """A function whose every call returns another part of the pool as a tensor: a weight or a cache.

        What is larger than the pool flushes the cache by itself and gets its own memory.
        """
        pool, size = self._pool(dtype), math.prod(shape)
        if size > pool.numel():
            own = self.warm(*shape, dtype=dtype)
            return lambda: own
        step = -(-size // 64) * 64  # starts on a cache line, as an allocation does
        count = min((pool.numel() - size) // step + 1, MAX_VIEWS)
        views = [pool[index * step : index * step + size].view(shape) for index in range(count)]
        phase = int(count * (self._num_cold * GOLDEN_RATIO % 1.0))  # operands of one call must not meet
        self._num_cold += 1
        return itertools.cycle(views[phase:] + views[:phase]).__next__

    def reserve(self, nbytes: int) -> None:
        """Take so much memory and give it back to the allocator, once: no timed call then waits for the system's."""
        if nbytes > self._reserved:
            torch.empty(
                min(nbytes, free_bytes(self.device) // 4), dtype=torch.uint8, device=self.device
            ).fill_(0)
            self._reserved = nbytes

    def table(self, width: int, *, dtype: str) -> Tensor:
        """The whole pool as rows of ``width``: [pool / width, width]."""
        pool = self._pool(dtype)
        return pool[: pool.numel() // width * width].view(-1, width)

    def ids(self, values: NDArray[np.int64]) -> Tensor:
        """Integers on the device."""
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def between_others(self, build: Callable[[], Run]) -> "Run":
        """The call that ``build`` sets up, to be timed as in a step: after other kernels, on inputs just written.

        On a CPU a call that is merely repeated finds everything of its own in the core's caches: its code, the
        interpreter's, the memory it has just freed. In a step weights pass between two uses of a kernel, and a norm of
        a few rows takes twice as long. So half of the last-level cache is swept before each call: the core's own caches
        are cold, the shared one is not. (All of it would be too much for small steps, and where exactly it tips over
        is a matter of luck.) On a GPU the host runs ahead, so repeating is right there.
        """
        self._made.clear()
        run = build()
        inputs = [tensor for tensor in self._made if tensor.nbytes <= cache_bytes_of(self.device)]
        self._made.clear()
        return BetweenOthers(run, inputs, self.sweep) if self.device == "cpu" else run

    def sweep(self, nbytes: int = 0) -> None:
        """Reads so much of the pool, by default half as much as the last-level cache holds."""
        pool = self._pool("fp32")
        size = (nbytes or cache_bytes_of(self.device) // 2) // pool.itemsize
        self._swept = (self._swept + size) % (pool.numel() - size)
        pool[self._swept : self._swept + size].sum()

    def _pool(self, dtype: str) -> Tensor:
        if dtype not in self._pools:
            nbytes = min(pool_bytes(self.device), free_bytes(self.device) // 4)
            self._pools[dtype] = self.warm(nbytes // DTYPES[dtype].itemsize, dtype=dtype)
        return self._pools[dtype]

    # --- timing ---------------------------------------------------------------------------------------------

    def copy_bytes_per_s(self) -> float:
        """Bytes read and written per second by the fastest of some copies from one half of the pool to the other."""
        pool = self._pool("fp32")
        half = pool.numel() // 2
        seconds = [self._time(lambda: pool[:half].copy_(pool[half : 2 * half]), 1) for _ in range(10)]
        return 2.0 * half * pool.itemsize / min(seconds)

    def probe(self) -> float:
        """Seconds of one probe: run until it gets no faster, again if the core was taken away meanwhile.

        Beside a large kernel its operands, their pages and its code have left the core's caches: it is then up to 40 %
        slower, in its second run 10 %, as if the machine were, and what was timed would come out that much too fast
        (docs/log.md). After four to six runs it is as fast as over and over.
        """
        last, _ = self._sample(self.run_probe, 1)
        for _ in range(MAX_PROBE_RUNS):
            seconds, undisturbed = self._sample(self.run_probe, 1)
            if undisturbed and seconds >= SETTLED * last:
                return min(seconds, last)
            last = seconds
        return last

    def run_probe(self) -> None:
        """The product that a probe times."""
        torch.mm(self._probe_x, self._probe_weight.T)

    def measure(
        self, run: Run, *, samples: int | None = None, min_sample_s: float = 1e-3, max_s: float = 2.0
    ) -> Measurement:
        """Time ``run``: ``samples`` samples of at least ``min_sample_s`` each, in about ``max_s`` (two at least).

        Nine samples unless told otherwise, 25 of a short call that is timed one by one between others.

        Samples during which the operating system gave the core to another process are taken again, as long as
        there are not :data:`MAX_ROUNDS` times as many; where that doesn't help, they count.
        """
        if samples is None:
            samples = SAMPLES_OF_SHORT if self._is_short(run) else SAMPLES
        return self.interleaved([run], samples, min_sample_s=min_sample_s, max_s=max_s)[0]

    def _is_short(self, run: Run) -> bool:
        """Whether a single call, timed between others, is so short that its samples scatter."""
        if not isinstance(run, BetweenOthers):
            return False
        with torch.inference_mode():
            run()
            return self._time(run, 1) < SHORT_S

    def interleaved(
        self, runs: Sequence[Run], rounds: int, *, min_sample_s: float = 1e-3, max_s: float = math.inf
    ) -> list[Measurement]:
        """Time several calls in turn, one sample of each per round and a probe between any two.

        A slow spell of the machine then falls on all of them alike, so that their ratios can be trusted.
        """
        taken: list[list[Sample]] = [[] for _ in runs]
        with torch.inference_mode():
            repeats = [self._repeats(run, min_sample_s) for run in runs]
            end, before = time.monotonic() + max_s, self.probe()
            for index in range(MAX_ROUNDS * rounds):
                enough = all(sum(sample.undisturbed for sample in of_run) >= rounds for of_run in taken)
                if enough or (index >= 2 and time.monotonic() > end):
                    break
                for run, count, of_run in zip(runs, repeats, taken, strict=True):
                    if isinstance(run, BetweenOthers):
                        run.prepare()
                    seconds, undisturbed = self._sample(run, count)
                    after = self.probe()
                    of_run.append(Sample(seconds / count, (before + after) / 2, undisturbed))
                    before = after
        reference = self.reference_probe_s if self.device == "cpu" else None
        return [
            summarise(prefer_undisturbed(of_run, rounds), reference, count)
            for of_run, count in zip(taken, repeats, strict=True)
        ]

    def noise_floor(self, runs: Sequence[Run]) -> float:
        """Median of |log ratio| between two separate measurements of the same calls."""
        first, second = ([self.measure(run).seconds for run in runs] for _ in range(2))
        return float(np.median(np.abs(np.log(np.array(first) / np.array(second)))))

    def _repeats(self, run: Run, min_sample_s: float) -> int:
        """Calls that fill a sample, found while warming up."""
        for _ in range(WARM_UPS):
            run()
        if isinstance(run, BetweenOthers):
            return 1
        repeats = 1
        while True:
            seconds = self._time(run, repeats)
            if seconds >= 0.5 * min_sample_s or repeats >= MAX_REPEATS:
                return min(MAX_REPEATS, max(1, math.ceil(repeats * min_sample_s / max(seconds, 1e-9))))
            repeats = min(MAX_REPEATS, repeats * 4)

    def _sample(self, run: Run, repeats: int) -> tuple[float, bool]:
        """Seconds that ``repeats`` calls take, and whether the operating system let them run all the while."""
        switches = _forced_switches()
        seconds = self._time(run, repeats)
        return seconds, _forced_switches() == switches

    def _time(self, run: Run, repeats: int) -> float:
        """Seconds that ``repeats`` calls take; of a :class:`Between`, as many times what lies between two kernels.

        What switching modes costs is in neither.
        """
        inner = run.run if isinstance(run, BetweenOthers) else run
        between = inner if isinstance(inner, Between) else None
        called = inner if between is None else between.run
        with torch.inference_mode(not isinstance(called, WithGradients)):
            if self.device == "cuda":
                return self._time_on_gpu(run, repeats)
            if between is not None:
                between.restart()
            start = self.clock()
            for _ in range(repeats):
                run()
            taken = self.clock() - start
            if between is not None:
                return (taken - between.inside_ns) / between.count * repeats * 1e-9
            return taken * 1e-9

    def _time_on_gpu(self, run: Run, repeats: int) -> float:
        """Seconds between two events around the calls, on the GPU's own clock."""
        start, end = _event(), _event()
        torch.cuda.current_stream().synchronize()
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * MS


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def free_bytes(device: str) -> int:
    """Memory that can be allocated now, bytes."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return available_memory_bytes()


def cache_bytes_of(device: str) -> int:
    """The last-level cache of the device, bytes."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    return last_level_cache_bytes()


def pool_bytes(device: str) -> int:
    """Four times the last-level cache, on a CPU at least 128 MiB."""
    return max(4 * cache_bytes_of(device), MIN_POOL_BYTES if device == "cpu" else 0)


def _check_device(device: str, threads: int) -> None:
    if device not in PROBE_SHAPE:
        raise DataError(f"device: {device!r} must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError(
            "device: torch finds no CUDA GPU here; use --device cpu, or install a CUDA build of torch"
        )
    num_cores = len(os.sched_getaffinity(0))
    if not 1 <= threads <= num_cores:
        raise DataError(f"threads = {threads} must be between 1 and {num_cores}, the cores of this machine")
