"""Where timings were taken: the device, the versions, and what else the machine was doing."""

import ctypes
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from perfmodel.units import GB, TERA

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
SIZE_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1
"""Parameters of mallopt(3): how many blocks may be mapped one by one, and when the heap's top is given back."""
DEFAULT_CACHE_BYTES = 32 * 2**20


@cache
def cache_bytes() -> dict[str, int]:
    """Data caches of the first CPU as the kernel lists them: {"L1": bytes, ...}; empty where it lists none."""
    sizes = {}
    for index in sorted(CACHES.glob("index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        if kind in ("Data", "Unified") and size:
            sizes[f"L{level}"] = int(size[:-1]) * SIZE_UNITS[size[-1]]
    return sizes


def last_level_cache_bytes() -> int:
    """The largest cache's size, bytes; 32 MiB where the kernel doesn't say."""
    return max(cache_bytes().values(), default=DEFAULT_CACHE_BYTES)


def own_cache_bytes() -> int:
    """The second level's size, which a core has to itself, bytes; the last level's where the kernel lists no second."""
    return cache_bytes().get("L2", last_level_cache_bytes())


def memory_bytes() -> int:
    """Main memory, bytes."""
    return _meminfo("MemTotal")


def available_memory_bytes() -> int:
    """Main memory that can be allocated without swapping, bytes."""
    return _meminfo("MemAvailable")


def keep_freed_memory() -> None:
    """Make the C library keep what this process frees, as torch's CUDA allocator does; for the whole process, for good.

    By default it gives large blocks back to the kernel and gets them again as pages that fault one by one: outputs of
    some MiB then cost up to four times their kernel, or not, as the heap happens to lie. Whatever is compared with
    timings taken so must run so.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, -1)


def _meminfo(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    assert found, f"/proc/meminfo has no {name}"
    return int(found[1]) * 1024


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def describe(device: str, threads: int) -> dict[str, Any]:
    """Everything about the machine that a timing depends on, as JSON.

    ``device_name`` is what a calibration belongs to; ``date`` is UTC. Missing facts are left out.
    """
    import torch

    facts: dict[str, Any] = {
        "device": device,
        "device_name": _cpu_name() if device == "cpu" else str(torch.cuda.get_device_name()),
        "threads": threads,
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "cache_bytes": cache_bytes(),
        "memory_bytes": memory_bytes(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "os": platform.platform(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return facts | (_describe_gpu() if device == "cuda" else {})


def _describe_gpu() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "memory_bytes": int(properties.total_memory),
        "num_sms": int(properties.multi_processor_count),
        "l2_bytes": int(properties.L2_cache_size),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "gpus": torch.cuda.device_count(),
    } | _nvidia_smi()


def _nvidia_smi() -> dict[str, str]:
    """Driver and clocks as nvidia-smi states them; nothing where it is not installed or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    fields = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return {}
    values = done.stdout.strip().split(", ")
    return dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}


def _cpu_name() -> str:
    """The CPU's own name; virtual machines give a bare "AMD EPYC", so family and model follow."""
    text = Path("/proc/cpuinfo").read_text()
    found: dict[str, str] = dict(
        re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", text, re.MULTILINE)
    )
    name = found.get("model name", platform.processor() or platform.machine())
    if "model" not in found:
        return name
    return f"{name} (family {found.get('cpu family', '?')}, model {found['model']})"


class ForeignLoad:
    """Share of the machine's CPU time that other processes took while the block ran.

    The kernel counts busy time in ticks of 10 ms, so a short block is known coarsely: with two cores and 0.2 s, to
    about 0.03.
    """

    def __enter__(self) -> "ForeignLoad":
        self._start = _clocks()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release."""

    @property
    def share(self) -> float:
        """From 0 to 1, since the block was entered."""
        elapsed, busy, own = (now - then for now, then in zip(_clocks(), self._start, strict=True))
        if elapsed <= 0:
            return 0.0
        return min(1.0, max(0.0, (busy - own) / (elapsed * (os.cpu_count() or 1))))


def _clocks() -> tuple[float, float, float]:
    """Seconds: monotonic time, busy time of all CPUs, CPU time of this process and its descendants."""
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, soft_irq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    ended = os.times()  # of children that were waited for
    own = time.process_time() + ended.children_user + ended.children_system
    own += sum(_cpu_ticks(child) for child in _descendants(os.getpid())) / ticks
    return time.monotonic(), (user + nice + system + irq + soft_irq) / ticks, own


def _descendants(process: int) -> list[int]:
    """Ids of the running children of a process, their children and so on."""
    found: list[int] = []
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, _read(tasks).split()):
            found += [child, *_descendants(child)]
    return found


def _cpu_ticks(process: int) -> int:
    """User and system time of a process, ticks; 0 if it has ended."""
    fields = _read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) if fields else 0


CATALOGUE_NAMES = {
    "NVIDIA A100-SXM4-80GB": "a100-sxm",
    "NVIDIA A800-SXM4-80GB": "a800-sxm",
    "NVIDIA L40S": "l40s",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H800": "h800-sxm",
    "NVIDIA H200": "h200-sxm",
    "NVIDIA H20": "h20-sxm",
    "NVIDIA H20-3e": "h20-141g-sxm",
    "NVIDIA B200": "b200-sxm",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx-pro-6000",
}
"""What CUDA calls the GPUs of the catalogue."""
ARCHITECTURES = {"8": "ampere", "9": "hopper", "10": "blackwell"}
"""By the major number of the compute capability."""


def gpu_spec(
    environment: Mapping[str, Any], peak_flops: Mapping[str, float], copy_bytes_per_s: float
) -> dict[str, Any]:
    """Fields of perfmodel.spec.hardware.Gpu for the device of a calibration.

    A GPU of the catalogue keeps its datasheet's peaks. Any other device gets what it reached here: ``peak_flops``,
    by dtype, of the fastest timed GEMM, FLOP/s, and the bandwidth of the fastest timed copy, bytes/s.
    """
    from perfmodel.spec import catalogue

    name = environment["device_name"]
    if name in CATALOGUE_NAMES:
        return {"name": CATALOGUE_NAMES[name], **catalogue.entry("gpus", CATALOGUE_NAMES[name])}
    on_cpu = environment["device"] == "cpu"
    major = str(environment.get("compute_capability", "")).split(".")[0]
    return {
        "name": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
        "architecture": "cpu" if on_cpu else ARCHITECTURES.get(major, "cuda"),
        "memory_bytes": environment["memory_bytes"],
        "hbm_gb_per_s": copy_bytes_per_s / GB,
        **{f"{dtype}_tflops": flops / TERA for dtype, flops in peak_flops.items()},
        "num_sms": environment["threads"] if on_cpu else environment["num_sms"],
        "source": "calibrate profile: the fastest timed GEMM of each dtype, and the fastest timed copy",
        "date": environment["date"][:10],
    }
