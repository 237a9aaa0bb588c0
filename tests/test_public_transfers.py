"""Readers of measured collectives, dispatch and combine: traps on small tables, errors on the package's own."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrate.public import deepep, deepep_rows, transfers
from calibrate.public.deepep_rows import CLUSTERS, Fabric, fabric
from calibrate.public.source import Source
from perfmodel.errors import DataError
from perfmodel.kernels.curves import Curve, evaluate
from perfmodel.ops import communication as wire
from perfmodel.routing.destinations import Destinations, expected_distinct
from perfmodel.units import GB, US

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture(scope="module")
def package() -> Source:
    """The package's tables: installed, or the folder named by PERFMODEL_TABLES."""
    folder = os.environ.get("PERFMODEL_TABLES")
    try:
        return Source.find(Path(folder) if folder else None)
    except DataError as error:
        pytest.skip(str(error))


def write(root: Path, place: str, rows: list[dict[str, Any]]) -> Source:
    """Adds one table, ``system/family/backend/version/table``, to a small package."""
    path = root / "systems" / "data" / f"{place}_perf.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)
    return Source.find(root)


def nccl_row(op: str, gpus: int, size: int, ms: float, dtype: str = "half") -> dict[str, Any]:
    return {
        "op_name": op,
        "kernel_source": "NCCL",
        "nccl_dtype": dtype,
        "num_gpus": gpus,
        "message_size": size,
        "latency": ms,
    }


def test_nccl_sizes_are_elements_of_two_bytes_and_times_ms(tmp_path: Path) -> None:
    ops = ("all_gather", "reduce_scatter", "all_reduce", "alltoall")
    write(tmp_path, "h100_sxm/comm/nccl/2.9/nccl", [nccl_row("all_gather", 8, 1000, 9.0)])
    rows = [nccl_row(op, 8, 1000, 0.5) for op in ops] + [nccl_row("all_gather", 8, 1000, 0.1, "int8")]
    source = write(tmp_path, "h100_sxm/comm/nccl/2.29.2/nccl", rows)
    found = {s.kernel: s for s in transfers.nccl_samples(source, "h100_sxm")}
    assert set(found) == {"all_gather", "reduce_scatter", "all_reduce", "all_to_all"}
    for kernel, sample in found.items():
        (row,) = sample.frame.to_dict("records")
        assert row["bytes"] == pytest.approx(2000 * 7 / 8 * (2 if kernel == "all_reduce" else 1))
        assert row["seconds"] == pytest.approx(0.5e-3)
        assert row["ranks"] == 8
        assert (sample.axes, sample.match, sample.exact) == (("bytes",), ("ranks",), ("ranks",))
        assert (sample.backend, sample.engine) == ("nccl", "")
        assert "2.29.2" in sample.source


def test_an_engines_all_reduce_is_the_graphs_where_rows_say_so(tmp_path: Path) -> None:
    def row(kernel_source: str, size: int, ms: float) -> dict[str, Any]:
        return {"kernel_source": kernel_source, "num_gpus": 8, "message_size": size, "latency": ms}

    write(
        tmp_path,
        "h100_sxm/comm/sglang/0.5.14/custom_allreduce",
        [row("SGLang_CustomAllReduce_eager", 4096, 0.03), row("SGLang_CustomAllReduce_graph", 4096, 0.004)],
    )
    source = write(
        tmp_path,
        "h100_sxm/comm/trtllm/1.3.0rc20/custom_allreduce",
        [row("TRTLLM_MNNVL_oneshot", 4096, 0.006), row("TRTLLM_MNNVL_twoshot", 4096, 0.009)],
    )
    sglang, trtllm = transfers.engine_samples(source, "h100_sxm")
    assert [s.engine for s in (sglang, trtllm)] == ["sglang", "trtllm"]
    assert list(sglang.frame["seconds"]) == pytest.approx([4e-6])
    assert list(trtllm.frame["seconds"]) == pytest.approx([6e-6])
    assert list(trtllm.frame["bytes"]) == pytest.approx([2 * 2 * 4096 * 7 / 8])
    assert {s.backend for s in (sglang, trtllm)} == {"custom"}


def ll_row(nodes: int, tokens: int, **other: Any) -> dict[str, Any]:
    return {
        "device": H100,
        "node_num": nodes,
        "hidden_size": 7168,
        "num_token": tokens,
        "num_topk": 8,
        "num_experts": 256,
        "dispatch_avg_t_us": 40.0,
        "combine_avg_t_us": 70.0,
        **other,
    }


