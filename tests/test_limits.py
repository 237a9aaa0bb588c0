"""One limit called "fits": what step answers, what the curve reaches, what the slider ends at and what serve runs."""

import numpy as np
import pytest
from command import run_here
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.answers.step import answer_step
from perfmodel.errors import InfeasibleError
from perfmodel.explore.curve import batch_curve, curve_batches
from perfmodel.load import load_scenario
from perfmodel.ops.limits import batch_of, check_runs, limits, requests_per_rank, runs, with_batch
from perfmodel.ops.memory import cache_tokens_per_rank, step_memory, usable_bytes, weight_bytes
from perfmodel.serving.serve import layout_of, serve
from perfmodel.spec.catalogue import names

ALONE = (
    "deployment.attention_dp=1",
    "deployment.ep=1",
    "deployment.overlap=sequential",
    "deployment.mtp.draft_tokens=0",
    "routing={}",
    "calibration=''",
)


def sliced(tp, *set_):
    """Overrides for a model whose every matrix is sliced over ``tp`` GPUs, with one request."""
    layout = [f"deployment.{key}={tp}" for key in ("attention_tp", "dense_tp", "moe_tp")]
    return [*ALONE, *layout, f"deployment.batch_per_gpu={1 / tp}", *set_]


LONGER = "model.max_position_embeddings=400000"


def tensor_parallel(tp, *set_, base="deepseek-v3-h800"):
    return load_scenario(base, sliced(tp, *set_))


def test_the_largest_batch_of_longcat_is_the_dispatch_buffers():
    """161 was printed where 129 is refused: 256 tokens per GPU, two of them per request."""
    scenario = load_scenario("longcat-flash-h800")
    found = limits(scenario)
    assert (found.fits, found.bound_by) == (128, "dispatch buffers")
    assert found.memory > 128
    values = answer_step(with_batch(scenario, 128), over_steps=False).values
    assert (values["max_batch_per_gpu"], values["max_batch_bound_by"]) == (128, "dispatch buffers")
    with pytest.raises(
        InfeasibleError, match=r"low_latency_max_tokens.*that fits: 128 requests per GPU \(dispatch"
    ):
        answer_step(with_batch(scenario, 129))


SCENARIOS = st.fixed_dictionaries(
    {
        "deployment.context_tokens": st.sampled_from([1_000, 5_000, 40_000]),
        "deployment.low_latency_max_tokens_per_gpu": st.sampled_from([32, 128, 512]),
        "serving.max_running": st.sampled_from([16, 128, 2_048]),
        "deployment.all_to_all": st.sampled_from(["auto", "deepep-normal"]),
        "deployment.engine": st.sampled_from(["", "sglang", "trtllm", "vllm"]),
        "deployment.phase": st.sampled_from(["decode", "prefill", "mixed"]),
        "deployment.mtp.draft_tokens": st.integers(0, 2),
        "serving.max_batched_tokens": st.sampled_from([2_048, 16_384]),
        "deployment.attention_tp": st.sampled_from([1, 4, 8]),
    }
)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(["longcat-flash-h800", "deepseek-v3-h800"]), changes=SCENARIOS)
def test_what_fits_is_answered_and_one_more_is_refused_everywhere(name, changes):
    tp = changes["deployment.attention_tp"]
    overrides = [f"{key}={value!r}" for key, value in changes.items()] + ["deployment.overlap=sequential"]
    scenario = load_scenario(
        name, [*overrides, f"deployment.attention_dp={128 // tp}", "deployment.dense_tp=1"]
    )
    found = limits(scenario)
    assert found.fits >= 1 / tp
    assert found.fits * tp == found.per_group
    inside, outside = with_batch(scenario, found.fits), with_batch(scenario, found.fits + 1 / tp)
    check_runs(inside)
    with pytest.raises(InfeasibleError, match=f"that fits: {found.fits:.10g} requests per GPU"):
        check_runs(outside)
    with pytest.raises(InfeasibleError):
        batch_curve(scenario, np.array([1.0, found.fits + 1.0]))
    assert curve_batches(inside)[-1] == curve_batches(outside)[-1] == found.fits
    if scenario.deployment.phase == "decode":
        others = min(found.scheduler, found.scheduler if found.dispatch is None else found.dispatch)
        assert layout_of(scenario).max_running == requests_per_rank(scenario)
        if found.bound_by != "memory":
            assert requests_per_rank(scenario) == others == found.per_group


