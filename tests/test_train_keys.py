"""Keys of a training run beyond its layout: batch ramp, hybrid sharding, offload to the host, capacity with drops,
power caps.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from perfmodel.answers.train import answer_train
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.explore.plan_training.question import layouts, space_of, training_with
from perfmodel.explore.plan_training.screen import figures
from perfmodel.explore.train_difference import train_difference
from perfmodel.load import build_scenario
from perfmodel.ops.op import OpClass
from perfmodel.ops.routed import rank_load
from perfmodel.output.train.html import train_html
from perfmodel.routing.balance import Balance, placed_layers
from perfmodel.routing.capacity import excess, kept_pairs
from perfmodel.routing.loads import expert_counts, sample_experts
from perfmodel.spec.training import BatchRamp, Checkpoints, Failures, Training
from perfmodel.training.layout import training_of
from perfmodel.training.offload import HOST_SHARE, host_bytes_per_s, hosts
from perfmodel.training.parameters import Parameters
from perfmodel.training.ramp import ramp_levels, ramp_steps
from perfmodel.training.run import DAY, Storage, simulate_run
from perfmodel.training.saved import layer_saved
from perfmodel.training.step import simulate_training
from perfmodel.training.traffic import gradient_ops, updated, weight_ops

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
SMALL = {
    "model": {"base": "qwen3-30b-a3b", "num_hidden_layers": 8},
    "cluster": "h100-ib",
    "training": {"sequence_tokens": 4096, "global_batch_sequences": 128, "dp": 8, "pp": 2, "ep": 8},
}


def small(**changed):
    return build_scenario({**SMALL, "training": {**SMALL["training"], **changed}})


BF16 = {"gradients": "bf16"}
RAMP = {"start_sequences": 32, "increment_sequences": 32, "ramp_sequences": 3000}


def test_what_is_not_asked_for_changes_nothing():
    plain, stated = small(), small(dp_replicate=1, offload={"optimizer_fraction": 0.0}, batch_ramp=None)
    assert plain.hash == stated.hash
    values = answer_train(plain).values
    assert not {"batch_ramp", "offload"} & set(values)
    assert "host" not in values["exposed_s"]
    assert small(offload={"overlap": True}).hash != plain.hash


# batch ramp


def counted(ramp, global_batch, sequences):
    """Steps of every batch, step by step, as Megatron-LM's calculator goes."""
    levels = ramp.levels(global_batch)
    found, trained = {}, 0
    while trained < sequences:
        grown = (
            int(Fraction(trained * levels, ramp.ramp_sequences)) if trained <= ramp.ramp_sequences else levels
        )
        batch = ramp.start_sequences + grown * ramp.increment_sequences
        found[batch] = found.get(batch, 0) + 1
        trained += batch
    return found


@QUICK
@given(
    start=st.integers(1, 30),
    increment=st.integers(1, 20),
    levels=st.integers(1, 12),
    over=st.integers(1, 3000),
)
def test_the_ramp_s_steps_are_megatron_s(start, increment, levels, over):
    full = start + increment * levels
    ramp = BatchRamp(start_sequences=start, increment_sequences=increment, ramp_sequences=over)
    long = over + 3 * full
    found = {batch: steps for batch, steps in ramp_steps(ramp, full, long) if steps}
    known = counted(ramp, full, long)
    known.pop(full)
    assert found == known
    ended = over // 2  # a run that ends within its ramp trains what it has
    assert sum(batch * steps for batch, steps in ramp_steps(ramp, full, ended)) == pytest.approx(ended)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"schedule": "zb-h1"},
        {"moe_overlap": "forward-backward", "post_validation": True},
        {
            "pp": 4,
            "dp": 4,
            "ep": 4,
            "schedule": "interleaved-1f1b",
            "virtual_stages": 2,
            "zero": 1,
            "optimizer": {"kind": "muon"},
        },
    ],
)
def test_a_step_of_the_ramp_is_the_step_of_that_batch(changed):
    step = simulate_training(small(**changed, batch_ramp=RAMP))
    levels = ramp_levels(step, 1e6)
    assert [one.global_batch_sequences for one in levels] == [32, 64, 96]
    for one in levels:
        alone = simulate_training(small(**changed, global_batch_sequences=one.global_batch_sequences))
        assert one.step_time_s == pytest.approx(alone.step_time_s, rel=1e-12)
    if "optimizer" not in changed:  # Muon's products, which smaller batches pay as often, leave none
        bubbles = [one.bubble_fraction for one in levels]
        assert bubbles == sorted(bubbles, reverse=True)