def test_low_latency_rows_are_us_and_tokens_per_rank(tmp_path: Path) -> None:
    write(
        tmp_path,
        "h100_sxm/comm/sglang/0.5.6.post2/wideep_deepep_ll",
        [ll_row(1, 128, dispatch_avg_t_us=99.0), ll_row(2, 128, dispatch_avg_t_us=102.0)],
    )
    source = write(
        tmp_path,
        "h100_sxm/comm/sglang/0.5.12/wideep_deepep_ll",
        [ll_row(1, 128), ll_row(1, 128, num_experts=8, num_topk=2, dispatch_avg_t_us=500.0)],
    )
    timings = deepep_rows.low_latency(source, "h100_sxm", "dispatch")
    assert timings is not None
    table = timings.frame[timings.frame["ranks"] <= 16].sort_values("ranks")
    assert list(table["ranks"]) == [8, 16]  # the older single-node row and the one of 8 experts are gone
    assert list(table["seconds"]) == pytest.approx([40e-6, 102e-6])
    message = wire.low_latency_dispatch_bytes(7168, "fp8")
    for ranks, row in zip((8, 16), table.to_dict("records"), strict=True):
        expected = wire.deepep_low_latency(128, 8, message, ranks, 8)
        assert row["tokens"] == 128
        assert row["link_bytes"] == pytest.approx(expected.link_bytes)
        assert row["network_bytes"] == pytest.approx(expected.network_bytes)
    readme = timings.frame[timings.frame["ranks"] > 16]  # DeepEP's own, where this table ends
    assert {32.0, 64.0, 128.0, 256.0} == set(readme["ranks"])
    assert set(readme["tokens"]) == {128.0}


def normal_row(nodes: int, sms: int, device: str = "NVIDIA H200", **other: Any) -> dict[str, Any]:
    return {
        "device": device,
        "node_num": nodes,
        "hidden_size": 7168,
        "num_token": 4096,
        "num_topk": 8,
        "num_experts": 256,
        "dispatch_sms": sms,
        "combine_sms": sms,
        "dispatch_transmit_us": 700.0,
        "dispatch_notify_us": 50.0,
        "combine_transmit_us": 1700.0,
        "combine_notify_us": 60.0,
        **other,
    }


def test_normal_rows_add_notification_and_leave_out_other_devices_sms_and_eight_nodes(tmp_path: Path) -> None:
    rows = [
        normal_row(1, 24, "NVIDIA H100"),
        normal_row(2, 24),
        normal_row(2, 8, dispatch_transmit_us=2000.0),
        normal_row(8, 24, dispatch_transmit_us=5400.0),
    ]
    source = write(tmp_path, "h200_sxm/comm/sglang/0.5.6.post2/wideep_deepep_normal", rows)
    timings = deepep_rows.normal(source, "h200_sxm", "dispatch")
    assert timings is not None
    own = timings.frame[timings.frame["ranks"] < 64]
    (row,) = own.to_dict("records")
    assert row["seconds"] == pytest.approx(750e-6)
    assert row["ranks"] == 16
    distinct, nodes = expected_distinct(256, 16, 8), expected_distinct(256, 2, 8)
    reached = Destinations(distinct, distinct * 15 / 16, nodes, nodes / 2)
    expected = wire.deepep_normal(4096, wire.payload_bytes(7168, "fp8"), reached, 16, 8)
    assert row["link_bytes"] == pytest.approx(expected.link_bytes)
    assert row["network_bytes"] == pytest.approx(expected.network_bytes)
    (readme,) = timings.frame[timings.frame["ranks"] == 64].to_dict("records")  # 51 GB/s, not 5.4 ms
    assert readme["seconds"] == pytest.approx(2365e-6, rel=0.01)


def test_another_devices_rows_do_not_pass_for_its_own() -> None:
    assert deepep_rows._is_device(H100, "h100_sxm")
    assert deepep_rows._is_device("NVIDIA B300 SXM6 AC", "b300_sxm")
    assert not deepep_rows._is_device("NVIDIA H100", "h200_sxm")
    assert not deepep_rows._is_device("NVIDIA GB200", "b200_sxm")


def test_network_terms_follow_the_nic_and_the_domain() -> None:
    hopper = (
        ("1", 1e-5),
        ("link_bytes", 3e-12),
        ("ranks[8:9]", 2e-5),
        ("ranks[8:]", 1e-7),
        ("network_bytes[65536:]", 2e-11),
        ("network_bytes*ranks[16:32]", 1e-13),
    )
    assert deepep.network_terms(hopper, Fabric(8, 8, 50.0), Fabric(8, 8, 50.0)) == hopper[2:]
    found = dict(deepep.network_terms(hopper, Fabric(8, 8, 50.0), Fabric(4, 72, 100.0)))
    assert found["ranks[72:73]"] == pytest.approx(2e-5)
    assert found["ranks[72:]"] == pytest.approx(1e-7 / 9)
    assert found["network_bytes[65536:]"] == pytest.approx(1e-11)
    assert found["network_bytes*ranks[144:288]"] == pytest.approx(1e-13 / 2 / 9)
    inside = {"ranks": 72.0, "network_bytes": 0.0}
    assert evaluate(tuple(found.items()), inside) == 0.0