def test_step_and_curve_answer_at_the_limit():
    scenario = load_scenario("deepseek-v3-h800", ["serving.max_running=96"])
    assert (limits(scenario).fits, limits(scenario).bound_by) == (96, "scheduler")
    assert answer_step(with_batch(scenario, 96), over_steps=False).values["max_batch_per_gpu"] == 96
    assert batch_curve(with_batch(scenario, 96)).batch_per_gpu.max() == 96
    with pytest.raises(InfeasibleError, match=r"97 requests per rank exceed serving.max_running = 96"):
        answer_step(with_batch(scenario, 97))


def test_a_rank_of_several_gpus_shares_its_requests():
    scenario = tensor_parallel(8, "cluster=h200-ib", "serving.max_running=20")
    assert (limits(scenario).scheduler, limits(scenario).fits) == (20, 20 / 8)
    assert runs(with_batch(scenario, 20 / 8))
    assert not runs(with_batch(scenario, 21 / 8))


def test_three_requests_on_eight_gpus_are_three_eighths_per_gpu():
    """0 was printed: whole requests per GPU, where a group of eight shares each of them."""
    overrides = sliced(8, "cluster=h200-ib", "serving.max_running=3")
    scenario = load_scenario("deepseek-v3-h800", overrides)
    found = limits(scenario)
    assert (found.per_group, found.fits, found.bound_by) == (3, 3 / 8, "scheduler")
    values = answer_step(with_batch(scenario, 3 / 8), over_steps=False).values
    assert (values["max_batch_per_gpu"], values["max_batch_bound_by"]) == (3 / 8, "scheduler")
    done = run_here(
        "perfmodel", "step", "deepseek-v3-h800", *(part for one in overrides for part in ("--set", one))
    )
    assert "largest batch that fits: 0.375 per GPU" in " ".join(done.stdout.replace("│", " ").split())
    wanted = r"4 requests per rank.*fits: 0.375 requests per GPU \(scheduler, 3 per attention group of 8\)"
    with pytest.raises(InfeasibleError, match=wanted):
        answer_step(with_batch(scenario, 4 / 8))
    assert list(curve_batches(scenario)) == [1 / 8, 2 / 8, 3 / 8]
    assert requests_per_rank(scenario) == layout_of(scenario).max_running == 3


def test_memory_that_holds_less_than_one_request_per_gpu_still_holds_some():
    scenario = tensor_parallel(8, "cluster=h200-ib", "deployment.context_tokens=400000", LONGER)
    found = limits(scenario)
    assert found.bound_by == "memory"
    assert 0 < found.per_group < 8
    check_runs(with_batch(scenario, found.fits))
    assert not runs(with_batch(scenario, (found.per_group + 1) / 8))
    assert cache_tokens_per_rank(scenario, prompt_tokens=1) // 400_001 == found.per_group


def test_buffers_that_hold_no_request_are_refused_by_step_and_serve_alike():
    scenario = load_scenario("longcat-flash-h800", ["deployment.low_latency_max_tokens_per_gpu=1"])
    assert limits(scenario).fits == 0
    for ask in (check_runs, requests_per_rank, serve):
        with pytest.raises(
            InfeasibleError,
            match=r"exceed deployment.low_latency_max_tokens_per_gpu = 1.*not even one request",
        ):
            ask(scenario)


