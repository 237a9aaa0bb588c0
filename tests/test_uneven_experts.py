"""Experts that do not divide over their ranks: what each engine makes of them, and loads as experts are placed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_laws import keeps_the_laws

from perfmodel.answers.step import answer_step
from perfmodel.errors import DataError, PerfModelError, SpecError
from perfmodel.load import build_scenario
from perfmodel.ops.memory import weight_bytes
from perfmodel.ops.parameters import expert_parameters
from perfmodel.ops.routed import rank_load
from perfmodel.routing.placement import Placement
from perfmodel.step import predict_steps, simulate_step


def scenario(engine="vllm", *, routing=None, workload=None, **deployment):
    """DeepSeek-V3 on 48 GB200: the layout of many recipes, where 256 experts do not divide."""
    own = {"engine": engine, "attention_dp": 48, "dense_tp": 1, "ep": 48, "batch_per_gpu": 64, **deployment}
    document = {"model": "deepseek-v3", "cluster": "gb200-nvl72", "deployment": own}
    return build_scenario(
        document | ({"routing": routing} if routing else {}) | ({"workload": workload} if workload else {})
    )


# --- where they lie -------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_unequal_ranks_are_those_of_array_split(experts, ranks, seed):
    """numpy's own way of dividing what does not divide: the first parts one longer."""
    if ranks > experts:
        with pytest.raises(DataError, match="without any"):
            Placement(np.arange(experts), experts, ranks, uneven=True)
        return
    placement = Placement(np.arange(experts), experts, ranks, uneven=True)
    parts = np.array_split(np.arange(experts), ranks)
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(experts))
    assert placement.rank_shares(shares) == pytest.approx([shares[part].sum() for part in parts])
    holders = placement.ranks_of(rng, np.arange(experts))
    assert holders.tolist() == [rank for rank, part in enumerate(parts) for _ in part]


def test_even_use_leaves_a_full_rank_its_share_of_experts():
    """6 of 256 on the fullest of 48: 1.125 of the mean, once chance is small."""
    found = scenario(routing={"popularity": "uniform"})
    moe = found.model.moe
    assert rank_load(moe, 1e6, found) == pytest.approx(6 * 48 / 256, rel=0.01)
    assert rank_load(moe, 1e3, found) > 6 * 48 / 256


def test_the_fullest_rank_holds_one_more_expert():
    gathered = {"all_to_all": "all-gather"}  # shared experts are divided then, whatever the others are
    uneven, even = scenario(), scenario(redundant_experts=32, **gathered)
    model = uneven.model
    assert weight_bytes(model, uneven.deployment) == weight_bytes(
        model, even.deployment
    )  # 288 / 48 = 6 as well
    copies = scenario(redundant_experts=80, **gathered)
    layers = sum(run.count for run in model.layers if run.moe)
    more = weight_bytes(model, copies.deployment) - weight_bytes(model, uneven.deployment)
    assert more == pytest.approx(layers * expert_parameters(model.moe, model.hidden_size), rel=1e-12)  # FP8


def test_where_experts_divide_it_is_the_same_to_the_last_bit():
    for sizes in ({"ep": 32, "attention_dp": 32}, {"ep": 64, "attention_dp": 64}):
        own = {**sizes, "all_to_all": "all-gather"}
        plain, stated = (scenario(**own, uneven_experts=flag) for flag in (False, True))
        assert predict_steps(plain).step_time_s == predict_steps(stated).step_time_s
        assert plain.hash != stated.hash
    assert scenario(**own).hash == scenario(**own, uneven_experts=False).hash


def test_all_ranks_and_the_one_that_stands_for_them_agree():
    own = {"routing": {"popularity": "uniform"}, "batch_per_gpu": 256}
    one = simulate_step(scenario(**own)).step_time_s
    every = simulate_step(scenario(**own, ranks="all")).step_time_s
    assert every == pytest.approx(one, rel=0.03)


# --- what engines do ------------------------------------------------------------------------------------------------


def test_vllm_places_them_unequally_and_says_so():
    found = scenario()
    assert found.deployment.uneven_experts
    assert (found.deployment.redundant_experts, found.deployment.backend) == (0, "all-gather")
    text = "256 experts do not divide over ep = 48: vllm gives 16 ranks 6 and the others 5"
    assert text in found.notes
    assert any(text in warning for warning in answer_step(found).values["warnings"])


@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_engines_that_want_equal_ranks_get_the_fewest_copies(engine):
    found = scenario(engine)
    assert found.deployment.redundant_experts == 32
    assert any("redundant_experts = 32, the fewest that do" in text for text in found.notes)
    assert found.hash == scenario(engine, redundant_experts=32).hash


@pytest.mark.parametrize("engine", ["sglang", "trtllm", "vllm"])
def test_stated_redundancy_wins(engine):
    found = scenario(engine, redundant_experts=80)
    assert found.deployment.redundant_experts == 80
    assert not any("expert" in text for text in found.notes)


def test_of_prefill_replicas_too():
    document = {
        "model": "deepseek-v3",
        "cluster": "gb200-nvl72",
        "deployment": {"engine": "sglang", "attention_dp": 32, "ep": 32},
        "prefill": {"deployment": {"attention_dp": 12, "ep": 12}},
    }
    found = build_scenario(document)
    assert found.prefill.deployment.redundant_experts == 8
    assert any(text.startswith("prefill: sglang loads only experts that divide") for text in found.notes)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"engine": "sglang", "redundant_experts": 0}, "(32 would do)"),
        ({"engine": "vllm", "redundant_experts": 40}, "(80 would do)"),
        ({"engine": "vllm", "engine_version": "0.11.0"}, "(32 would do)"),
        ({"engine": ""}, "(32 would do)"),
        ({"engine": "vllm", "all_to_all": "deepep-normal"}, "all_to_all = deepep-normal needs equally many"),
        (
            {"engine": "vllm", "routing": {"placement": "eplb", "popularity": "uniform"}},
            "placement = eplb needs",
        ),
        (
            {"engine": "vllm", "attention_dp": 300, "ep": 300, "uneven_experts": True},
            "exceeds the 256 experts",
        ),
    ],
)
def test_what_no_engine_loads_is_refused_with_the_way_out(keys, said):
    with pytest.raises(SpecError) as error:
        scenario(**keys)
    assert said in str(error.value)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "ep": st.one_of(st.integers(-2, 400), st.none(), st.floats(), st.text(max_size=3)),
            "redundant_experts": st.one_of(st.integers(-2, 400), st.booleans(), st.floats()),
            "uneven_experts": st.one_of(st.booleans(), st.integers(-1, 2), st.none(), st.text(max_size=3)),
            "engine": st.sampled_from(["", "vllm", "sglang", "trtllm"]),
        }
    )
)
def test_whatever_is_stated_is_read_or_told_in_one_line(keys):
    keys |= {"attention_dp": keys["ep"]}
    try:
        found = scenario(**keys)
    except PerfModelError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    assert found.deployment.ep <= 256 + found.deployment.redundant_experts


# --- under traffic --------------------------------------------------------------------------------------------------


def test_traffic_through_unequal_ranks():
    traffic = {"num_requests": 120, "request_rate": 200, "input_tokens": 500, "output_tokens": 40}
    found = scenario(workload=traffic)
    keeps_the_laws(found)