def test_h800s_collectives_move_the_bytes_of_the_slower_link(tmp_path: Path) -> None:
    rows = [nccl_row("all_gather", 8, size, ms) for size, ms in ((256, 0.01), (2**28, 1.4))]
    source = write(tmp_path, "h100_sxm/comm/nccl/2.29.2/nccl", rows)
    (h100,) = transfers.samples(source, "h100_sxm")
    samples, curves = transfers.h800(source)
    (h800,) = samples
    assert curves == []  # no DeepEP rows in this package
    assert list(h800.frame["seconds"]) == list(h100.frame["seconds"])
    assert list(h800.frame["bytes"]) == pytest.approx(list(h100.frame["bytes"] * 200 / 450))
    assert h800.flag.startswith("derived")
    assert not h100.flag


def test_a_system_without_tables_has_nothing(tmp_path: Path) -> None:
    source = write(tmp_path, "h100_sxm/comm/nccl/2.29.2/nccl", [nccl_row("all_gather", 8, 256, 0.01)])
    assert transfers.samples(source, "b200_sxm") == []
    assert transfers.curves(source, "b200_sxm") == []


# --- on the package's tables -----------------------------------------------------------------------------------------


def by_name(curves: list[Curve]) -> dict[tuple[str, str], Curve]:
    return {(curve.backend, curve.kernel): curve for curve in curves}


def test_result_and_input_are_the_only_sizes_a_link_can_carry(package: Source) -> None:
    """Were message_size one rank's part, all-gather on 8 H100 would move six times what NVLink can."""
    for sample in transfers.nccl_samples(package, "h100_sxm"):
        largest = sample.frame[sample.frame["ranks"] == 8].nlargest(1, "bytes")
        rate = float((largest["bytes"] / largest["seconds"]).iloc[0])
        assert 0.6 * 450 * GB < rate < 450 * GB, sample.kernel
        if sample.kernel in ("all_gather", "reduce_scatter"):
            assert 8 * rate > 450 * GB


def test_engines_all_reduce_beats_nccl_on_small_messages(package: Source) -> None:
    found = {(s.kernel, s.engine): s.frame for s in transfers.samples(package, "h100_sxm")}
    nccl = found["all_reduce", ""]
    for engine in ("sglang", "trtllm", "vllm"):
        both = nccl.merge(found["all_reduce", engine], on=["ranks", "bytes"])
        small = both[both["bytes"].between(8e3, 1e5) & (both["ranks"] == 8)]
        assert len(small) >= 3
        assert (small["seconds_x"] > 2.5 * small["seconds_y"]).all()


@pytest.mark.parametrize("system", sorted(CLUSTERS))
def test_curves_hit_shapes_left_out(package: Source, system: str) -> None:
    curves = transfers.curves(package, system)
    assert {("deepep-low-latency", "dispatch"), ("deepep-normal", "combine")} <= set(by_name(curves))
    for curve in curves:
        assert curve.median_error_pct < 10.5, (curve.backend, curve.kernel)
        assert curve.dtype == "any"
        assert curve.source
        assert "left out whole" in curve.note
    for curve in transfers.curves(package, system, experts=True):
        if curve.backend == "deepep-low-latency":
            assert curve.median_error_pct < 5.5


@pytest.mark.parametrize("system", ["h100_sxm", "b200_sxm", "gb200"])
def test_more_work_is_never_faster(package: Source, system: str) -> None:
    rng = np.random.default_rng(0)
    for curve in transfers.curves(package, system, experts=True):
        low = {
            "tokens": rng.uniform(1, 5000, 300),
            "ranks": rng.choice([2.0, 4.0, 8.0, 16.0, 64.0, 256.0], 300),
            "link_bytes": 10 ** rng.uniform(2, 9, 300),
            "network_bytes": 10 ** rng.uniform(2, 9, 300) * rng.integers(0, 2, 300),
            "experts": rng.choice([64.0, 256.0, 512.0], 300),
        }
        for name in low:
            high = {**low, name: low[name] * 1.5}
            assert (np.asarray(evaluate(curve.terms, high)) >= np.asarray(evaluate(curve.terms, low))).all()


