"""What a training step's exchanges are made of, and what sorting and DualPipe's copies cost."""

import pytest

from perfmodel.answers.train import answer_train
from perfmodel.kernels.gradients import _derived, kernel_cost, of_blocks
from perfmodel.kernels.timing import Timing
from perfmodel.load import build_scenario, load_scenario
from perfmodel.ops.op import OpClass, Stream
from perfmodel.spec.training import Training
from perfmodel.training.layout import inner
from perfmodel.training.parameters import Parameters
from perfmodel.training.parts import layer_parts
from perfmodel.training.saved import layer_saved
from perfmodel.training.step import StepBuilder, simulate_training
from perfmodel.training.traffic import gradient_ops, groups, updated
from perfmodel.validation.training_roles import MEASURED, read
from perfmodel.validation.training_setups import qwen_pair

TOKENS, HIDDEN, EXPERTS, RANKS = 4096, 2048, 128, 16


def scenario_of(cluster="h100-ib", **training):
    keys = {"global_batch_sequences": 1024, "dp": RANKS, "ep": RANKS, "all_to_all": "hybrid-ep", **training}
    return build_scenario({"model": "qwen3-30b-a3b", "cluster": cluster, "training": keys})


def parts_of(scenario):
    return layer_parts(scenario.model.layers[0], inner(scenario, scenario.training), scenario.training)


def kernels(part, way):
    return {kernel.op.name: kernel for kernel in getattr(part, way)}


def test_hybrid_ep_puts_rows_in_order_on_its_own_stream():
    """dispatch_with_permute and combine_with_unpermute: what DeepEP leaves to the compute stream is the exchange's, as
    long as before, and gradients go through without a new map.
    """
    (own,) = parts_of(scenario_of()).exchanges
    (other,) = parts_of(scenario_of(all_to_all="deepep-normal")).exchanges
    assert list(kernels(own.dispatch, "forward")) == [
        "dispatch.maps",
        "dispatch.places",
        "dispatch.registered",
        "dispatch",
        "experts.permute",
    ]
    assert list(kernels(own.combine, "forward")) == ["experts.unpermute", "combine"]
    assert list(kernels(own.combine, "input")) == [
        "dispatch.registered",
        "dispatch.backward",
        "experts.unpermute.backward",
    ]
    assert list(kernels(own.dispatch, "input")) == ["experts.permute.backward", "combine.backward"]
    for way, moved in (("forward", ("permute", "unpermute")), ("input", ("unpermute", "permute"))):
        left = {kernel.base.kernel for kernel in getattr(own.experts, way)}
        assert not left & {"permute", "unpermute"}
        assert left | {"permute", "unpermute"} == {
            kernel.base.kernel for kernel in getattr(other.experts, way)
        }
        for part, kernel in zip((own.dispatch, own.combine), moved, strict=True):
            (found,) = (one for one in getattr(part, way) if one.base.kernel == kernel)
            assert found.op.stream == Stream.NETWORK
            assert found.base.stream == Stream.COMPUTE  # costed as the memory-bound kernel that it is
            assert found.op.op_class in (OpClass.DISPATCH, OpClass.COMBINE)


def test_maps_and_copies_move_their_bytes():
    """A boolean per token and expert of 16 ranks; between two nodes same-numbered GPUs swap theirs, 1/16 of it."""
    (exchange,) = parts_of(scenario_of()).exchanges
    found = kernels(exchange.dispatch, "forward")
    size = TOKENS * EXPERTS * RANKS
    maps = found["dispatch.maps"].op
    assert maps.network_bytes == size / RANKS
    assert maps.link_bytes == size * 7 / 8
    assert found["dispatch.places"].op.hbm_bytes == size + 4 * TOKENS * RANKS
    assert found["dispatch.registered"].op.hbm_bytes == 2 * 2 * TOKENS * HIDDEN
    rack = scenario_of("gb200-nvl72")  # one link domain: rows are sent as they lie
    (exchange,) = parts_of(rack).exchanges
    assert "dispatch.registered" not in kernels(exchange.dispatch, "forward")
    assert kernels(exchange.dispatch, "forward")["dispatch.maps"].op.network_bytes == 0.0