def test_days_are_the_sum_of_the_ramp_s_steps_and_full_ones():
    tokens = 4096.0 * 100_000
    plain, ramped = (answer_train(small(tokens=tokens, batch_ramp=ramp)) for ramp in (None, RAMP))
    levels = ramped.values["batch_ramp"]["levels"]
    before = sum(one["steps"] * one["global_batch_sequences"] for one in levels)
    seconds = sum(one["steps"] * one["step_time_s"] for one in levels)
    seconds += (100_000 - before) / 128 * plain.step.step_time_s
    assert ramped.values["days"] * 86400 == pytest.approx(seconds, rel=1e-12)
    more = ramped.values["batch_ramp"]["more_s"]
    assert ramped.values["days"] - plain.values["days"] == pytest.approx(more / 86400, rel=1e-9)
    assert more > 0.0
    assert ramped.values["step_time_s"] == plain.values["step_time_s"]
    parts = {row["component"]: row["delta_usd"] for row in train_difference(plain, ramped).rows}
    assert parts["batch ramp"] > 0.0
    assert "failures" not in parts
    assert "batch ramp" in train_html(ramped)


# hybrid sharding


def test_hybrid_sharding_divides_within_groups_and_sums_between_them():
    one = Parameters(dense=16e6, experts=8e6)
    cluster = small().cluster
    whole, groups = (small(pp=1, dp=16, zero=3, dp_replicate=n).training for n in (1, 2))
    assert updated(one, whole) == 16e6 / 16 + 8e6 / 2
    assert updated(one, groups) == 16e6 / 8 + 8e6 / 1
    gather = {op.name: op for op in weight_ops(one, groups, cluster)}
    assert set(gather) == {"dense.all_gather"}  # experts of a group are whole on each rank
    assert gather["dense.all_gather"].network_bytes == 0.0  # eight ranks of one node
    assert weight_ops(one, whole, cluster)[0].network_bytes > 0.0
    reduced = {op.name: op for op in gradient_ops(one, groups, cluster)}
    assert set(reduced) == {"dense.reduce_scatter", "dense.copies.all_reduce", "experts.copies.all_reduce"}
    part = 4.0 * 16e6 / 8  # each rank sums its part with the other group's: twice (n - 1) / n of it
    moved = reduced["dense.copies.all_reduce"]
    assert moved.link_bytes + moved.network_bytes == pytest.approx(2.0 * part * 0.5)


def test_hybrid_sharding_holds_more_and_may_be_faster():
    whole, groups = (
        simulate_training(small(pp=1, dp=16, ep=1, zero=3, dp_replicate=n, optimizer=BF16)) for n in (1, 2)
    )
    held = [one.memory.ranks[0] for one in (whole, groups)]
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(held[1], name) > getattr(held[0], name)
    slow = whole.scenario.cluster.network.model_copy(update={"gb_per_s_per_gpu": 2.0})
    cluster = whole.scenario.cluster.model_copy(update={"network": slow})
    times = [
        simulate_training(one.scenario.model_copy(update={"cluster": cluster})).step_time_s
        for one in (whole, groups)
    ]
    assert times[1] < times[0]


# offload


def test_state_on_the_host_frees_memory_and_takes_its_update():
    plain = simulate_training(small())
    for fraction in (0.25, 1.0):
        one = simulate_training(small(offload={"optimizer_fraction": fraction}))
        for before, after in zip(plain.memory.ranks, one.memory.ranks, strict=True):
            assert after.optimizer == pytest.approx((1.0 - fraction) * before.optimizer)
            assert after.weights + after.gradients == before.weights + before.gradients
        own = updated(one.parameters[1], one.training) * fraction
        assert one.host_memory[1].optimizer == pytest.approx(16.0 * own)  # master, moments and the gradient
        pcie, memory = 64e9, 614.4e9 / 8 * HOST_SHARE
        host = own * (4.0 / pcie + 30.0 / memory + 2.0 / pcie)
        assert one.tails[1].optimizer_s < plain.tails[1].optimizer_s
        # the GPU updates its own part meanwhile: the two never take longer than the host's part and the whole update
        assert host - plain.tails[1].optimizer_s <= one.tails[1].host_s <= host
        assert one.step_time_s > plain.step_time_s
        hidden = simulate_training(small(offload={"optimizer_fraction": fraction, "overlap": True}))
        assert 0.0 < hidden.tails[1].host_s < one.tails[1].host_s