def test_unseen_slices_stay_near(package: Source) -> None:
    """A hidden size, a range of tokens, a group size left out whole; EP32 of normal is the knee of its network."""
    for kernel in deepep_rows.KERNELS:
        low = deepep_rows.low_latency(package, "h100_sxm", kernel)
        assert low is not None
        terms = (*deepep.LINK, *deepep.NETWORK, *deepep.WIDER["deepep-low-latency"])
        errors = deepep.slice_errors(low, terms)
        assert {"hidden 7168", "64 to 512 tokens", "EP16", "EP32", "EP64"} == set(errors)
        assert max(errors.values()) < 20.0
        normal = deepep_rows.normal(package, "h100_sxm", kernel)
        assert normal is not None
        errors = deepep.slice_errors(normal, (*deepep.LINK, *deepep.NETWORK, *deepep.WIDER["deepep-normal"]))
        assert max(error for name, error in errors.items() if name != "EP32") < 20.0
        assert errors["EP32"] < 30.0


def test_h800_meets_deepeps_own_rows(package: Source) -> None:
    _, found = transfers.h800(package)
    curves = by_name(found)
    assert len(curves) == 4
    for (backend, kernel), curve in curves.items():
        low = backend == "deepep-low-latency"
        readme = deepep_rows.low_latency_readme(kernel) if low else deepep_rows.normal_readme(kernel)
        assert np.abs(deepep.signed_errors(curve.terms, readme)).max() < 10.0
        assert curve.median_error_pct < 10.0  # rows left out one by one
        assert curve.flag.startswith("derived")
        assert str(int(readme["tokens"].iloc[0])) in curve.flag


def test_h800_is_not_faster_than_h100_where_the_link_is_the_limit(package: Source) -> None:
    h100, h800 = by_name(transfers.curves(package, "h100_sxm")), by_name(transfers.h800(package)[1])
    for kernel in deepep_rows.KERNELS:
        readme = deepep_rows.low_latency_readme(kernel)
        row = {name: float(value) for name, value in readme[readme["ranks"] == 8].iloc[0].items()}
        name = ("deepep-low-latency", kernel)
        assert h800[name].seconds(row) > 1.4 * h100[name].seconds(row)


def test_a_larger_group_than_measured_leaves_the_domain(package: Source) -> None:
    shape = {"tokens": 128.0, "ranks": 128.0}
    h100 = by_name(transfers.curves(package, "h100_sxm"))
    assert h100["deepep-low-latency", "dispatch"].outside(shape) == ""
    assert "ranks" in h100["deepep-normal", "dispatch"].outside(shape)
    b200 = by_name(transfers.curves(package, "b200_sxm"))["deepep-low-latency", "dispatch"]
    assert "ranks" in b200.outside({**shape, "ranks": 16.0})
    assert "network terms" in b200.note
    small = {"tokens": 128.0, "link_bytes": 1e6, "network_bytes": 0.0}
    across = {**small, "ranks": 16.0, "network_bytes": 4e6}
    assert b200.seconds(across) > b200.seconds({**small, "ranks": 8.0}) + 4e6 / (50 * GB) * 0.8


def test_one_sided_rows_span_the_rack(package: Source) -> None:
    timings = deepep_rows.one_sided(package, "gb200", "dispatch")
    assert timings is not None
    assert deepep_rows.one_sided(package, "h100_sxm", "dispatch") is None
    assert timings.frame["ranks"].max() == 64
    assert (timings.frame["network_bytes"] == 0).all()
    table = timings.frame[(timings.frame["ranks"] == 8) & (timings.frame["tokens"] == 1024)]
    nvfp4 = 1024 * expected_distinct(256, 8, 8) * 7 / 8 * 7168 * (0.5 + 1 / 16)
    assert np.isclose(table["link_bytes"], nvfp4).any()


def test_multi_node_rows_are_the_same_on_both_hoppers(package: Source) -> None:
    """One run under both names, which is why both systems take it whatever its tag says."""
    h100, h200 = (deepep_rows.low_latency(package, system, "combine") for system in ("h100_sxm", "h200_sxm"))
    assert h100 is not None
    assert h200 is not None
    first, second = (
        t.frame[t.frame["ranks"].between(16, 64)].sort_values(["ranks", "experts", "tokens"])
        for t in (h100, h200)
    )
    assert list(first["seconds"]) == list(second["seconds"])
    assert fabric("h100_sxm") == fabric("h200_sxm")


def test_one_rank_count_left_out_shows(package: Source) -> None:
    """The slices are real: a curve of EP8 alone does not know the network."""
    timings = deepep_rows.low_latency(package, "h100_sxm", "dispatch")
    assert timings is not None
    inside = replace(timings, frame=timings.frame[timings.frame["ranks"] == 8])
    curve = deepep.fit(inside, deepep.LINK)
    outside = timings.frame[timings.frame["ranks"] == 64]
    assert np.median(deepep.relative_errors(curve.terms, outside)) > 30.0
    assert curve.fixed_s < 20 * US
