"""A step as a Chrome trace in Kineto's dialect: opens in Perfetto, and in Holistic Trace Analysis.

Times are microseconds. Every op is a ``kernel`` on its stream, with a ``cudaLaunchKernel`` of the same correlation on
the host; communication kernels are named ``nccl...Kernel...``, by which analyses recognise them. What has no
counterpart in the model follows one rule: where no host is described, or a graph is replayed, an op is launched when
the one before it on its stream starts, and launching takes no time.

Holistic Trace Analysis rounds to whole microseconds unless the environment has ``HTA_DISABLE_NS_ROUNDING=1``; ops are
a few microseconds long, so its figures agree with perfmodel's only with that set.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.ops.op import COMMUNICATION_STREAMS, OpClass, Stream
from perfmodel.output.step.spans import OpRun, op_runs
from perfmodel.overlap.analysis import slowest_rank
from perfmodel.overlap.launch import LAUNCH
from perfmodel.spec.paths import is_folder, kind_of
from perfmodel.step import Step
from perfmodel.units import US

STREAM_NUMBERS = {Stream.COMPUTE: 7, Stream.EXPERTS: 8, Stream.LINK: 20, Stream.NETWORK: 21}
"""Stream ids; 7 is what PyTorch's default stream has in a Kineto trace."""
STREAM_NAMES = {
    Stream.COMPUTE: "compute",
    Stream.EXPERTS: "compute (experts)",
    Stream.LINK: "NVLink",
    Stream.NETWORK: "network",
}
LAYER_THREAD = 100
"""First thread of the rows that show layers, one per micro-batch."""
HOST_PROCESS = 1_000_000
"""Added to the rank: the process that stands for its host."""
SUFFIXES = (".json", ".json.gz")

Event = dict[str, Any]


def write_trace(step: Step, path: Path) -> None:
    """Write the trace of a step.

    A path that ends in .json or .json.gz becomes one file; where all ranks were simulated it holds the slowest, which
    sets the step's time. Any other path is a folder, made if need be, with a file per rank: rank_0.json, ...

    Raises:
        DataError: the path can't be written, or the folder holds ranks of another trace.
    """
    if path.name.endswith(SUFFIXES) and not is_folder(path):
        _write_rank(step, slowest_rank(step.timeline), path)
        return
    _prepare_folder(path, step.timeline.num_ranks)
    for rank, runs in enumerate(_runs_by_rank(step)):
        atomic_write(path / f"rank_{rank}.json", trace_text(step, rank, runs))


def trace_text(step: Step, rank: int, runs: Sequence[OpRun] | None = None) -> str:
    """One rank's trace as JSON, an event per line."""
    runs = op_runs(step, rank) if runs is None else runs
    deployment, gpu = step.scenario.deployment, step.scenario.cluster.gpu
    head = {
        "schemaVersion": 1,
        "distributedInfo": {"backend": "nccl", "rank": rank, "world_size": deployment.num_gpus},
        "deviceProperties": [
            {"id": rank, "name": gpu.name, "totalGlobalMem": gpu.memory_bytes, "numSms": gpu.num_sms}
        ],
        "scenario": step.scenario.name,
        "displayTimeUnit": "ms",
    }
    events = [*_names(runs, rank), *sorted(_timed(runs, rank), key=_order)]
    lines = ",\n".join(json.dumps(event, allow_nan=False) for event in events)
    return f'{json.dumps(head, allow_nan=False)[:-1]}, "traceEvents": [\n{lines}\n]}}\n'


def _write_rank(step: Step, rank: int, path: Path) -> None:
    text = trace_text(step, rank)
    atomic_write(path, gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text)


def _prepare_folder(path: Path, num_ranks: int) -> None:
    """Make the folder; refuse one in which ranks of a larger trace would remain, as readers take all files."""
    if path.suffix and not is_folder(path):
        raise DataError(
            f"{path}: a trace is a {' or '.join(SUFFIXES)} file, or a folder (a name without suffix)"
        )
    if kind_of(path) != "missing" and not is_folder(path):
        raise DataError(f"{path}: is a file; a trace is a {' or '.join(SUFFIXES)} file, or a folder")
    try:
        path.mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the folder {path.parent} does not exist; create it first") from error
    except OSError as error:
        raise DataError(f"{path}: can't be created: {error.strerror}") from error
    ours = {f"rank_{rank}.json" for rank in range(num_ranks)}
    others = sorted(file.name for file in path.glob("rank_*.json*") if file.name not in ours)
    if others:
        raise DataError(f"{path}: holds {others[0]} of another trace; remove it, or give an empty folder")