def test_recomputed_experts_go_through_the_exchange_again():
    whole, again = (parts_of(scenario_of(recompute=part)).exchanges[0] for part in ("none", ["experts"]))
    before = len(again.experts.input) - len(whole.experts.input)
    assert [kernel.op.name for kernel in again.experts.input[:before]] == [
        kernel.op.name for kernel in (*whole.dispatch.forward, *whole.experts.forward)
    ]


def test_exchanges_of_the_published_profile():
    """Megatron-Bridge's Nsight profile of Qwen3-30B on 16 H100: 9.079 ms of communication beside compute were 0.11 % of
    it, so it took 8.25 s; with the overlap 3.959 s were 36.55 %, so 10.83 s.
    """
    off, on = (row for row in read(MEASURED) if row["model"] == "Qwen3-30B-A3B" and row["seq"])
    took = []
    for row in (off, on):
        step = simulate_training(build_scenario(qwen_pair(row)))
        own = (
            next(iter(step.pairs.values()))
            if step.pairs
            else step.phases[0].forward + step.phases[0].backward
        )
        took.append(step.training.micro_batches * (own.transfer_s["dispatch"] + own.transfer_s["combine"]))
    assert took[0] == pytest.approx(9.079e-3 / 0.0011, rel=0.05)
    assert took[1] == pytest.approx(3.959 / 0.3655, rel=0.05)


def test_heads_norms_are_kernels_of_their_own():
    """Queries of 32 heads and keys of 4, 128 wide: read and written, back read twice and written."""
    attention = parts_of(scenario_of()).attentions[0]
    size = 2 * TOKENS * (32 + 4) * 128
    assert kernels(attention, "forward")["attention0.qk_norm"].op.hbm_bytes == 2 * size
    assert kernels(attention, "input")["attention0.qk_norm.backward"].op.hbm_bytes == 3 * size
    scenario = scenario_of()
    layer, own = scenario.model.layers[0], inner(scenario, scenario.training)
    plain = layer.model_copy(update={"attention": layer.attention.model_copy(update={"qk_norm": False})})
    kept, less = (sum(layer_saved(one, own, scenario.training).values()) for one in (layer, plain))
    assert kept - less == size
    names = kernels(layer_parts(plain, own, scenario.training).attentions[0], "forward")
    assert "attention0.qk_norm" not in names
    replayed = parts_of(scenario_of(recompute=["norms"])).attentions[0]
    assert "attention0.norm" in kernels(replayed, "input")
    assert "attention0.qk_norm" not in kernels(replayed, "input")


def test_a_kernel_of_few_blocks_gets_their_share_of_the_bandwidth():
    cluster = scenario_of().cluster
    timing = Timing(latency_s=3e-6, memory_s=1e-6)
    assert of_blocks(timing, 4, cluster).seconds == pytest.approx(3e-6 + 1e-6 * 132 / 4)
    assert of_blocks(timing, 4, cluster).memory_s == timing.memory_s  # others have the rest
    assert of_blocks(timing, 500, cluster).seconds == timing.seconds


def test_deepseeks_kernels_sort_what_arrives():
    """Two scans of all rows' choices by one block per expert: 0.24 ms a layer in the trace."""
    scenario = load_scenario("deepseek-v3-train-h800")
    builder = StepBuilder(scenario, scenario.training)
    layer = builder.layer_chain(scenario.model.layers[-1]).layers[0]
    found = kernels(layer.exchanges[0].experts, "forward")
    count, order = found["experts.count"], found["experts.order"]
    rows = found["experts.permute"].op.shape["tokens"]
    assert count.op.hbm_bytes == pytest.approx(8 * 8 * rows * 4)
    assert order.op.hbm_bytes == pytest.approx(count.op.hbm_bytes + 4 * 8 * rows)
    seconds = sum(float(builder.costing.alone(one).seconds) for one in (count, order))
    assert seconds == pytest.approx(0.24e-3, rel=0.2)
    plain = load_scenario("deepseek-v3-train-h800", ["training.fp8_kernels=calibrated"])
    builder = StepBuilder(plain, plain.training)
    layer = builder.layer_chain(plain.model.layers[-1]).layers[0]
    assert "experts.count" not in kernels(layer.exchanges[0].experts, "forward")


