"""What people run with caches in host memory, adapters, and attention apart: answered, or refused for a reason."""

import pytest
from deployments import case

from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step
from perfmodel.engines.offload import policies
from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.serving.serve import tiers_of


def test_d19_agents_read_what_was_moved_to_host_memory_and_pay_less_than_without(tmp_path):
    """With caches on GPUs that hold less than the sessions' contexts, host memory finds the rest again."""
    few = ("serving.kv_tokens=200000",)
    found, without = (answer_serve(case(name, tmp_path, few)).values for name in ("d19", "d19b"))
    hits = found["cache_hits_by_tier_pct"]
    assert hits["host"] > 10
    assert hits["storage"] == 0
    assert "cache_hits_by_tier_pct" not in without
    assert found["ttft_s"]["mean"] < without["ttft_s"]["mean"]
    assert found["usd_per_million_output_tokens"] <= without["usd_per_million_output_tokens"]


def test_d22_has_16_gpus_on_each_side_and_is_answered(tmp_path):
    few = "workload={num_requests: 20, request_rate: 20, input_tokens: 500, output_tokens: 20}"
    scenario = case("d22", tmp_path, [few, "serving.policy=prefill-first"])
    found = answer_step(scenario).values
    assert found["num_gpus"] == 32
    assert 0.01 < found["step_time_s"] < 0.05
    served = answer_serve(scenario).values
    assert served["num_gpus"] == 32
    assert served["completed"] == served["requests"] > 0


def test_d24_names_the_adapters_that_do_not_fit_and_fits_with_fewer_targets(tmp_path):
    with pytest.raises(InfeasibleError, match=r"of the weights are adapters"):
        answer_step(case("d24", tmp_path))
    smaller = ("deployment.context_tokens=1000", "deployment.lora_targets=[attention]")
    with_adapters = answer_step(case("d24", tmp_path, smaller)).values
    without = answer_step(case("d24", tmp_path, (*smaller, "deployment.lora_adapters=0"))).values
    assert with_adapters["usd_per_million_output_tokens"] > without["usd_per_million_output_tokens"]


def test_a_pipelines_stages_keep_and_read_their_own_layers_part(tmp_path):
    """Two stages on two nodes hold twice the tokens of one, and read a token in half the time."""
    memory = ("serving.host_cache_tokens=0", "serving.host_cache_gb=1000", "serving.storage_cache_gb=1000")
    other = ("serving.offload.storage_gb_per_s=10", "serving.offload.host_node_gb_per_s=50")
    one = tiers_of(case("d19", tmp_path, (*memory, *other)))
    two = tiers_of(case("d19", tmp_path, (*memory, *other, "deployment.pp=2")))
    assert two.host_blocks == pytest.approx(2 * one.host_blocks, abs=1)
    assert two.storage_blocks == one.storage_blocks
    for key in ("host_s", "node_s", "storage_s"):
        assert getattr(two, key) == pytest.approx(getattr(one, key) / 2), key


def test_atom_parks_a_request_until_its_caches_are_loaded_and_keeps_no_states(tmp_path):
    """Its own LMCache connector."""
    sets = ("deployment.engine=atom", "serving.host_cache_tokens=100000")
    amd = tiers_of(case("d19", tmp_path, sets))
    assert (amd.write_back, amd.overlapped, amd.prefetch) == (False, False, False)
    assert policies()["atom"].states


def test_a_draft_model_beside_divided_caches_is_refused(tmp_path):
    sets = (
        "deployment.decode_context_parallel=2",
        "deployment.mtp.draft_tokens=3",
        "deployment.mtp.drafter=deepseek-v3-eagle3",
    )
    with pytest.raises(SpecError, match="a draft model of its own beside divided contexts"):
        case("d04", tmp_path, sets)
