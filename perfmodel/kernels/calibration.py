"""A calibration: curves fitted on kernels that were timed on one device, and what they say of an op."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from perfmodel.kernels.communication import SAME_RAIL, held_sms
from perfmodel.kernels.curves import Curve, variables_of
from perfmodel.kernels.derivation import Derivation
from perfmodel.kernels.parts import RACKS, part_of
from perfmodel.kernels.tables import TableCurve
from perfmodel.kernels.timing import Timing, spread_key
from perfmodel.numeric import Num, maximum, minimum, where
from perfmodel.ops.op import Op
from perfmodel.spec.formats import STAND_IN_SPREAD, STAND_INS
from perfmodel.spec.hardware import Cluster, Gpu

AnyCurve: TypeAlias = Curve | TableCurve
Key: TypeAlias = tuple[str, str, str]
"""(kernel, number format, backend)."""
COLLECTIVES = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all", "send_recv")
"""Kernels of torch.distributed's own library: a curve that names no backend is its, whatever that is called."""
LAYOUTS = {
    "masked": ("masked", "wideep", "contiguous", "fused"),
    "contiguous": ("contiguous", "wideep", "masked", "fused"),
    "wideep": ("wideep", "fused", "masked"),
    "fused": ("fused", "wideep", "masked"),
    "cutlass": ("cutlass", "fused", "wideep"),
    "deepgemm": ("deepgemm", "fused", "wideep"),
}
"""Layout of the experts' tokens -> layouts whose kernels answer for it, nearest first."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Curves of one device, with their provenance."""

    id: str
    """First 12 hex digits of the SHA-256 of the content."""
    name: str
    """The folder's name."""
    made_on: Cluster
    """What was timed."""
    created: str
    """Date of the fit (ISO, UTC)."""
    perfmodel: str
    """Version that made it."""
    all_curves: tuple[AnyCurve, ...]
    """Of every engine."""
    curves: Mapping[Key, AnyCurve]
    """Those that answer for :attr:`engine`."""
    engine: str
    """Serving engine whose kernels are preferred; empty: the first that has the kernel."""
    compute_held: float
    """Share of the compute units that a transfer in flight takes from what runs beside it (measured contention)."""
    repeat_log_std: float
    """Noise that all ops of a run share: standard deviation of the log time of one thing from run to run."""
    launch_s: float
    """What lies between two kernels (the interpreter, views, a module's call), s. On a CPU, where the host is the
    device, it is added to every op. 0 elsewhere: a host runs ahead."""
    document: Mapping[str, Any]
    """Everything that the file holds."""
    timed_on: Cluster | None = None
    """What was timed, where that is another device than :attr:`made_on`: a derived calibration."""
    derivation: Derivation | None = None
    """How times of :attr:`timed_on` become those of :attr:`made_on`."""
    parts: "Mapping[str, Callable[[str], Calibration]]" = field(default_factory=dict, compare=False)
    """Part (:mod:`perfmodel.kernels.parts`) -> what reads it for an engine, called when one of its classes is asked
    for."""

    @property
    def gpu(self) -> str:
        """Name of the device, a catalogue GPU where it is one."""
        return self.made_on.gpu.name

    @property
    def contention_measured(self) -> bool:
        """Whether :attr:`compute_held` was timed on the device."""
        return bool(self.document["contention"].get("measured"))

    def for_engine(self, engine: str) -> "Calibration":
        """The same calibration, answering with ``engine``'s kernels where it has them."""
        return replace(self, engine=engine, curves=of_engine(self.all_curves, engine))

    def curve(self, op: Op) -> AnyCurve | None:
        """The curve that costs ``op``, or None where this calibration has none."""
        whole = self._module(op)
        if whole is not None:
            return whole
        for backend in LAYOUTS.get(op.backend, (op.backend,)):
            for dtype in (op.curve_dtype, "any", *STAND_INS.get(op.curve_dtype, ())):
                for place in dict.fromkeys((backend, "")):
                    found = self._found((op.kernel, dtype, place))
                    if found is not None and (place or not op.backend or not op.is_communication):
                        return found
        return None

    def _found(self, key: Key) -> AnyCurve | None:
        """The curve of a key: of this file, else of the part that may hold it."""
        own = self.curves.get(key)
        if own is not None:
            return own
        part = self.part(part_of(*key[:2]))
        return part.curves.get(key) if part else None

    def part(self, name: str) -> "Calibration | None":
        """One part of this calibration, for the same engine; None where it has none of that name."""
        read = self.parts.get(name)
        return read(self.engine) if read else None

    def whole(self) -> "tuple[AnyCurve, ...]":
        """The curves of every engine, those of parts as well: reads them all."""
        parts = (self.part(name) for name in self.parts)
        return (*self.all_curves, *(curve for part in parts if part for curve in part.all_curves))

    def find(self, kernel: str, dtype: str) -> AnyCurve | None:
        """The curve of a class that names no backend (of a collective: of torch.distributed's own library)."""
        return self.curves.get((kernel, dtype, "nccl" if kernel in COLLECTIVES else ""))

    def cost(self, op: Op, cluster: Cluster) -> Timing | None:
        """Time of ``op`` alone on this device; None where no curve covers its kernel and number format."""
        holder = self._holder(op)
        if holder:
            return Timing(source=f"{INSIDE}: measured as part of {holder}", calibrated=True)
        curve = self.curve(op)
        if curve is None:
            return self._sparse_core(op, cluster) if op.kernel == SPARSE_CORE else None
        variables = variables_of(op)
        if op.is_communication:
            variables["bytes"] = op.shape["bytes"]  # on the wire, not in memory
        if not curve.covers(variables):
            return self._in_rack(op, variables, cluster)
        timing = self._transfer if op.is_communication else self._kernel
        found = timing(op, curve, variables, cluster)
        if curve.dtype in STAND_INS.get(op.curve_dtype, ()):
            said = f"calibration {self.name}: derived: no table has {op.curve_dtype}, times of {curve.dtype} stand in"
            flag = "; ".join(filter(None, (said, found.flag)))
            found = replace(found, flag=flag, log_std=math.hypot(found.log_std, STAND_IN_SPREAD))
        return self.derivation.of(found, self.name) if self.derivation else found

    def _in_rack(self, op: Op, variables: dict[str, Num], cluster: Cluster) -> Timing | None:
        """A collective over more GPUs of a link domain than a node has; None where it was not timed: another engine's
        may know nothing of the rack.
        """
        part = self.part(RACKS) if op.kernel in COLLECTIVES and not np.any(op.network_bytes) else None
        curve = part.curves.get((op.kernel, "any", op.backend)) if part else None
        if (
            part is None
            or curve is None
            or curve.engine not in ("", self.engine)
            or not curve.covers(variables)
        ):
            return None
        return part._transfer(op, curve, variables, cluster)

    def _sparse_core(self, op: Op, cluster: Cluster) -> Timing | None:
        """A decoding core over selected tokens, which no table has alone: the dense BF16 core over as many, each query
        with its own (:data:`SPARSE_SPREAD`).
        """
        shape = {
            **op.shape,
            "requests": op.shape["requests"] * op.shape["new_tokens"],
            "new_tokens": 1.0,
            "context": op.shape["selected"],
        }
        found = self.cost(
            replace(op, kernel="mla_decode", cache_dtype="bf16", inside=(), shape=shape), cluster
        )
        if found is None:
            return None
        said = f"calibration {self.name}: derived: the dense core's time over as many tokens as are selected"
        return replace(
            found,
            flag="; ".join(filter(None, (said, found.flag))),
            log_std=math.hypot(found.log_std, SPARSE_SPREAD),
            spread_key=spread_key(op, "selected"),
        )

    def _holder(self, op: Op) -> str:
        """Kernel class whose measured span holds this op; empty: none."""
        for kernel, dtype, backend in op.inside:
            asked = Op(kernel, op.op_class, kernel, op.stream, dtype=dtype, backend=backend)
            curve = self._found((kernel, dtype, backend)) if kernel in MODULES else self.curve(asked)
            if curve is not None and op.kernel in curve.includes and self._answers(curve):
                return kernel
        return ""

    def _module(self, op: Op) -> AnyCurve | None:
        """The engine's measured attention module, which stands at the core for all of an attention's kernels."""
        for key in op.inside:
            if key[0] in MODULES and op.kernel == MODULES[key[0]]:
                curve = self._found(key)
                if curve and self._answers(curve):
                    return curve
        return None

    def _answers(self, curve: AnyCurve) -> bool:
        """Whether a curve may stand for other kernels: a module counts for its own engine alone."""
        return curve.kernel not in MODULES or (bool(self.engine) and curve.engine == self.engine)

    def _kernel(self, op: Op, curve: AnyCurve, variables: dict[str, Num], cluster: Cluster) -> Timing:
        nothing = op.hbm_bytes == 0.0
        seconds = where(nothing, 0.0, curve.seconds(variables))
        latency = minimum(where(nothing, 0.0, curve.fixed_s), seconds)
        if curve.includes:  # the op is a part of what was measured
            seconds, latency = (value * op.shape.get("share", 1.0) for value in (seconds, latency))
        made, dtype = self._scaled_from(cluster), op.dtype if op.dtype != "any" else "bf16"
        ideal_compute = op.flops / made.gpu.peak_flops(dtype)
        ideal_memory = op.hbm_bytes / made.gpu.hbm_bytes_per_s
        if isinstance(
            curve, TableCurve
        ):  # a slope read off the last points is never flatter than the peaks allow
            least = maximum(ideal_compute, ideal_memory)
            seconds = maximum(seconds, where(curve.beyond(variables), least, 0.0))
        rest = seconds - latency
        latency = latency + where(nothing, 0.0, self.launch_s)
        # A core runs one op at a time: there the core is what an op holds, whatever it waits for.
        by_compute = _computes(ideal_compute, ideal_memory, made.gpu)
        faster = made.gpu.peak_flops(dtype) / cluster.gpu.peak_flops(dtype)
        wider = made.gpu.hbm_bytes_per_s / cluster.gpu.hbm_bytes_per_s
        return Timing(
            latency_s=latency,
            compute_s=where(by_compute, rest, minimum(ideal_compute, rest)) * faster,
            memory_s=where(by_compute, minimum(ideal_memory, rest), rest) * wider,
            log_std=curve.log_std,
            source=self._source(curve),
            flag=self._flag(curve, variables),
            spread_key=spread_key(op, curve.dtype, curve.backend),
            calibrated=True,
        )

    def _transfer(self, op: Op, curve: AnyCurve, variables: dict[str, Num], cluster: Cluster) -> Timing:
        """A collective's time goes to whichever wire it uses; flagged where another one was timed.

        On a wire that is r times as fast as the one that was timed, bytes take what 1/r of them took.
        """
        made, same_rail = self._scaled_from(cluster), op.backend in SAME_RAIL
        link = made.link_bytes_per_s / cluster.link_bytes_per_s
        network = made.network_bytes_per_s(same_rail=same_rail) / cluster.network_bytes_per_s(
            same_rail=same_rail
        )
        variables |= {
            "link_bytes": variables["link_bytes"] * link,
            "network_bytes": variables["network_bytes"] * network,
            "bytes": variables["bytes"] * where(op.network_bytes > 0.0, network, link),
        }
        nothing = variables["bytes"] == 0.0
        seconds = where(nothing, 0.0, curve.seconds(variables))
        latency = minimum(where(nothing, 0.0, curve.fixed_s), seconds)
        rest = seconds - latency
        crosses = op.network_bytes > 0.0
        return Timing(
            latency_s=latency,
            memory_s=minimum(op.hbm_bytes / cluster.gpu.hbm_bytes_per_s, rest),
            link_s=where(crosses, 0.0, rest),
            network_s=where(crosses, rest, 0.0),
            held_sms=self.compute_held or held_sms(op, cluster),
            log_std=curve.log_std,
            source=self._source(curve),
            flag="; ".join(filter(None, (self._flag(curve, variables), self._other_wire(op, curve)))),
            spread_key=spread_key(op, curve.dtype, curve.backend),
            calibrated=True,
        )

    def _scaled_from(self, cluster: Cluster) -> Cluster:
        """What was timed, where ``cluster`` is that with some figures changed (a what-if, for which times are scaled)
        or the device that a derived calibration is of. Else ``cluster`` itself: on another device times are taken as
        they are.
        """
        return (self.timed_on or self.made_on) if self.gpu == cluster.gpu.name else cluster

    def _source(self, curve: AnyCurve) -> str:
        part = (
            None
            if (curve.kernel, curve.dtype, curve.backend) in self.curves
            else part_of(curve.kernel, curve.dtype)
        )
        held = self.part(part) if part else None
        own = f"fitted: calibration {held.name if held else self.name} ({held.id if held else self.id})"
        return f"{own}: {curve.source}" if curve.source else own

    @property
    def times_training(self) -> bool:
        """Whether it timed kernels of training, each way by itself."""
        return bool(self.document.get("requested", {}).get("training"))

    def times_wire_of(self, op: Op) -> bool:
        """Whether the wire that a collective uses is the one that its curve was timed on."""
        curve = self.curve(op)
        return curve is None or not self._other_wire(op, curve)

    def _other_wire(self, op: Op, curve: AnyCurve) -> str:
        """Says so where a transfer uses another wire than the one that was timed."""
        timed = str(self.document.get("wire", "link"))
        used = "network" if np.any(np.asarray(op.network_bytes) > 0.0) else "link"
        both = isinstance(curve, Curve) and any("network_bytes" in text for text, _ in curve.terms)
        if used == timed or both:
            return ""
        return f"calibration {self.name}: {op.kernel} was timed over the {timed}, not the {used}"

    def _flag(self, curve: AnyCurve, variables: Mapping[str, Num]) -> str:
        outside = curve.outside(variables)
        name = " ".join(filter(None, (curve.kernel, curve.dtype, curve.backend)))
        flags = [f"calibration {self.name}: {name}: {text}" for text in (curve.flag, outside) if text]
        return "; ".join(flags)


