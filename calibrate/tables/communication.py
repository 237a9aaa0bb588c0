"""Fits the fixed cost and link fractions of each communication library (samples: collective_samples.py).

Fitted: alpha + max(link bytes / (f_l x link), network bytes / (f_n x network)), where alpha is larger for
groups that leave a link domain.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from calibrate.tables.amd import ACROSS_LOG_STD
from calibrate.tables.collective_samples import (
    BLOG18,
    DEEPEP_NORMAL_SMS,
    HYBRID_EP,
    HYBRID_EP_LEAST,
    HYBRID_EP_SMS,
    LEGACY,
    NCCL_OPS,
    CollectiveSample,
    all_reduce_samples,
    hybrid_samples,
    low_latency_samples,
    nccl_samples,
    normal_samples,
    one_sided_samples,
)
from calibrate.tables.log_fit import Array, fit_log, root_mean_square
from calibrate.tables.measured import AICONFIGURATOR
from perfmodel.kernels.communication import OF_ALL_REDUCE, Collective
from perfmodel.units import US

HYBRID_EP_LOG_STD = 0.1
NCCL_SMS = 16
"""Ring all-gather and reduce-scatter take 16 or more SMs [NVIDIA developer blog, "Enabling Fast Inference and
Resilient Training with NCCL 2.27"]; a DGX with 8 NICs uses 16 [github.com/NVIDIA/nccl/issues/689]."""
NVLS_SMS = 4
"""Thread blocks of LongCat-Flash's NVLS kernels (report, arXiv 2509.01322)."""
ALPHA_BOUNDS_US = (0.5, 500.0)
STARTS = ((10.0, 20.0, 0.5, 0.8), (20.0, 40.0, 0.7, 0.9), (5.0, 5.0, 0.3, 0.5))
WIRE_SHARE = 0.907
"""Of a network's bandwidth: DeepEP low-latency's dispatch over 2 to 32 nodes of H800 and H100."""
TESTED_GPUS = ("h100-sxm", "h20-sxm", "mi300x", "mi355x")
RCCL = "https://github.com/hisohara/ai-scripts/blob/3ae89cf/training/01_rccl-smoketest/README.md"
RANK_POWER = 0.81
"""NCCL's all-reduce of 8 KB takes 16.3, 28.7 and 50.4 us on 4, 8 and 16 GPUs of a GB200 rack (PyPI packages
aiconfigurator-core 0.12.0 and aisimulate 0.13.0.dev202610270000000085, NCCL 2.27.7, gb200): log2 of each doubling is
0.81; from 2 to 8 on H100 it is 0.62. The only public timings of NCCL's all-reduce over more than 8 GPUs."""
BEYOND_LOG_STD = 0.8
"""ln(50.4 / 22.6): those 50.4 us, in one rack and launched eagerly, over one exchange through InfiniBand (DeepEP's
22.6 us). The fixed cost over two nodes is somewhere about both; nobody has published one."""


def predicted_seconds(samples: Sequence[CollectiveSample], parameters: Array) -> Array:
    """The cost model over samples; alpha and network alpha in us, link and network fraction."""
    alpha, network_alpha, link, network = (float(value) for value in parameters)
    link_s = np.array([s.traffic.link_bytes / s.cluster.link_bytes_per_s for s in samples])
    network_s = np.array([s.traffic.network_bytes / s.cluster.network_bytes_per_s() for s in samples])
    fixed = np.where(network_s > 0, max(alpha, network_alpha), alpha) * US
    return np.asarray(fixed + np.maximum(link_s / link, network_s / network), dtype=np.float64)


def fit(samples: Sequence[CollectiveSample]) -> tuple[Array, Array]:
    """Fitted parameters and log residuals."""
    seconds = np.array([sample.seconds for sample in samples])
    bounds = (ALPHA_BOUNDS_US, ALPHA_BOUNDS_US, (0.02, 1.0), (0.02, 1.0))
    best, residuals = fit_log(lambda p: predicted_seconds(samples, p), seconds, STARTS, bounds)
    best[1] = max(best[0], best[1])
    return best, residuals


@cache
def fixed_costs_us() -> Mapping[str, float]:
    """Fixed cost of an all-reduce over two or three nodes, us, of each cluster that was tested
    (``measured_all_reduce.csv``).

    Fitted with one share of the links for all, and of the networks that of DeepEP's tests, which the largest
    message of all agrees with (8.6 GB over 2 nodes of A3 Mega: 0.90; smaller ones can't tell).
    """
    samples = [
        one
        for gpu in TESTED_GPUS
        for one in all_reduce_samples(gpu)
        if one.ranks > one.cluster.node.link_domain_gpus
    ]
    names = [" ".join(one.label.split()[:2]) for one in samples]
    clusters = list(dict.fromkeys(names))
    place = np.array([clusters.index(name) for name in names])
    link_s = np.array([one.traffic.link_bytes / one.cluster.link_bytes_per_s for one in samples])
    network_s = np.array([one.traffic.network_bytes / one.cluster.network_bytes_per_s() for one in samples])

    def predict(parameters: Array) -> Array:
        longest = np.maximum(link_s / parameters[-1], network_s / WIRE_SHARE)
        return np.asarray(parameters[place] * US + longest, dtype=np.float64)

    starts = [(start,) * len(clusters) + (0.7,) for start in (50.0, 150.0)]
    bounds = [*[ALPHA_BOUNDS_US] * len(clusters), (0.02, 1.0)]
    best, _ = fit_log(predict, np.array([one.seconds for one in samples]), starts, bounds)
    return dict(zip(clusters, (float(value) for value in best), strict=False))


def _over_nodes(rows: list[Collective], exchange: Collective) -> list[Collective]:
    """NCCL's collectives with what they cost over several nodes: a reduce-scatter within each, one exchange between
    equal GPUs (DeepEP low-latency's, the only one that was timed by itself), an all-gather within each.

    Tests of whole all-reduces on six clusters take 1.4 to 6.5 times that: how good a network, its transport and its
    settings are is what they differ by, and a scenario doesn't say. So the sum stays, and the spread is how far
    they are off it.
    """
    inside = {row.kernel: row.alpha_us for row in rows}
    parts = {"all_gather": inside["all_gather"], "reduce_scatter": inside["reduce_scatter"]}
    parts["all_reduce"] = parts["all_gather"] + parts["reduce_scatter"]
    tests = fixed_costs_us().values()
    found = []
    for row in rows:
        if row.kernel not in parts:
            found.append(row)
            continue
        alpha = max(row.alpha_us, parts[row.kernel] + exchange.network_alpha_us)
        whole = parts["all_reduce"] + exchange.network_alpha_us
        flag = (
            f"{row.backend} {row.kernel} on {row.architecture}: between link domains a sum: "
            f"{parts[row.kernel]:.0f} us within, {exchange.network_alpha_us:.0f} us across; all-reduces over 2 and "
            f"3 nodes of {len(tests)} clusters took {min(tests):.0f} to {max(tests):.0f} us, not {whole:.0f}"
        )
        off = math.sqrt(sum(math.log(taken / whole) ** 2 for taken in tests) / len(tests))
        found.append(
            replace(
                row,
                network_alpha_us=alpha,
                network_fraction=exchange.network_fraction,
                network_log_std=off,
                network_flag=flag,
            )
        )
    return found


def fitted_rows() -> list[Collective]:
    """Every row of communication.csv, in order."""
    hopper = _hopper_rows()
    by_key = {(row.backend, row.kernel): row for row in hopper}
    blackwell = _blackwell_rows(by_key)
    ampere = [
        _derived(row, "ampere", row.backend, row.kernel, "no timings on Ampere: Hopper's figures")
        for row in hopper
    ]
    return [*hopper, *blackwell, *ampere, *_amd_rows("cdna3", hopper), *_amd_rows("cdna4", hopper)]


def _amd_rows(architecture: str, hopper: list[Collective]) -> list[Collective]:
    """RCCL's all-reduce on MI300X (xGMI, every pair of eight joined), its other collectives by its bytes; all else
    as Hopper.

    MI355X's tests are of two nodes alone, so within a node MI300X's shares answer there, too.
    """
    timed = [one for one in all_reduce_samples("mi300x") if one.ranks <= one.cluster.node.link_domain_gpus]
    reduced = _fitted(timed, RCCL, "RCCL on 8 MI300X (448 GB/s in all to the seven others)", NCCL_SMS)
    if architecture == "cdna4":
        reduced = _derived(
            reduced, architecture, "nccl", "all_reduce", "no timings within a node: MI300X's figures"
        )
        two_nodes, _ = fit(all_reduce_samples("mi355x"))
        apart = math.log(
            reduced.link_fraction / float(two_nodes[2])
        )  # what its own tests over two nodes reach
        reduced = replace(reduced, log_std=math.hypot(reduced.log_std, apart))
    exchange = next(row for row in hopper if (row.backend, row.kernel) == ("deepep-low-latency", "dispatch"))
    rows = [_borrow_network(reduced, exchange, reduced.flag)]
    for kernel in ("all_gather", "reduce_scatter", "all_to_all"):
        share = OF_ALL_REDUCE.get(kernel, 1.0)
        why = f"no timings: the all-reduce's share of the links, {share:g} of its fixed cost"
        row = replace(
            _derived(reduced, architecture, "nccl", kernel, why),
            alpha_us=share * reduced.alpha_us,
            log_std=math.hypot(reduced.log_std, ACROSS_LOG_STD),
            rank_power=0.0,
            beyond_log_std=0.0,
        )
        rows.append(_borrow_network(row, exchange, row.flag))
    rows = _over_nodes(rows, exchange)
    rows += _after_nccl(rows, architecture)
    for row in hopper:
        if row.backend not in ("nccl", "nvls"):
            why = f"no timings on {architecture}: Hopper's shares of the links"
            found = _derived(row, architecture, row.backend, row.kernel, why)
            rows.append(replace(found, log_std=math.hypot(row.log_std, ACROSS_LOG_STD)))
    return rows


def _hopper_rows() -> list[Collective]:
    low_latency = "DeepSeek's H800 rows EP8 to EP256 (128 tokens), sglang's H100 EP8 to EP64 and H200 EP8"
    normal = "DeepSeek's H800 rows EP8 to EP64 (4096 tokens, top-4 groups), sglang's H100 EP8 to EP32; "
    normal += "EP64 on H100 is untuned and left out"
    rows = [
        _fitted(
            samples=[s for s in low_latency_samples() if _is(s, "hopper", kernel)],
            source=f"{LEGACY}; {AICONFIGURATOR}",
            note=low_latency + "; no SM is held between issue and receive hook",
            sms=0,
        )
        for kernel in ("dispatch", "combine")
    ]
    rows += [
        _fitted(
            samples=[s for s in normal_samples() if _is(s, "hopper", kernel)],
            source=f"{LEGACY}; {AICONFIGURATOR}",
            note=normal,
            sms=DEEPEP_NORMAL_SMS,
        )
        for kernel in ("dispatch", "combine")
    ]
    rows += [
        _hybrid("hopper", kernel, "H100, EP16 to EP64 over InfiniBand") for kernel in ("dispatch", "combine")
    ]
    network = rows[0]
    nccl = [
        _borrow_network(
            _fitted(
                samples=[s for s in nccl_samples() if _is(s, "hopper", kernel)],
                source=AICONFIGURATOR,
                note="NCCL 2.29.2 on 8 H100 (450 GB/s link): the fraction is taken over to H800's 200 GB/s",
                sms=NCCL_SMS,
            ),
            network,
        )
        for kernel in NCCL_OPS.values()
    ]
    nccl = _over_nodes(nccl, network)
    return rows + nccl + _after_nccl(nccl, "hopper")


def _blackwell_rows(hopper: dict[tuple[str, str], Collective]) -> list[Collective]:
    rows = []
    for kernel in ("dispatch", "combine"):
        row = _fitted(
            samples=[s for s in low_latency_samples() if _is(s, "blackwell", kernel)],
            source=AICONFIGURATOR,
            note="sglang's rows inside one node: B200 EP8 and GB200 EP4, hidden 6144",
            sms=0,
        )
        rows.append(_borrow_network(row, hopper["deepep-low-latency", kernel]))
    rows += [_blackwell_normal(kernel, hopper["deepep-normal", kernel]) for kernel in ("dispatch", "combine")]
    nccl = [
        _borrow_network(
            _fitted(
                samples=[s for s in nccl_samples() if _is(s, "blackwell", kernel)],
                source=AICONFIGURATOR,
                note="NCCL 2.29.2 on 8 B200 and on 4 GB200 of one tray",
                sms=NCCL_SMS,
            ),
            hopper["deepep-low-latency", "dispatch"],
        )
        for kernel in NCCL_OPS.values()
    ]
    nccl = _over_nodes(nccl, hopper["deepep-low-latency", "dispatch"])
    one_sided = [
        _borrow_network(
            _fitted(
                samples=[s for s in one_sided_samples() if _is(s, "blackwell", kernel)],
                source=BLOG18,
                note="GB200 NVL72, EP8 to EP64; one copy per distinct rank; never leaves the rack",
                sms=0,
            ),
            hopper["deepep-low-latency", kernel],
            flag="SMs held are not published; taken as none",
        )
        for kernel in ("dispatch", "combine")
    ]
    hybrid = [
        _borrow_network(_hybrid("blackwell", kernel, "GB200 NVL72, EP8 to EP36"), hopper["hybrid-ep", kernel])
        for kernel in ("dispatch", "combine")
    ]
    return rows + nccl + _after_nccl(nccl, "blackwell") + one_sided + hybrid


def _hybrid(architecture: str, kernel: str, where: str) -> Collective:
    """A handful of rows of one message size; they cannot show their spread, so it is at least HYBRID_EP_LOG_STD."""
    row = _fitted(
        samples=[s for s in hybrid_samples() if _is(s, architecture, kernel)],
        source=HYBRID_EP,
        note=f"{where}, 4096 tokens of 7168, {HYBRID_EP_LEAST} SMs and more, kernels alone",
        sms=HYBRID_EP_SMS,
    )
    return replace(row, log_std=max(row.log_std, HYBRID_EP_LOG_STD))


def _blackwell_normal(kernel: str, hopper: Collective) -> Collective:
    """DeepEP normal on B200: one message size, so only the link fraction is fitted."""
    samples = [s for s in normal_samples() if _is(s, "blackwell", kernel)]
    seconds = np.array([s.seconds for s in samples])

    def predict(parameters: Array) -> Array:
        return predicted_seconds(samples, np.array([hopper.alpha_us, hopper.alpha_us, parameters[0], 1.0]))

    best, residuals = fit_log(predict, seconds, ((0.5,),), ((0.02, 1.0),))
    return replace(
        hopper,
        architecture="blackwell",
        link_fraction=float(best[0]),
        log_std=max(hopper.log_std, root_mean_square(residuals)),  # one or two rows can't show their spread
        num_rows=len(samples),
        max_ranks_measured=max(s.ranks for s in samples),
        source="fitted: HybridEP's README (deepseek-ai/DeepEP, branch hybrid-ep)",
        note="B200 EP8, 4096 tokens, 24 SMs, timed through PyTorch; alpha and the least spread are Hopper's",
        flag=f"deepep-normal {kernel} on blackwell: one message size and EP8 only",
        network_flag=f"deepep-normal {kernel} on blackwell: no multi-node rows, Hopper's network figures",
    )


def _after_nccl(nccl: list[Collective], architecture: str) -> list[Collective]:
    """What has no timings of its own: NVLS kernels, and point-to-point."""
    by_kernel = {row.kernel: row for row in nccl}
    why = "LongCat's NVLS kernels have no public timings: NCCL's figures with 4 SMs"
    rows = [
        replace(_derived(by_kernel[k], architecture, "nvls", k, why), sms_held=NVLS_SMS)
        for k in ("all_gather", "reduce_scatter", "all_reduce")
    ]
    why = "no timings of point-to-point: NCCL's all-to-all"
    return [*rows, _derived(by_kernel["all_to_all"], architecture, "nccl", "send_recv", why)]


def _fitted(samples: Sequence[CollectiveSample], source: str, note: str, sms: int) -> Collective:
    """The row of a fit over samples of one kernel."""
    best, residuals = fit(samples)
    first = samples[0]
    return Collective(
        backend=first.backend,
        kernel=first.kernel,
        architecture=first.cluster.gpu.architecture,
        alpha_us=float(best[0]),
        network_alpha_us=float(best[1]),
        link_fraction=float(best[2]),
        network_fraction=float(best[3]),
        sms_held=sms,
        log_std=root_mean_square(residuals),
        num_rows=len(samples),
        max_ranks_measured=max(sample.ranks for sample in samples),
        rank_power=RANK_POWER if (first.backend, first.kernel) == ("nccl", "all_reduce") else 0.0,
        beyond_log_std=BEYOND_LOG_STD if (first.backend, first.kernel) == ("nccl", "all_reduce") else 0.0,
        source=f"fitted: {source}",
        note=note,
        flag="",
        network_flag="",
        network_log_std=0.0,
    )


def _borrow_network(row: Collective, donor: Collective, flag: str = "") -> Collective:
    """The network figures of another row, where no multi-node rows exist."""
    return replace(
        row,
        network_alpha_us=max(row.alpha_us, donor.network_alpha_us),
        network_fraction=donor.network_fraction,
        flag=flag,
        network_flag=f"{row.backend} {row.kernel} on {row.architecture}: between link domains not measured; "
        f"{donor.backend} {donor.kernel}'s network figures on {donor.architecture}",
    )


def _derived(row: Collective, architecture: str, backend: str, kernel: str, why: str) -> Collective:
    """A row that has no timings, with another row's figures."""
    return replace(
        row,
        backend=backend,
        kernel=kernel,
        architecture=architecture,
        num_rows=0,
        source=f"derived: {row.backend} {row.kernel} {row.architecture} ({row.source})",
        note=why,
        flag=f"{backend} {kernel} on {architecture}: {why}",
    )


def _is(sample: CollectiveSample, architecture: str, kernel: str) -> bool:
    return sample.cluster.gpu.architecture == architecture and sample.kernel == kernel


FIELDS = (
    "backend",
    "kernel",
    "architecture",
    "alpha_us",
    "network_alpha_us",
    "link_fraction",
    "network_fraction",
    "sms_held",
    "log_std",
    "num_rows",
    "max_ranks_measured",
    "rank_power",
    "beyond_log_std",
    "source",
    "note",
    "flag",
    "network_flag",
    "network_log_std",
)


def report(rows: Sequence[Collective]) -> str:
    """The fitted rows as text."""
    return "\n".join(
        f"{row.backend:18} {row.kernel:14} {row.architecture:10} alpha {row.alpha_us:5.1f} / "
        f"{row.network_alpha_us:5.1f} us link {row.link_fraction:.3f} network {row.network_fraction:.3f} "
        f"SMs {row.sms_held:2} spread {row.log_std:.3f} rows {row.num_rows}"
        for row in rows
    )