def test_offload_beside_what_megatron_bridge_measured():
    """docs/training/cpu-offloading.md at 6608201d, Qwen3-30B-A3B, TP2 PP2 EP4: time grows in proportion to the
    fraction; overlapping transfers saves 7 % of the step at 100 %, since the host's Adam is the most of it.
    """
    keys = {"tp": 2, "dp": 4, "pp": 2, "ep": 4, "global_batch_sequences": 16}

    def seconds(**offload):
        training = {**SMALL["training"], **keys, "offload": offload}
        document = {"model": "qwen3-30b-a3b", "cluster": "h100-ib", "training": training}
        return simulate_training(build_scenario(document)).step_time_s

    base = seconds()
    more = [seconds(optimizer_fraction=fraction) - base for fraction in (0.25, 0.5, 1.0)]
    assert more[1] / more[0] == pytest.approx(2.0, rel=0.05)
    assert more[2] / more[1] == pytest.approx(2.0, rel=0.05)
    assert 0.03 < 1.0 - seconds(optimizer_fraction=1.0, overlap=True) / (base + more[2]) < 0.12


def test_activations_on_the_host_travel_beside_compute():
    def step(fraction, gb_per_s):
        gpu = {"host_gb_per_s": gb_per_s}
        document = {**SMALL, "cluster": {"base": "h100-ib", "gpu": {"base": "h100-sxm", **gpu}}}
        document["training"] = {**SMALL["training"], "offload": {"activations_fraction": fraction}}
        return simulate_training(build_scenario(document))

    plain, fast, slow = step(0.0, 64.0), step(0.5, 1e6), step(0.5, 1.0)
    assert fast.step_time_s == pytest.approx(plain.step_time_s, rel=1e-6)
    assert slow.step_time_s > 2 * plain.step_time_s
    kept = plain.memory.ranks[0].activations
    assert fast.memory.ranks[0].activations == pytest.approx(0.5 * kept)
    assert fast.host_memory[0].activations == pytest.approx(0.5 * kept)
    in_flight = min(plain.training.micro_batches, plain.training.pp)  # on the first rank of 1F1B
    copy = 0.5 * kept / in_flight / 1e9
    assert slow.phases[0].forward.seconds == pytest.approx(copy)
    assert slow.phases[0].backward.seconds == pytest.approx(copy)
    assert slow.phases[0].weight.seconds == plain.phases[0].weight.seconds
    assert slow.phases[0].forward.exposed_s[OpClass.HOST] == pytest.approx(
        copy - plain.phases[0].forward.seconds
    )
    values = answer_train(slow.scenario).values
    assert values["exposed_s"]["host"] > 0.0
    assert sum(values["breakdown_s"].values()) == pytest.approx(values["step_time_s"])
    assert values["offload"]["host_bytes_per_gpu"]["activations"] == int(slow.host_memory[0].activations)


def test_hosts_are_those_of_known_gpus():
    from perfmodel.spec import catalogue

    named = [name for host in hosts().values() for name in host["gpus"]]
    assert len(named) == len(set(named))
    assert set(named) <= set(catalogue.names("gpus"))
    stated = small(offload={"optimizer_fraction": 1.0, "host_memory_gb_per_s": 80.0})
    assert host_bytes_per_s(stated, stated.training) == 10e9


# capacity with drops