def test_dualpipes_second_copy_is_a_data_parallel_rank():
    """Gradients of a stage are one sum over both ranks that hold it: twice the ranks, each of which updates half."""
    one = Parameters(3e9, 2e9)
    single, double = (
        Training(global_batch_sequences=1024, dp=16, ep=4, pp=4, schedule=name, zero=1)
        for name in ("1f1b", "dualpipe")
    )
    cluster = scenario_of().cluster
    before, after = ([group.ranks for group in groups(one, own, cluster)] for own in (single, double))
    assert (before, after) == ([16, 4], [32, 8])
    assert updated(one, double) == updated(one, single) / 2
    # copies lie on other pipeline ranks: as many as before share a link domain
    assert [g.near for g in groups(one, single, cluster)] == [g.near for g in groups(one, double, cluster)]
    alone = Training(global_batch_sequences=64, dp=1, pp=4, schedule="dualpipe", zero=0)
    (summed,) = gradient_ops(Parameters(1e9, 0.0), alone, cluster)
    assert summed.kernel == "all_reduce"
    assert summed.network_bytes == pytest.approx(2 * 4e9 / 2)  # all of it, to the one other rank
    assert not gradient_ops(Parameters(1e9, 0.0), alone.model_copy(update={"schedule": "1f1b"}), cluster)


def test_deepseeks_optimizer_phase():
    """0.29 s published: the update of 1/256 of the weights, gradients and weights on their way with nothing beside."""
    step = simulate_training(load_scenario("deepseek-v3-train-h800"))
    tail = max(step.tails, key=lambda one: one.seconds)
    assert tail.optimizer_s < 0.01
    assert tail.seconds == pytest.approx(0.29, rel=0.3)


def test_the_model_zoos_rows():
    """All are answered; those that are far off are launched by a host kernel by kernel, or on GB200."""
    from perfmodel.validation.training import _zoo

    rows = list(_zoo())
    rates = {row.id: row for row in rows if row.quantity == "model_flops_per_s_per_gpu"}
    assert len(rates) == 12
    assert all(row.predicted and row.low < row.predicted < row.high for row in rates.values())
    assert sum(row.low <= row.measured <= row.high for row in rates.values()) == 10
    unseen = {name for name, row in rates.items() if row.role == "check"}
    assert unseen == {"zoo 6", "zoo 7", "zoo 12"}  # docs/train.md's table says which
    errors = {name: row.predicted / row.measured - 1.0 for name, row in rates.items()}
    far = {name for name, error in errors.items() if abs(error) > 0.13}
    assert far == {"zoo 2", "zoo 5", "zoo 6", "zoo 11", "zoo 12"}
    assert abs(errors["zoo 7"]) < 0.06  # check: H100's constant never saw it
    (gain,) = (row for row in rows if row.quantity == "step_time_saved_pct")
    assert gain.measured == pytest.approx(100 * (1 - 17.6 / 19.7))


def test_h100s_constant_is_on_what_it_was_fitted_on():
    """Mean error zero over the fit rows; BF16 and bytes, not transfers, narrow products or other GPUs."""
    from calibrate.tables.training_steps import errors
    from perfmodel.kernels.training_rows import in_step

    own = errors("H100-SXM")
    assert len(own) == 4
    assert abs(sum(own)) / 4 < 2e-3
    factor = in_step("H100-SXM")
    assert 1.1 < factor < 1.25
    for cluster, precision, scaled in (
        ("h100-ib", "bf16", True),
        ("h100-ib", "fp8", False),
        ("h800-ib", "bf16", False),
    ):
        scenario = scenario_of(cluster, precision=precision)
        cost = scenario.cluster
        parts = parts_of(scenario)
        for name, always in (("attention0.qkv", False), ("attention0.norm", True)):
            kernel = kernels(parts.attentions[0], "forward")[name]
            alone = _derived(kernel, cost, "roofline", None, False).seconds
            expected = factor if cluster == "h100-ib" and (scaled or always) else 1.0
            assert kernel_cost(kernel, cost).seconds == pytest.approx(expected * alone)
        sent = kernels(parts.exchanges[0].dispatch, "forward")["dispatch"]
        assert kernel_cost(sent, cost).seconds == _derived(sent, cost, "roofline", None, False).seconds


def test_the_answer_says_where_a_host_may_set_the_pace():
    """A layer of Qwen3-30B takes 5 to 7 ms on H100, one of DeepSeek-V3 on H800 some 30."""
    for scenario, told in ((scenario_of(), True), (load_scenario("deepseek-v3-train-h800"), False)):
        warnings = answer_train(scenario).values["warnings"]
        assert any("ms forwards and backwards: without CUDA graphs" in one for one in warnings) == told
