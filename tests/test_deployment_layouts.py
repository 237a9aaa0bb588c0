"""What people run on pipelines, unlike pools, odd EP and divided contexts: answered, or refused for a reason."""

import pytest
from deployments import case

from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step
from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.ops.limits import limits
from perfmodel.ops.memory import step_memory
from perfmodel.step import predict_steps

FEW = ("workload.num_requests=64",)


def test_d03_tp8_pp2_on_two_nodes_is_served(tmp_path):
    """32 in flight are 16 in each micro-batch: the gap between tokens is the step of 2 per GPU."""
    found = answer_serve(case("d03", tmp_path)).values
    step = case("d03", tmp_path, ("deployment.batch_per_gpu=2", "deployment.context_tokens=2250"))
    assert found["num_gpus"] == 16
    assert found["itl_s"]["p50"] == pytest.approx(float(predict_steps(step).step_time_s[0]), rel=0.01)
    assert 20 < found["tokens_per_s_per_user"]["mean"] < 60
    assert found["usd_per_million_output_tokens"] == pytest.approx(
        16 * 2.0 * found["duration_s"] / 3600 / (64 * 500) * 1e6
    )


def test_d04_deepseek_on_8_h20_fits(tmp_path):
    found = case("d04", tmp_path)
    assert limits(found).per_group >= 8
    assert answer_serve(found).values["completed"] == 32


@pytest.mark.parametrize("name", ["d05", "d07", "d15", "d16", "d17", "d17b", "d18", "d23"])
def test_what_is_answered(name, tmp_path):
    found = answer_serve(case(name, tmp_path, FEW)).values
    assert found["completed"] == 64
    assert 0.0 < found["usd_per_million_output_tokens"] < 200.0
    assert 0.001 < found["tpot_s"]["mean"] < 0.3


def test_d06_as_written_is_refused_with_what_would_do_and_unstated_it_is_filled_in(tmp_path):
    with pytest.raises(
        SpecError, match=r"ep = 48 must divide the 256 routed \+ 0 redundant experts.*32 would do"
    ):
        case("d06", tmp_path)
    stated = answer_step(case("d05", tmp_path)).values
    text = (tmp_path / "d05_dsr1_gb200_dep48.yaml").read_text()
    (tmp_path / "d05b_unstated.yaml").write_text(text.replace(" redundant_experts: 32,", ""))
    unstated = answer_step(case("d05b", tmp_path)).values
    assert unstated["step_time_s"] == stated["step_time_s"]
    assert any("sglang loads only experts that divide" in text for text in unstated["warnings"])
    # the same layout on vLLM holds 6 or 5 on a rank, and its hot experts once each: slower
    sizes = "{engine: vllm, attention_dp: 48, ep: 48, batch_per_gpu: 85, context_tokens: 8704}"
    vllm = answer_step(case("d05", tmp_path, (f"deployment={sizes}", "prefill=null"))).values
    assert vllm["step_time_s"] > stated["step_time_s"]


def test_d10_is_refused_as_the_engine_does(tmp_path):
    with pytest.raises(
        InfeasibleError, match=r"vllm refuses to load it: use deployment.ep=8 with deployment.moe_tp=1"
    ):
        answer_step(case("d10", tmp_path))
    assert answer_step(case("d10", tmp_path, ("deployment.ep=8", "deployment.moe_tp=1"))).values[
        "step_time_s"
    ]


def test_d13_needs_another_gpu_than_the_case_assumes(tmp_path):
    """BF16 weights of 68.8 GB per GPU: an H800's share for the cache is gone; its PR names no GPU."""
    with pytest.raises(InfeasibleError, match=r"beside 68.8 GB of weights per GPU of 84.9"):
        answer_serve(case("d13", tmp_path, FEW))
    assert answer_serve(case("d13", tmp_path, ("cluster=h200-ib", *FEW))).values["completed"] == 64


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "d12",
            r"beside 412.9 GB .*spread weights over more GPUs, or serve FP8 weights: 224.1 GB instead of 412.9",
        ),
        (
            "d24",
            r"beside 88.1 GB .*27.0 of the weights are adapters, fewer with deployment.lora_targets or lora_rank",
        ),
    ],
)
def test_traffic_that_finds_no_cache_is_told_what_helps(name, wanted, tmp_path):
    """What `step` says of the same scenario; nothing that weights larger than the GPU would not be helped by."""
    with pytest.raises(InfeasibleError, match=wanted) as refused:
        answer_serve(case(name, tmp_path, FEW))
    assert "max_batched_tokens" not in str(refused.value)


def test_d16_prompts_on_h100_and_tokens_on_h20(tmp_path):
    found = answer_serve(case("d16", tmp_path, FEW)).values
    assert (found["gpu"], found["prefill"]["gpu"]) == ("h20-sxm", "h100-sxm")
    usd_per_hour = 16 * 2.5 + 16 * found["prefill"]["usd_per_gpu_hour"]
    tokens = found["output_tokens_per_s"] * 3600
    assert found["usd_per_million_output_tokens"] == pytest.approx(usd_per_hour / tokens * 1e6)


def test_d17_prompts_are_divided_and_decode_is_its_own_half(tmp_path):
    whole, half = case("d17", tmp_path), case("d17b", tmp_path)
    assert whole.prefill_side.deployment.context_parallel == 8
    assert answer_step(whole).values["step_time_s"] == answer_step(half).values["step_time_s"]


def test_d18_kimi_k3_in_stages_with_its_cache_divided(tmp_path):
    """TP8 x PP2 with DCP8: MLA layers' latents are divided by 8, KDA's states stay whole (SGLang's page on DCP)."""
    plain = case("d18", tmp_path)
    divided = case("d18", tmp_path, ("deployment.decode_context_parallel=8",))
    before, after = step_memory(plain), step_memory(divided)
    assert after.states == before.states
    assert after.kv_cache == pytest.approx(before.kv_cache / 8)
    assert answer_step(divided).values["step_time_s"] < answer_step(plain).values["step_time_s"]


def test_d23_within_12_percent_of_what_lmsys_published(tmp_path):
    """22,282 output tokens/s per node of 8 H100 (https://lmsys.org/blog/2025-05-05-large-scale-ep/)."""
    found = answer_step(case("d23", tmp_path)).values
    assert found["output_tokens_per_s_per_gpu"] == pytest.approx(2785, rel=0.12)