def test_nothing_that_is_refused_has_a_curve():
    scenario = tensor_parallel(8, "cluster=h100-ib", "deployment.engine=vllm")
    with pytest.raises(InfeasibleError, match="does not fit"):
        curve_batches(scenario)


# --- published facts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "fits"), [("h20-roce", True), ("h200-ib", True), ("h100-ib", False), ("h800-ib", False)]
)
@pytest.mark.parametrize("engine", ["", "vllm", "trtllm"])
def test_deepseek_v3_in_fp8_fits_eight_h20_and_h200_but_not_h100(cluster, fits, engine):
    """https://github.com/vllm-project/vllm/issues/12890 (8 x H20, 96 GB); a checkpoint of 671e9 bytes."""
    assert runs(tensor_parallel(8, f"cluster={cluster}", f"deployment.engine={engine!r}")) is fits


def test_sglang_runs_it_on_h20_with_a_larger_share_than_its_own():
    """Its formula leaves 84.9e9 bytes to weights of 85.3e9: the message says which setting to raise."""
    scenario = tensor_parallel(8, "cluster=h20-roce")
    with pytest.raises(
        InfeasibleError, match=r"raise deployment.memory_utilization \(sglang's mem_fraction_static\)"
    ):
        check_runs(scenario)
    check_runs(tensor_parallel(8, "cluster=h20-roce", "deployment.memory_utilization=0.92"))


def test_longcat_flash_in_fp8_fits_eight_h20_of_141_gb_and_in_bf16_needs_sixteen_h800():
    """https://huggingface.co/meituan-longcat/LongCat-Flash-Chat: one node of 8 x H20-141G, or two of 8 x H800-80G."""
    bf16 = [f"deployment.precision.{name}=bf16" for name in ("linear", "experts")]
    h20 = ["cluster=h20-roce", "cluster.gpu.memory_bytes=150754820096"]
    for engine in ("vllm", "sglang"):
        chosen = f"deployment.engine={engine}"
        assert runs(tensor_parallel(8, chosen, *h20, base="longcat-flash-h800"))
        assert not runs(tensor_parallel(8, chosen, *bf16, base="longcat-flash-h800"))
    assert runs(tensor_parallel(16, "deployment.engine=vllm", *bf16, base="longcat-flash-h800"))


def test_deepseek_in_production_holds_128_requests_of_4989_tokens_per_h800():
    """EP144 with 32 redundant experts, 4,989 tokens per output token on average:
    https://github.com/deepseek-ai/open-infra-index/blob/main/202502OpenSourceWeek/day_6_one_more_thing_deepseekV3R1_inference_system_overview.md
    """
    layout = [
        "deployment.attention_dp=144",
        "deployment.ep=144",
        "deployment.redundant_experts=32",
        "routing={}",
    ]
    scenario = load_scenario(
        "deepseek-v3-h800", [*layout, "deployment.context_tokens=4989", "deployment.engine=''"]
    )
    assert batch_of(scenario) == 128
    check_runs(scenario)
    assert 128 <= limits(scenario).memory < 170


FP8 = ("deployment.precision.linear=fp8", "deployment.precision.experts=fp8")


def test_llama_70b_in_fp8_takes_nine_gigabytes_of_each_of_eight_gpus():
    scenario = tensor_parallel(8, "model=llama-3.1-70b", "cluster=h100-ib", *FP8)
    assert step_memory(scenario).weights == pytest.approx(9.1e9, rel=0.01)


def test_sglangs_cache_of_qwen3_on_four_h100_is_the_published_one():
    """367,404 tokens with --mem-fraction-static 0.93: https://github.com/vllm-project/vllm/issues/21348."""
    share = ["deployment.engine=sglang", "deployment.memory_utilization=0.93"]
    scenario = tensor_parallel(4, "model=qwen3-235b-a22b", "cluster=h100-ib", *FP8, *share)
    assert cache_tokens_per_rank(scenario, prompt_tokens=8192) == pytest.approx(367_404, rel=0.03)