def _runs_by_rank(step: Step) -> Iterator[tuple[OpRun, ...]]:
    return (op_runs(step, rank) for rank in range(step.timeline.num_ranks))


def _order(event: Event) -> tuple[float, float]:
    """By time; what encloses before what it encloses."""
    return event["ts"], -event.get("dur", 0.0)


def _names(runs: Sequence[OpRun], rank: int) -> Iterator[Event]:
    """Names of processes and threads, in the order in which a viewer shows them."""
    host = HOST_PROCESS + rank
    yield from _process(rank, f"GPU {rank}", 1)
    yield from _process(host, f"host of GPU {rank}", 0)
    yield from _thread(host, 0, "launches", 0)
    micro_batches = sorted({run.launch.micro_batch for run in runs})
    for number in micro_batches:
        name = "layers" if len(micro_batches) == 1 else f"layers (micro-batch {number})"
        yield from _thread(rank, LAYER_THREAD + number, name, number)
    used = {run.launch.stream for run in runs}
    for stream, number in STREAM_NUMBERS.items():
        if stream in used:
            yield from _thread(rank, number, f"stream {number}: {STREAM_NAMES[stream]}", 10 + number)


def _process(pid: int, name: str, index: int) -> Iterator[Event]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": index}}


def _thread(pid: int, tid: int, name: str, index: int) -> Iterator[Event]:
    yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}
    yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": index}}


def _timed(runs: Sequence[OpRun], rank: int) -> Iterator[Event]:
    yield from _layers(runs, rank)
    yield from _flows(runs, rank)
    yield from _busy_streams(runs, rank)
    previous_start: dict[Stream, float] = {}
    launches = {_launched(run, run.launch.name): run for run in runs if run.on_host}
    for correlation, run in enumerate(runs, start=1):
        if run.on_host:
            continue
        yield _kernel(run, rank, correlation)
        launch = launches.pop(_launched(run, f"{LAUNCH}.{run.launch.name}"), None)
        if launch is None:
            launched_s = previous_start.get(run.launch.stream, 0.0)
            yield _launch(launched_s, HOST_PROCESS + rank, correlation)
        else:
            yield _launch(launch.start_s, HOST_PROCESS + rank, correlation) | _when(
                launch.start_s, launch.end_s
            )
        previous_start[run.launch.stream] = run.start_s
    for run in launches.values():  # what launched nothing that took time: preparing a step
        yield _interval(run, HOST_PROCESS + rank, 0, name=run.launch.name, cat="cpu_op")


def _launched(run: OpRun, launch: str) -> tuple[int, int, int, str]:
    """What tells a launch of one op from those of others."""
    return run.segment, run.iteration, run.launch.micro_batch, launch


def _kernel(run: OpRun, rank: int, correlation: int) -> Event:
    op, stream = run.launch, STREAM_NUMBERS[run.launch.stream]
    args: Event = {
        "device": rank,
        "stream": stream,
        "correlation": correlation,
        "op class": op.op_class,
        "layer": run.layer,
        "stage": op.stage,
        "micro_batch": op.micro_batch,
        "flops": _number(op.flops),
        "bytes": _number(op.hbm_bytes),
        "link_bytes": _number(op.link_bytes),
        "network_bytes": _number(op.network_bytes),
        "dtype": op.dtype,
        "bound": op.bound,
        "alone_us": _us(op.alone_s),
        "source": op.source,
    }
    kept = {key: value for key, value in args.items() if value is not None}
    return _interval(run, rank, stream, name=kernel_name(run), cat="kernel") | {"args": kept}