MODULES = {
    "mla_module_decode": "mla_decode",
    **{
        f"{family}_{part}_{phase}": f"mla_sparse_{phase}"
        for family in ("dsa", "dsa_glm")
        for part in ("module", "skip_module")
        for phase in ("decode", "prefill")
    },
    **{
        f"{kind}_{size}_module_decode": f"{kind}_decode"
        for kind in ("csa", "hca")
        for size in ("flash", "pro")
    },
    "msa_module_decode": "msa_decode",
    "msa_module_prefill": "msa_prefill",
}
"""Measured whole attentions -> the core at which their time is put."""
SPARSE_CORE = "mla_sparse_decode"
SPARSE_SPREAD = 0.25
"""Of a dense core that stands for one over selected tokens. Against modules without index branch less their products
(H200, 64 heads, 1 to 512 requests): 0.8 to 1.1 of SGLang's, 1.3 of vLLM's with an FP8 cache, up to 3.5 of vLLM's with a
BF16 cache and few requests (docs/gpus.md)."""
INSIDE = "inside"
"""Source of an op whose time is in another op's."""


def of_engine(curves: Sequence[AnyCurve], engine: str) -> dict[Key, AnyCurve]:
    """One curve per key: ``engine``'s, else one of no engine, else the first there is."""
    chosen: dict[Key, AnyCurve] = {}
    for curve in sorted(curves, key=lambda curve: (curve.engine != engine, bool(curve.engine))):
        backend = curve.backend or ("nccl" if curve.kernel in COLLECTIVES else "")
        chosen.setdefault((curve.kernel, curve.dtype, backend), curve)
    return chosen