COPIED = {
    "longcat-flash-lite": "its n-gram tables",
    "nemotron-3-super-120b-a12b": "two KV heads, and the projections of the latent that experts work in",
    "step-3": "one KV head, and the latent of all queries",
}
"""Models of which more than 2 % is copied rather than divided -> what."""


@pytest.mark.parametrize("model", [name for name in names("models") if name not in COPIED])
def test_weights_are_divided_over_the_gpus_that_share_them(model):
    """Tensor parallelism of 8, in BF16 so that only what is copied differs: within 2 % of an eighth."""
    formats = [f"deployment.precision.{name}=bf16" for name in ("linear", "experts")]
    whole, sliced = (
        load_scenario(
            "deepseek-v3-h800",
            [
                *ALONE,
                f"model={model}",
                *formats,
                *(f"deployment.{key}={tp}" for key in ("attention_tp", "dense_tp", "moe_tp")),
                f"deployment.batch_per_gpu={1 / tp}",
            ],
        )
        for tp in (1, 8)
    )
    total = weight_bytes(whole.model, whole.deployment)
    assert weight_bytes(sliced.model, sliced.deployment) == pytest.approx(total / 8, rel=0.02)


# --- what an engine takes ------------------------------------------------------------------------------------


def test_memory_counts_what_the_runtime_takes():
    one, eight = (
        step_memory(tensor_parallel(tp, "model=llama-3.1-70b", "cluster=h200-ib")).runtime for tp in (1, 8)
    )
    assert one == (512 + 2 * 512) * 2**20  # the context, and graphs of 512 requests
    assert eight - one == 1946 * 2**20  # process groups
    assert step_memory(load_scenario("reference-cpu")).runtime == 0.0
    wide = load_scenario("longcat-flash-h800", ["serving.max_running=64"])
    assert step_memory(wide).runtime == (512 + 1946 + 512 + 2 * 64) * 2**20  # with NVSHMEM's granule


def test_each_engine_keeps_its_own_share_from_the_cache():
    def usable(*set_):
        return float(usable_bytes(tensor_parallel(8, "cluster=h200-ib", *set_)))

    device, runtime = 150754820096.0, (512 + 1946 + 1024) * 2**20
    assert usable("deployment.engine=''") == device
    assert usable("deployment.engine=vllm") == pytest.approx(0.9 * device + runtime)
    # SGLang: 512 + 1.5 x 8192 + 2 x 512 + 128 x 8 MiB are kept of what is free at the start
    share = round(1.0 - (512 + 1.5 * 8192 + 2 * 512 + 128 * 8) / (device / 2**20), 3)
    memory = step_memory(tensor_parallel(8, "cluster=h200-ib"))
    room = share * (device - (512 + 1946) * 2**20) - memory.weights
    assert usable() == pytest.approx(memory.total - memory.kv_cache + room)
    for engine in ("vllm", "sglang", "trtllm"):
        chosen = f"deployment.engine={engine}"
        assert usable(chosen, "deployment.memory_utilization=0.8") < usable(chosen)
        assert usable(chosen, "deployment.memory_utilization=1.0") == pytest.approx(device)


def test_the_cache_is_what_a_step_could_fill():
    """One rank's tokens and the largest batch come from one account, for every engine."""
    for engine in ("", "vllm", "sglang", "trtllm"):
        scenario = tensor_parallel(
            8, "cluster=h200-ib", f"deployment.engine={engine!r}", "serving.max_running=9999"
        )
        found = limits(with_batch(scenario, 1.0))
        assert found.bound_by == "memory"
        tokens = cache_tokens_per_rank(scenario, prompt_tokens=1, decodes=found.per_group)
        assert found.per_group * 4097 <= tokens < (found.per_group + 1) * 4097 * 1.01