def kernel_name(run: OpRun) -> str:
    """``attention0.core [layer 3]``; communication as ``ncclDevKernel_dispatch [layer 3]``."""
    communicates = run.launch.stream in COMMUNICATION_STREAMS
    name = f"ncclDevKernel_{run.launch.name}" if communicates else run.launch.name
    return name if run.layer is None else f"{name} [layer {run.layer}]"


def _interval(run: OpRun, pid: int, tid: int, *, name: str, cat: str) -> Event:
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid} | _when(run.start_s, run.end_s)


def _when(start_s: float, end_s: float) -> dict[str, float]:
    """Start and duration; both ends are rounded, so that what touches still touches."""
    start, end = _us(start_s), _us(end_s)
    return {"ts": start, "dur": round(end - start, 3)}


def _launch(at_s: float, pid: int, correlation: int) -> Event:
    """The launch, at a whole microsecond: some readers round, and would give it a negative length otherwise."""
    return {
        "ph": "X",
        "cat": "cuda_runtime",
        "name": "cudaLaunchKernel",
        "pid": pid,
        "tid": 0,
        "ts": float(int(_us(at_s))),
        "dur": 0.0,
        "args": {"correlation": correlation},
    }


def _layers(runs: Iterable[OpRun], rank: int) -> Iterator[Event]:
    """One interval per layer and micro-batch, from its first op's start to its last op's end."""
    ends: dict[tuple[int, str], tuple[float, float]] = {}
    for run in runs:
        if run.layer is not None and not run.on_host:
            key = (run.launch.micro_batch, run.place)
            start, end = ends.get(key, (run.start_s, run.end_s))
            ends[key] = (min(start, run.start_s), max(end, run.end_s))
    for (micro_batch, place), (start_s, end_s) in ends.items():
        yield {
            "ph": "X",
            "cat": "gpu_user_annotation",
            "name": place,
            "pid": rank,
            "tid": LAYER_THREAD + micro_batch,
        } | _when(start_s, end_s)


def _flows(runs: Iterable[OpRun], rank: int) -> Iterator[Event]:
    """Arrows dispatch -> first expert op -> combine of each layer and micro-batch."""
    chains: dict[tuple[str, int], dict[str, OpRun]] = {}
    for run in runs:
        if run.launch.op_class in (OpClass.DISPATCH, OpClass.EXPERTS, OpClass.COMBINE):
            chain = chains.setdefault((run.place, run.launch.micro_batch), {})
            if run.launch.op_class not in chain and not run.launch.name.startswith("shared"):
                chain[run.launch.op_class] = run
    for number, chain in enumerate(chains.values()):
        steps = [
            chain[name] for name in (OpClass.DISPATCH, OpClass.EXPERTS, OpClass.COMBINE) if name in chain
        ]
        for hop, (source, target) in enumerate(pairwise(steps)):
            arrow = {"cat": "moe", "name": "moe", "id": 2 * number + hop, "pid": rank}
            yield {"ph": "s"} | arrow | _at(source)
            yield {"ph": "f", "bp": "e"} | arrow | _at(target)


def _at(run: OpRun) -> dict[str, float]:
    return {"tid": STREAM_NUMBERS[run.launch.stream], "ts": _us(run.start_s)}


def _busy_streams(runs: Iterable[OpRun], rank: int) -> Iterator[Event]:
    """A counter: how many compute and communication streams run something."""
    changes: dict[float, list[int]] = {}
    for run in runs:
        kinds = (int(run.is_compute), int(run.is_communication))
        for at_s, sign in ((run.start_s, 1), (run.end_s, -1)):
            delta = changes.setdefault(_us(at_s), [0, 0])
            delta[0] += sign * kinds[0]
            delta[1] += sign * kinds[1]
    busy = [0, 0]
    for ts in sorted(changes):
        if changes[ts] != [0, 0]:
            busy = [busy[0] + changes[ts][0], busy[1] + changes[ts][1]]
            args = {"compute": busy[0], "communication": busy[1]}
            yield {"ph": "C", "name": "busy streams", "pid": rank, "tid": 0, "ts": ts, "args": args}


def _us(seconds: float) -> float:
    """Microseconds, to the nanosecond."""
    return round(seconds / US, 3)


def _number(value: float) -> float:
    """A count without a fraction that nobody asked for."""
    return int(value) if float(value).is_integer() else value