def _computes(compute_s: Num, memory_s: Num, gpu: Gpu) -> Any:
    return True if gpu.architecture == "cpu" else compute_s >= memory_s


def mismatches(calibration: Calibration, cluster: Cluster, version: str) -> Sequence[str]:
    """Why this calibration may not fit what it is used for, in words."""
    texts = []
    if calibration.gpu != cluster.gpu.name:
        texts.append(
            f"calibration {calibration.name} was made on {calibration.gpu}, used for {cluster.gpu.name}: its times are "
            "taken as they are"
        )
    changed = _changed_hardware(calibration.made_on, cluster) if calibration.gpu == cluster.gpu.name else []
    if changed:
        texts.append(
            f"calibration {calibration.name} was made with another {', '.join(changed)}: measured times are scaled by "
            "what bounds each kernel"
        )
    if calibration.perfmodel != version:
        texts.append(
            f"calibration {calibration.name} was made by perfmodel {calibration.perfmodel}, this is {version}"
        )
    return texts


def _changed_hardware(made: Cluster, cluster: Cluster) -> list[str]:
    """Figures of the cluster that differ from those that the calibration was made with."""
    pairs = {
        "gpu": (made.gpu, cluster.gpu),
        "node": (made.node, cluster.node),
        "network": (made.network, cluster.network),
    }
    return [
        f"cluster.{section}.{key}"
        for section, (before, after) in pairs.items()
        for key, value in before.model_dump().items()
        if key in HARDWARE and np.any(np.asarray(getattr(after, key)) != value)
    ]


HARDWARE = (
    "hbm_gb_per_s",
    "bf16_tflops",
    "fp8_tflops",
    "fp4_tflops",
    "link_gb_per_s",
    "gb_per_s_per_gpu",
)
"""Figures that a measured time already contains."""