@QUICK
@given(tokens=st.integers(1, 400), size=st.integers(1, 60), chance=st.floats(1e-4, 1.0))
def test_the_excess_of_a_binomial_is_its_sum(tokens, size, chance):
    direct = sum(
        (count - size) * math.comb(tokens, count) * chance**count * (1.0 - chance) ** (tokens - count)
        for count in range(size + 1, tokens + 1)
    )
    assert excess(tokens, np.array([chance]), size)[0] == pytest.approx(direct, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("skew", "factor"), [(0.0, 1.0), (0.0, 1.25), (0.0, 0.5), (0.6, 1.0), (0.6, 1.5), (0.6, 4.0)]
)
def test_dropped_pairs_are_those_of_drawn_tokens(skew, factor):
    """Tokens drawn one by one, each with distinct experts; every rank's own tokens fill its experts' room."""
    tokens, experts, top_k, draws = 512, 128, 8, 100
    balance = Balance(
        num_experts=experts, redundant=0, ranks=8, nodes=1, domain=8, groups=1, top_groups=1, drift=0.0, seed=0,
        popularity="power-law" if skew else "uniform", skew=skew, histogram=(), placement="contiguous",
        pmf=(0.0,) * top_k + (1.0,), layers=1,
    )  # fmt: skip
    found = kept_pairs(balance, tokens, float(top_k), factor)
    popularity = placed_layers(balance)[0][1]
    ids, _ = sample_experts(np.random.default_rng(3), popularity, np.full(tokens * draws, top_k))
    counts = np.stack([expert_counts(own, experts) for own in ids.reshape(draws, -1)])
    assert found.room == math.ceil(tokens * top_k / experts * factor)
    dropped = np.maximum(counts - found.room, 0).sum() / (tokens * top_k * draws)
    # exact for equal chances; for unequal ones a token's chance of a popular expert is a close approximation
    assert found.dropped == pytest.approx(dropped, rel=0.06 if skew else 0.02, abs=2e-4)
    kept = np.minimum(counts, found.room).sum(axis=0).reshape(8, -1).sum(axis=1)
    assert (
        found.busiest >= kept.max() / kept.mean() * 0.99
    )  # of one step, which is less even than 100 together


