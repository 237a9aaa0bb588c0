"""Collectives of racks and between nodes: on what they rest, and what a stated network changes."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from calibrate.public.source import Source
from calibrate.public.transfers import rack_samples
from calibrate.tables import communication as fits
from calibrate.tables.collective_samples import all_reduce_samples
from perfmodel.cli import app
from perfmodel.errors import DataError
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.communication import OF_ALL_REDUCE, collectives, lookup_collective, spread, with_stated
from perfmodel.kernels.cost import cost
from perfmodel.load import load_scenario
from perfmodel.ops import communication as wire
from perfmodel.ops.op import Op, OpClass, Stream


def all_reduce(size, ranks, cluster):
    traffic = wire.all_reduce(size, ranks, cluster.node.link_domain_gpus)
    return Op(
        "reduce",
        OpClass.TP_COMMUNICATION,
        "all_reduce",
        Stream.LINK,
        hbm_bytes=2 * size,
        link_bytes=traffic.link_bytes,
        network_bytes=traffic.network_bytes,
        backend="custom",
        shape={"ranks": float(ranks), "bytes": max(traffic.link_bytes, traffic.network_bytes)},
    )


def seconds(gpu, engine, size, ranks):
    cluster = load_scenario("deepseek-v3-h800", [f"cluster={gpu}", "prices.usd_per_gpu_hour=4"]).cluster
    return cost(all_reduce(size, ranks, cluster), cluster, calibration=load_calibration(gpu, engine))


@pytest.mark.parametrize(
    ("engine", "ranks", "us"),
    [("trtllm", 8, 4.4), ("trtllm", 16, 5.1), ("vllm", 8, 14.0), ("vllm", 16, 50.0)],
)
def test_a_rack_is_one_domain_and_its_engine_s_all_reduce_is_as_timed(engine, ranks, us):
    """aisimulate 0.13.0.dev202610270000000085, gb300, custom_allreduce of 8,192 and 16,384 elements of two bytes."""
    found = seconds("gb300-nvl72", engine, 16384.0, ranks)
    assert float(found.seconds) == pytest.approx(us * 1e-6, rel=0.06)
    assert ("racks" in found.source) == (engine == "vllm"), "TensorRT-LLM's are in the calibration itself"
    assert found.network_s == 0.0


def test_nccl_s_collectives_of_a_rack_are_as_timed():
    """aisimulate, gb200, NCCL 2.27.7 on 16 GPUs, 16,384 elements of two bytes: 51.2, 29.8, 30.1 us."""
    cluster = load_scenario("deepseek-v3-h800", ["cluster=gb200-nvl72"]).cluster
    for kernel, us in (("all_reduce", 51.2), ("all_gather", 29.8), ("reduce_scatter", 30.1)):
        traffic = getattr(wire, kernel)(32768.0, 16, 72)
        shape = {"ranks": 16.0, "bytes": traffic.link_bytes}
        moved = {"hbm_bytes": 1e5, "link_bytes": traffic.link_bytes, "network_bytes": 0.0}
        op = Op("x", OpClass.TP_COMMUNICATION, kernel, Stream.LINK, backend="nccl", shape=shape, **moved)
        found = cost(op, cluster, calibration=load_calibration("gb200-nvl72", "sglang"))
        assert float(found.seconds) == pytest.approx(us * 1e-6, rel=0.1), kernel
        assert "racks" in found.source


def test_an_engine_that_nobody_timed_in_the_rack_is_nccl_s_and_says_so():
    for engine, ranks in (("vllm", 8), ("trtllm", 32)):
        found = seconds("gb200-nvl72", engine, 16384.0, ranks)
        assert not found.calibrated
        assert found.log_std > 0.15
        nearer = seconds("gb200-nvl72", engine, 16384.0, 4)
        assert "custom_allreduce" in nearer.source
        assert nearer.seconds < found.seconds


def test_gb200_takes_tensorrt_llm_s_all_reduce_over_trays_from_gb300_and_says_so():
    """Over 2 and 4 GPUs both take the same: 4.5 and 4.9 us for 16 KB."""
    for ranks in (2, 4):
        pair = [
            float(seconds(gpu, "trtllm", 16384.0, ranks).seconds) for gpu in ("gb200-nvl72", "gb300-nvl72")
        ]
        assert pair[0] == pytest.approx(pair[1], rel=0.02)
    found = seconds("gb200-nvl72", "trtllm", 16384.0, 8)
    assert float(found.seconds) == pytest.approx(4.5e-6, rel=0.05)
    assert "derived: GB300's" in found.flag


def test_the_sum_over_nodes_is_of_parts_that_were_timed():
    for architecture in ("hopper", "blackwell", "cdna3", "cdna4"):
        whole, exchange = (
            lookup_collective(*key, architecture)
            for key in (("nccl", "all_reduce"), ("deepep-low-latency", "dispatch"))
        )
        parts = [lookup_collective("nccl", name, architecture) for name in ("all_gather", "reduce_scatter")]
        across = 22.57 if architecture != "blackwell" else exchange.network_alpha_us
        assert whole.network_alpha_us == pytest.approx(sum(p.alpha_us for p in parts) + across, rel=2e-3)
        for part in parts:
            assert part.network_alpha_us == pytest.approx(part.alpha_us + across, rel=2e-3)


def test_the_spread_over_nodes_is_how_far_tests_of_whole_all_reduces_are_off():
    tests = np.array(list(fits.fixed_costs_us().values()))
    assert len(tests) == 6
    row = lookup_collective("nccl", "all_reduce", "hopper")
    off = np.sqrt(np.mean(np.log(tests / row.network_alpha_us) ** 2))
    assert row.network_log_std == pytest.approx(off, rel=2e-3)
    assert spread(row, 16, crosses=True) == row.network_log_std
    assert spread(row, 8) == row.log_std
    assert np.all(np.log(tests / row.network_alpha_us) < 1.8 * row.network_log_std)


def test_tests_of_single_clusters_are_fitted_within_a_third():
    for name, us in fits.fixed_costs_us().items():
        small = [
            one.seconds
            for gpu in fits.TESTED_GPUS
            for one in all_reduce_samples(gpu)
            if one.label.startswith(name) and one.traffic.network_bytes < 2e4
        ]
        if small and "NVIDIA" not in name:
            assert us == pytest.approx(np.median(small) * 1e6, rel=0.34), name


def test_a_stated_all_reduce_replaces_the_sum():
    scenario = load_scenario("deepseek-v3-h800", ["cluster.network.all_reduce_us=100"])
    for row in collectives().values():
        found = with_stated(row, scenario.cluster)
        share = OF_ALL_REDUCE.get(row.kernel)
        if row.network_log_std and share:
            assert found.network_alpha_us == pytest.approx(100 * share)
            assert found.network_flag == ""
            assert spread(found, 16, crosses=True) == row.log_std
        else:
            assert found is row


def test_spines_and_rails_are_as_stated():
    cluster = load_scenario("deepseek-v3-h800", ["cluster.network.spine_oversubscription=2"]).cluster
    assert cluster.network_bytes_per_s(same_rail=True) == 50e9
    assert cluster.network_bytes_per_s() == pytest.approx(50e9 / (1 + 7 / 8))


def test_part_of_racks_reads_what_its_table_says():
    """Where the package is at hand."""
    try:
        source = Source.find()
    except DataError as error:
        pytest.skip(str(error))
    for one in rack_samples(source, "gb300"):
        assert set(one.frame["ranks"]) == {8.0, 16.0}


@pytest.mark.parametrize("sets", [["cluster.network.all_reduce_us=-1"], ["cluster.network.all_reduce_us=x"]])
def test_a_bad_network_is_told_in_one_line(sets):
    found = CliRunner().invoke(
        app, ["step", "deepseek-v3-h800", *(x for one in sets for x in ("--set", one))]
    )
    assert found.exit_code != 0
    assert "cluster.network.all_reduce_us" in str(found.exception)
    assert "\n" not in str(found.exception)


def test_tp16_in_a_rack_is_faster_than_over_two_nodes():
    layout = (
        "deployment={engine: trtllm, attention_tp: 16, moe_tp: 16, batch_per_gpu: 0.5, context_tokens: 4096}"
    )
    times = {}
    for cluster in ("gb300", "b300"):
        sets = [layout, f"cluster={cluster}", "prices.usd_per_gpu_hour=5"]
        arguments = [part for one in sets for part in ("--set", one)]
        found = CliRunner().invoke(app, ["step", "deepseek-v3-h800", "--json", *arguments])
        times[cluster] = json.loads(found.stdout)["breakdown_s"]["tp_communication"]
    assert times["gb300"] < 0.3 * times["b300"]