def test_more_room_drops_less():
    balance = Balance(
        num_experts=64, redundant=0, ranks=8, nodes=1, domain=8, groups=1, top_groups=1, drift=0.0, seed=0,
        popularity="power-law", skew=0.8, histogram=(), placement="contiguous", pmf=(0.0,) * 8 + (1.0,), layers=4,
    )  # fmt: skip
    shares = [kept_pairs(balance, 4096, 8.0, factor).dropped for factor in (0.25, 0.5, 1.0, 2.0, 4.0, 64.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(0.75, abs=0.05)
    assert shares[-1] == 0.0


def expert_work(step):
    """(FLOPs of products, bytes sent per layer, bytes kept) of the experts."""
    ops = {kernel.op.name: kernel.op for kernel, _ in step.timings}
    sent, kept = ops["dispatch"], layer_saved(step.stages[0][0], step.inner, step.training)
    return (
        ops["experts.gate_up"].flops,
        sent.link_bytes + sent.network_bytes,
        sum(size for name, size in kept.items() if "experts" in name),
    )


def test_dropped_pairs_are_not_computed_sent_or_kept():
    way = {"all_to_all": "all-to-all"}
    plain = simulate_training(small(**way))
    for pad, factor in ((False, 1.0), (False, 0.5), (True, 1.5)):
        one = simulate_training(small(**way, capacity={"factor": factor, "pad": pad}))
        said = answer_train(one.scenario).values["capacity"]
        rows = factor if pad else 1.0 - said["dropped_fraction"]
        assert said["rows_over_pairs"] == pytest.approx(rows)
        for before, after in zip(expert_work(plain), expert_work(one), strict=True):
            assert after == pytest.approx(rows * before)
    fewer = simulate_training(
        small(capacity={"factor": 0.5})
    )  # DeepEP sends a token once per rank that has it
    assert expert_work(fewer)[1] < expert_work(simulate_training(small()))[1]
    assert fewer.step_time_s < simulate_training(small()).step_time_s


def test_a_capacity_evens_out_a_skewed_router():
    skewed = {"popularity": "power-law", "skew": 1.0}
    training = {**SMALL["training"], "balanced": False}
    plain = simulate_training(build_scenario({**SMALL, "routing": skewed, "training": training}))
    training["capacity"] = {"factor": 1.0}
    capped = simulate_training(build_scenario({**SMALL, "routing": skewed, "training": training}))
    assert max(capped.inner.routing.rank_loads) < rank_load(plain.scenario.model.moe, 4096.0, plain.inner)
    assert capped.step_time_s < plain.step_time_s
    even = answer_train(small(capacity={"factor": 1.0})).values["capacity"]["dropped_fraction"]
    assert 0.0 < even < answer_train(capped.scenario).values["capacity"]["dropped_fraction"]


# power caps


def test_a_power_cap_slows_products_and_nothing_else():
    """700 W of products at full clocks, 121.7 W idle: above idle, power falls by the cube of the clock."""
    plain, capped = (simulate_training(small(power_cap_w=watts)) for watts in (None, 560.0))
    clock = ((560.0 - 121.7) / (700.0 - 121.7)) ** (1.0 / 3.0)
    before, after = ({kernel.op.name: timing for kernel, timing in step.timings} for step in (plain, capped))
    seen = set()
    for name, timing in before.items():
        other = after[name]
        if timing.compute_s > timing.memory_s:
            assert other.compute_s == pytest.approx(timing.compute_s / clock)
            seen.add("compute")
        else:  # memory-bound kernels draw 0.77 x 700 = 539 W
            assert other == timing
            seen.add("rest")
    assert seen == {"compute", "rest"}
    said = answer_train(capped.scenario).values["power_cap"]
    assert said["clock_fraction"] == pytest.approx(clock)
    assert 1.0 < said["step_time_over_uncapped"] < 1.0 / clock


def test_power_caps_cost_more_the_lower_they_are():
    times = [
        simulate_training(small(power_cap_w=watts)).step_time_s for watts in (250.0, 400.0, 600.0, 700.0)
    ]
    assert times == sorted(times, reverse=True)
    assert times[-1] == simulate_training(small()).step_time_s
    muon = {"optimizer": {"kind": "muon"}}
    free, capped = (simulate_training(small(**muon, power_cap_w=watts)) for watts in (None, 250.0))
    assert capped.tails[0].optimizer_s > 1.5 * free.tails[0].optimizer_s


def test_watts_of_kernels_where_they_are_known():
    """B200's fits: a BF16 product draws 808 W and 114 at the memory's peak, so 800 W slow it and 950 do not."""
    document = {**SMALL, "cluster": "b200-ib"}
    times = {}
    for watts in (None, 600.0, 950.0):
        training = {**SMALL["training"], "power_cap_w": watts}
        times[watts] = simulate_training(build_scenario({**document, "training": training})).step_time_s
    assert times[600.0] > times[None]
    assert times[950.0] == pytest.approx(times[None], rel=0.02)


# energy


def test_energy_is_power_times_time_and_between_idle_and_the_limit():
    failures = {"per_gpu_day": 1e-2, "restart_s": 600.0, "spare_nodes": 2}
    one = answer_train(small(tokens=1e12, failures=failures, checkpoints={"stall_s": 5.0}))
    values, run = one.values, one.run
    assert 121.7 < values["power_w_per_gpu"] < 700.0
    assert values["energy_j_per_token"] == pytest.approx(
        values["power_w_per_gpu"] * 16 / (4096 * 128) * values["step_time_s"]
    )
    steps, elapsed = run.productive_s + np.mean(run.lost_s), np.mean(run.elapsed_s)
    still = 16 * 121.7 * (elapsed - steps) + 16 * 121.7 * elapsed  # and two spare nodes of eight
    assert values["energy_j"] == pytest.approx(16 * values["power_w_per_gpu"] * steps + still)
    assert answer_train(small()).values["energy_j"] is None


def test_power_is_what_kernels_of_each_kind_draw():
    """One share for all kinds, waiting included: the mean is that share, whatever the step is made of."""
    even = {"compute": 0.6, "memory": 0.6, "communication": 0.6}
    flat = build_scenario({**SMALL, "power": even})
    assert answer_train(flat).values["power_w_per_gpu"] == pytest.approx(0.6 * 700.0)
    waits = build_scenario({**SMALL, "power": {**even, "communication": 0.2}})
    assert answer_train(waits).values["power_w_per_gpu"] < 0.6 * 700.0
    caps = [
        answer_train(small(power_cap_w=watts)).values["power_w_per_gpu"] for watts in (300.0, 450.0, 600.0)
    ]
    assert caps == sorted(caps)
    assert caps[0] < 300.0
    unknown = {"base": "h100-ib", "gpu": {"base": "h100-sxm", "idle_w": None}}
    values = answer_train(build_scenario({**SMALL, "cluster": unknown})).values
    assert values["power_w_per_gpu"] is None
    assert any("energy is not answered" in text for text in values["caveats"])


# tiers of checkpoints


def run_of(share, interval=60.0, every=3600.0, write=0.0, stall=2.0):
    return simulate_run(
        40 * DAY, num_gpus=1000, step_time_s=1.0, checkpoints=Checkpoints(stall_s=stall, interval_s=interval),
        failures=Failures(per_gpu_day=4e-3, restart_s=60.0), seed=5, storage=Storage(every, write, share),
    )  # fmt: skip


def test_a_failure_that_takes_its_node_s_memory_goes_back_to_storage():
    """To first order half an interval of the tier it goes back to is lost, and what was on its way."""
    plain = simulate_run(
        40 * DAY, num_gpus=1000, step_time_s=1.0, checkpoints=Checkpoints(stall_s=2.0, interval_s=60.0),
        failures=Failures(per_gpu_day=4e-3, restart_s=60.0), seed=5,
    )  # fmt: skip
    none, some, every, late = run_of(0.0), run_of(0.5), run_of(1.0), run_of(1.0, write=1800.0)
    assert np.mean(none.lost_s) == pytest.approx(np.mean(plain.lost_s), rel=0.05)
    lost = [np.mean(one.lost_s) / np.mean(one.failures) for one in (none, some, every, late)]
    assert lost[0] == pytest.approx(30.0, rel=0.05)
    assert lost[1] == pytest.approx(0.5 * 30.0 + 0.5 * 1800.0, rel=0.1)
    assert lost[2] == pytest.approx(1800.0, rel=0.1)
    assert lost[3] == pytest.approx(3600.0, rel=0.1)
    same = run_of(1.0, every=60.0)  # storage as good as memory
    assert np.mean(same.elapsed_s) == pytest.approx(np.mean(plain.elapsed_s), rel=1e-3)


def test_checkpoints_have_sizes_and_times_by_tier():
    tiers = {"memory_gb_per_s": 20.0, "storage_gb_per_s": 0.5, "storage_interval_s": 1800.0}
    failures = {"per_gpu_day": 1e-2, "node_lost": 0.3}
    one = answer_train(small(tokens=1e12, checkpoints=tiers, failures=failures))
    found = one.values["checkpoints"]
    whole = sum(parameters.dense + parameters.experts * 8 for parameters in one.step.parameters)
    own = max(updated(parameters, one.step.training) for parameters in one.step.parameters)
    assert found["bytes_per_gpu"] == pytest.approx(14.0 * own)  # BF16 weights, FP32 master and moments
    assert found["bytes_per_gpu"] * 16 >= 14.0 * whole
    assert found["stall_s"] == pytest.approx(14.0 * own / 20e9)
    assert found["storage_write_s"] == pytest.approx(14.0 * own / 0.5e9)
    kept = answer_train(
        small(tokens=1e12, checkpoints={"memory_gb_per_s": 20.0}, failures={"per_gpu_day": 1e-2})
    )
    assert one.values["availability"] < kept.values["availability"]
    plain = answer_train(small(tokens=1e12, failures={"per_gpu_day": 1e-2}))
    assert set(plain.values["checkpoints"]) == {"interval_s", "stalled_s"}
    assert "to storage every" in train_html(one)


def test_checkpoints_go_to_storage_one_after_the_other():
    """Asked for faster than one gets there, each goes when the last one is there; and that is said."""
    asked = {"stall_s": 1.0, "storage_gb_per_s": 0.01, "storage_interval_s": 60.0}
    one = answer_train(small(tokens=1e12, checkpoints=asked, failures={"per_gpu_day": 1e-2}))
    found = one.values["checkpoints"]
    assert found["storage_write_s"] > 60.0
    assert found["storage_interval_s"] == pytest.approx(found["storage_write_s"])
    words = "checkpoints.storage_interval_s is shorter than one takes there"
    assert any(words in text for text in one.values["warnings"])
    calm = answer_train(small(tokens=1e12, checkpoints={**asked, "storage_interval_s": 6e4}))
    assert not any(words in text for text in calm.values["warnings"])


# searched together


@pytest.mark.parametrize(
    ("changed", "stated"),
    [
        ({"batch_ramp": {**RAMP, "start_sequences": 64}}, {}),
        ({"offload": {"optimizer_fraction": 0.7, "activations_fraction": 0.4}}, {}),
        ({"zero": 3, "dp": 16, "pp": 1}, {"dp_replicate": [1, 2], "zero": [1, 3]}),
        ({"capacity": {"factor": 1.1}}, {"power_cap_w": [None, 450.0]}),
    ],
)
def test_screened_layouts_are_single_steps(changed, stated):
    scenario = small(**changed)
    found = list(layouts(scenario, 16, space_of(scenario, 16, stated), stated))
    chosen = [found[i] for i in np.random.default_rng(1).choice(len(found), 8, replace=False)]
    step_s, memory = figures(scenario, chosen)
    for keys, seconds, held in zip(chosen, step_s, memory, strict=True):
        training = training_with(training_of(scenario), keys)
        one = simulate_training(scenario.model_copy(update={"training": training}))
        exact = keys["moe_overlap"] != "forward-backward"
        assert seconds == pytest.approx(one.step_time_s, rel=1e-3 if exact else 0.15), keys
        assert held == pytest.approx(max(rank.total for rank in one.memory.ranks), rel=1e-9), keys


# bad input


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_ramp": {**RAMP, "start_sequences": 128}}, "start_sequences = 128 must be below"),
        ({"batch_ramp": {**RAMP, "increment_sequences": 36}}, "must divide global_batch_sequences - start"),
        ({"batch_ramp": {**RAMP, "start_sequences": 124, "increment_sequences": 4}}, "multiple of dp x micro"),
        ({"batch_ramp": {**RAMP, "ramp_sequences": 0}}, "training.batch_ramp.ramp_sequences = 0"),
        ({"batch_ramp": {"start_sequences": 32}}, "training.batch_ramp"),
        (
            {"batch_ramp": RAMP, "schedule": "dualpipe-v", "pp": 4, "dp": 4, "virtual_stages": 2, "ep": 4,
             "micro_batch_sequences": 2},
            "training.batch_ramp: schedule dualpipe-v with 32 sequences",
        ),
        ({"dp_replicate": 3}, "dp_replicate = 3 must divide dp x cp = 8"),
        ({"dp_replicate": 2}, "dp_replicate = 2 must divide edp = 1"),
        ({"dp_replicate": 2, "zero": 0}, "needs something that is divided"),
        ({"offload": {"optimizer_fraction": 1.5}}, "training.offload.optimizer_fraction = 1.5"),
        ({"offload": {"optimizer_fraction": 0.5}, "zero": 0}, "needs a divided optimizer"),
        ({"offload": {"optimizer_fraction": 0.5}, "optimizer": {"kind": "muon"}}, "muon is not updated on a host"),
        ({"offload": {"activations_fraction": 0.5}, "recompute": "full"}, "recompute = full keeps no more"),
        ({"capacity": {"factor": 0.0}}, "training.capacity.factor = 0"),
        ({"capacity": {"pad": True}}, "training.capacity.factor"),
        ({"capacity": {"factor": 1.0, "pad": True}}, "DeepEP sends no empty rows; use all_to_all: all-to-all"),
        ({"capacity": {"factor": 1.0, "drop": "worst"}}, "training.capacity.drop"),
        ({"power_cap_w": 100.0}, "training.power_cap_w = 100: must be above cluster.gpu.idle_w = 121.7"),
        ({"power_cap_w": -1.0}, "training.power_cap_w = -1"),
        ({"checkpoints": {"storage_gb_per_s": 1.0}}, "belong together: state both, or neither"),
        ({"checkpoints": {"memory_gb_per_s": 0.0}}, "training.checkpoints.memory_gb_per_s = 0"),
        ({"failures": {"node_lost": 1.2}}, "training.failures.node_lost = 1.2"),
        ({"failures": {"node_lost": 0.5}}, "node_lost = 0.5 does nothing without storage to go back to"),
        ({"checkpoints": {"stall_s": 3.0, "memory_gb_per_s": 20.0}}, "stall_s = 3 and memory_gb_per_s both say"),
        ({"offload": {"device": "nvme"}}, "training.offload.device: unknown key"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(changed, words):
    with pytest.raises(SpecError) as caught:
        answer_train(small(**changed))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_host_that_nobody_knows_is_asked_for():
    document = {**SMALL, "cluster": {"base": "h100-ib", "gpu": {"base": "h100-sxm", "name": "mine"}}}
    document["training"] = {**SMALL["training"], "offload": {"optimizer_fraction": 0.5}}
    document["prices"] = {"usd_per_gpu_hour": 2.0}
    with pytest.raises(SpecError, match=r"host_memory_gb_per_s: missing, and no server of mine is known"):
        answer_train(build_scenario(document))
    document["cluster"]["gpu"]["host_gb_per_s"] = None
    with pytest.raises(SpecError, match=r"cluster\.gpu\.host_gb_per_s, which mine does not state"):
        answer_train(build_scenario(document))


def test_what_a_cap_or_a_capacity_needs_is_named():
    document = {
        **SMALL,
        "power": {},
        "cluster": {"base": "h100-ib", "gpu": {"base": "h100-sxm", "idle_w": None}},
    }
    document["training"] = {**SMALL["training"], "power_cap_w": 500.0}
    with pytest.raises(SpecError, match=r"training\.power_cap_w needs cluster\.gpu\.idle_w"):
        build_scenario(document)
    dense = {"model": {"base": "llama-3.1-70b"}, "cluster": "h100-ib"}
    dense["training"] = {"global_batch_sequences": 8, "capacity": {"factor": 1.0}}
    with pytest.raises(SpecError, match=r"training\.capacity: model llama-3.1-70b has no experts"):
        build_scenario(dense)


@pytest.mark.parametrize(
    ("cluster", "precision", "words"),
    [
        ("h100-ib", "nvfp4", "h100-sxm does not multiply it; use fp8"),
        ("h100-ib", "mxfp8", "h100-sxm does not multiply it; use fp8"),
        ("a100-ib", "fp8", "a100-sxm does not multiply it; use bf16"),
        ("b200-ib", "nvfp4", ""),
        ("b200-ib", "mxfp8", ""),
        ("h100-ib", "fp8", ""),
    ],
)
def test_a_format_that_a_gpu_lacks_is_refused(cluster, precision, words):
    document = {**SMALL, "cluster": cluster, "training": {**SMALL["training"], "precision": precision}}
    document["prices"] = {"usd_per_gpu_hour": 2.0}
    if words:
        with pytest.raises(SpecError, match=words):
            build_scenario(document)
    else:
        plain = simulate_training(build_scenario({**SMALL, "cluster": cluster}))
        narrow = simulate_training(build_scenario(document))
        assert narrow.phases[0].forward.seconds < plain.phases[0].forward.seconds


NUMBERS = st.one_of(st.integers(-2, 200), st.floats(allow_nan=True), st.text(max_size=3), st.none())


@QUICK
@given(
    start=NUMBERS, increment=NUMBERS, over=NUMBERS, groups=NUMBERS, fraction=NUMBERS, share=NUMBERS,
    zero=st.integers(0, 3), recompute=st.sampled_from(["none", "full"]), factor=NUMBERS, watts=NUMBERS,
)  # fmt: skip
def test_any_values_are_taken_or_refused_in_one_line(
    start, increment, over, groups, fraction, share, zero, recompute, factor, watts
):
    asked = {
        "batch_ramp": {"start_sequences": start, "increment_sequences": increment, "ramp_sequences": over},
        "offload": {"optimizer_fraction": fraction, "activations_fraction": share},
        "dp_replicate": groups,
        "capacity": {"factor": factor},
        "power_cap_w": watts,
        "zero": zero,
        "recompute": recompute,
    }
    try:
        scenario = small(**asked)
    except PerfModelError as refused:
        assert "\n" not in str(refused)  # noqa: PT017
        assert "training" in str(refused)  # noqa: PT017
    else:
        assert isinstance(scenario.training, Training)
        assert math.isfinite(scenario.training.offload.optimizer_fraction)


def test_a_training_section_by_itself_is_checked_too():
    with pytest.raises(ValidationError, match="must divide dp x cp"):
        Training(global_batch_sequences=8, dp=4, dp_replicate=3)
