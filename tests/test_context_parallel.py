"""Context parallelism: prompts divided by tokens, and caches divided by tokens in decode; counts, memory, traffic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_laws import keeps_the_laws

from perfmodel.errors import PerfModelError, SpecError
from perfmodel.load import build_scenario
from perfmodel.ops.memory import step_memory
from perfmodel.ops.work import divided, step_work
from perfmodel.serving.serve import kv_tokens_of, layout_of, serve
from perfmodel.serving.step_times import TwinStepTimes
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import predict_steps, simulate_step, step_segments

LATENT = 512 + 64


def built(model="deepseek-v3", **deployment):
    return build_scenario({"model": model, "cluster": "h200-ib", "deployment": deployment})


def prompts(ranks, tokens=8192, *, model="deepseek-v3", requests=0.125, **more):
    """A prompt per attention group of 8, divided over ``ranks`` of its GPUs."""
    sizes = {"attention_tp": 8, "moe_tp": 8, "prefill_requests_per_gpu": requests, "prefill_tokens": tokens}
    own = {"engine": "sglang", "phase": "prefill", "context_parallel": ranks, **sizes, **more}
    return built(model, **own)


def decodes(shards, context=100_000, batch=16, *, model="deepseek-v3", **more):
    sizes = {"attention_tp": 8, "moe_tp": 8, "batch_per_gpu": batch / 8, "context_tokens": context}
    return built(model, **{"engine": "vllm", "decode_context_parallel": shards, **sizes, **more})


def ops_of(scenario, name):
    """Ops of a name in one layer with experts."""
    segments = [one for one in step_segments(scenario) if one.name.startswith("layers")]
    return [task.op for task in segments[-1].tasks if task.op.name == f"attention0.{name}"]


def op_of(scenario, name):
    (found,) = ops_of(scenario, name)
    return found


def step_s(scenario):
    return float(predict_steps(scenario).step_time_s[0])


# --- prompts --------------------------------------------------------------------------------------------------------


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 40), st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_zigzag_gives_every_rank_the_pairs_that_are_counted(ranks, piece, cached):
    """By counting: 2 c pieces, rank r has the r-th from the front and from the back; query i sees cached + i + 1."""
    tokens = 2 * ranks * piece
    sees = cached + 1.0 + np.arange(tokens)
    pieces = sees.reshape(2 * ranks, piece).sum(axis=1)
    by_rank = [pieces[rank] + pieces[-1 - rank] for rank in range(ranks)]
    assert by_rank == pytest.approx([by_rank[0]] * ranks)
    own = prompts(ranks, float(tokens), prefill_cached_tokens=float(cached)).deployment
    (group,) = step_work(divided(own)).groups
    assert group.attended_pairs() * divided(own).attention_tp == pytest.approx(by_rank[0], rel=1e-9)
    assert group.read_keys() == pytest.approx(cached + tokens, rel=1e-12)
    assert group.tokens == step_work(own).groups[0].tokens


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_core_is_divided_whichever_way(ranks):
    """Heads or tokens: the same multiplications on each GPU, but for the diagonal's half."""
    whole, part = (op_of(prompts(c), "prefill_core").flops for c in (1, ranks))
    assert part == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_what_every_rank_does_again(ranks):
    """Each rank expands the latents of all tokens for its heads: c times as much, which CP costs with MLA."""
    whole, part = (op_of(prompts(c), "kv_b").flops for c in (1, ranks))
    assert part == pytest.approx(ranks * whole, rel=1e-12)


@pytest.mark.parametrize(
    ("model", "ranks", "per_token"),
    [
        ("deepseek-v3", 2, LATENT),
        ("deepseek-v3", 8, LATENT),
        ("qwen3-235b-a22b", 2, 2 * 1 * 128),
        ("qwen3-235b-a22b", 4, 2 * 2 * 128),
    ],
)
def test_keys_and_values_are_gathered(model, ranks, per_token):
    """BF16, of 8,192 tokens: what each rank lacks comes over the link. Qwen3's 4 KV heads over TP of 4 and 2."""
    own = prompts(ranks, model=model, ep=8, moe_tp=1)
    gathered = op_of(own, "kv_gather")
    assert gathered.link_bytes == pytest.approx(8192 * per_token * 2 * (ranks - 1) / ranks, rel=1e-12)
    assert gathered.shape["ranks"] == ranks
    assert not ops_of(prompts(1, model=model, ep=8, moe_tp=1), "kv_gather")


def test_caches_of_a_divided_prompt_are_whole_on_every_rank():
    """MLA's latents are anyway; Qwen3's KV heads, once sliced over 8, are sliced over 8 / c."""
    for ranks, heads in ((1, 1), (2, 1), (4, 2), (8, 4)):
        own = prompts(ranks, model="qwen3-235b-a22b", ep=8, moe_tp=1)
        assert step_memory(own).kv_cache == pytest.approx(94 * 2 * heads * 128 * 2 * 8192)
        assert step_memory(prompts(ranks)).kv_cache == step_memory(prompts(1)).kv_cache


def test_weights_of_attention_are_whole_where_heads_are():
    one, eight = (float(step_memory(prompts(c)).weights) for c in (1, 8))
    same = built(
        engine="sglang", phase="prefill", attention_dp=8, dense_tp=8, moe_tp=8, prefill_requests_per_gpu=1
    )
    assert eight == float(step_memory(same).weights)
    assert eight > one


def test_an_indexer_that_every_rank_repeats_is_divided():
    """What CP is for with DSA (SGLang's documentation): index scores of every head on every rank of a TP group."""
    own = {"model": "longcat-2.0", "ep": 8, "moe_tp": 1}
    whole, part = (
        sum(
            float(op.flops)
            for segment in step_segments(prompts(c, 32768.0, **own))
            for op in (t.op for t in segment.tasks)
            if "index" in op.name
        )
        for c in (1, 8)
    )
    assert part == pytest.approx(whole / 8, rel=0.01)


def test_long_prompts_alone_gain_over_data_parallel_attention():
    """One prompt, eight GPUs: of data-parallel attention one of them has it all; a short one gains little."""
    speedups = []
    for tokens in (256.0, 32768.0):
        alone = built(
            engine="sglang", phase="prefill", attention_dp=8, dense_tp=8, moe_tp=8,
            prefill_requests_per_gpu=1, prefill_tokens=tokens,
        )  # fmt: skip
        core = sum(op.flops for op in ops_of(alone, "prefill_core"))
        assert core == pytest.approx(8 * op_of(prompts(8, tokens), "prefill_core").flops, rel=0.01)
        speedups.append(step_s(alone) / step_s(prompts(8, tokens, dense_tp=8)))
    assert speedups[1] > 3.0 > speedups[0]


def test_an_array_of_prompts_is_each_of_them():
    tokens = np.array([100.0, 2048.0, 30000.0])
    own = prompts(4)
    together = predict_steps(with_arrays(own, {"deployment.prefill_tokens": tokens})).step_time_s
    alone = [step_s(prompts(4, float(n))) for n in tokens]
    assert together == pytest.approx(alone, rel=1e-12)


# --- in a ring ------------------------------------------------------------------------------------------------------


def ring(ranks, tokens=8192.0, **more):
    return prompts(ranks, tokens, cp_exchange="ring", **more)


def slow_link(scenario, gb_per_s):
    """Without contention, so that a step is arithmetic."""
    node = scenario.cluster.node.model_copy(update={"link_gb_per_s": gb_per_s})
    cluster = scenario.cluster.model_copy(update={"node": node})
    own = scenario.deployment.model_copy(update={"contention": False})
    return scenario.model_copy(update={"cluster": cluster, "deployment": own})


def rounds_of(segment, ranks):
    """(pass, block, merge) seconds of each round of one layer."""
    found = [dict.fromkeys(("pass", "block", "merge"), 0.0) for _ in range(ranks)]
    for task, timing in zip(segment.tasks, segment.timings, strict=True):
        part = task.op.name.split(".")
        if len(part) == 3 and part[1].startswith("ring"):
            key = part[2] if part[2] in ("pass", "merge") else "block"
            found[int(part[1][4:])][key] += float(np.max(timing.seconds))
    return found


@given(st.sampled_from([2, 4, 8]), st.integers(1, 10), st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_every_round_of_a_zigzag_ring_has_the_pairs_that_are_counted(ranks, piece, cached):
    """By counting, rank by rank and round by round: queries of pieces r and 2c - 1 - r against keys of s and
    2c - 1 - s, and a c-th of the cache."""
    tokens = 2 * ranks * piece
    position = np.arange(tokens).reshape(2 * ranks, piece)
    held = [np.concatenate([position[rank], position[-1 - rank]]) for rank in range(ranks)]
    own = ring(ranks, float(tokens), prefill_cached_tokens=float(ranks * cached)).deployment
    (group,) = step_work(divided(own)).groups
    expected = group.attended_pairs() * divided(own).attention_tp
    for queries in held:
        for keys in held:
            seen = (keys[None, :] <= queries[:, None]).sum() + len(queries) * cached
            if keys is not queries:  # the diagonal's half is of the rank's own
                seen += len(queries) / 2.0
            assert seen == pytest.approx(expected, rel=1e-9)
    assert group.read_keys() == tokens / ranks + cached


@pytest.mark.parametrize(
    ("model", "ranks", "width"), [("deepseek-v3", 4, LATENT), ("qwen3-235b-a22b", 4, 2 * 2 * 128)]
)
def test_a_ring_passes_on_what_an_all_gather_brings(model, ranks, width):
    """c - 1 blocks of keys and values, BF16; of a cached prefix each rank's part goes along."""
    own = {"model": model, "ep": 8, "moe_tp": 1}
    gathered = op_of(prompts(ranks, **own), "kv_gather").link_bytes
    passes = [op_of(ring(ranks, **own), f"ring{turn}.pass").link_bytes for turn in range(ranks - 1)]
    assert passes == pytest.approx([8192 / ranks * width * 2] * (ranks - 1), rel=1e-12)
    assert sum(passes) == pytest.approx(gathered, rel=1e-12)
    assert not ops_of(ring(ranks, **own), "kv_gather") + ops_of(ring(ranks, **own), f"ring{ranks - 1}.pass")
    warm = op_of(ring(ranks, prefill_cached_tokens=4096.0, **own), "ring0.pass").link_bytes
    assert warm == pytest.approx(1.5 * passes[0], rel=1e-12)


@pytest.mark.parametrize("gb_per_s", [450.0, 2.0, 0.2])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_layer_takes_the_longer_of_block_and_pass_in_every_round(ranks, gb_per_s):
    """Two ranks: max(block, pass) + block + merge. Everything else of the layer follows."""
    own = slow_link(ring(ranks, 16384.0, engine=""), gb_per_s)
    segments, expected, hidden = step_segments(own), 0.0, []
    for one in segments:
        alone = sum(float(np.max(timing.seconds)) for timing in one.timings)
        for turn in rounds_of(one, ranks) if one.layers else ():
            behind = turn["block"] + turn["merge"]
            alone -= min(turn["pass"], behind)
            hidden += [turn["pass"] < behind] if turn["pass"] else []
        expected += one.repeat * alone
    assert step_s(own) == pytest.approx(expected, rel=1e-9)
    assert simulate_step(own).step_time_s == pytest.approx(expected, rel=1e-9)
    assert all(hidden) if gb_per_s > 100.0 else not any(hidden) if gb_per_s < 1.0 else hidden


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_an_infinitely_fast_network_makes_ring_and_all_gather_equal(ranks):
    """But for the merges of partial outputs, and kernels' fixed times: c cores instead of one, one gather instead of
    passes."""
    tokens = 131072.0
    steps = [
        slow_link(one(ranks, tokens, engine=""), 1e9).model_copy(update={"calibration": ""})
        for one in (prompts, ring)
    ]
    gathered, passed = (step_s(one) for one in steps)
    merges = sum(
        segment.repeat * sum(turn["merge"] for turn in rounds_of(segment, ranks))
        for segment in step_segments(steps[1])
        if segment.layers
    )
    assert passed - merges == pytest.approx(gathered, rel=2e-3)
    assert merges > 0.0


def test_a_ring_holds_each_key_once():
    for ranks in (2, 4, 8):
        assert step_memory(ring(ranks)).kv_cache == pytest.approx(
            step_memory(prompts(ranks)).kv_cache / ranks
        )
        blocks = 2 * 2 * 8192 / ranks * LATENT
        more = step_memory(ring(ranks)).activations - step_memory(prompts(ranks)).activations
        assert more == pytest.approx(blocks, rel=1e-9)


def test_a_ring_of_one_is_no_ring():
    stated, plain = ring(1), prompts(1)
    assert step_segments(stated) == step_segments(plain)
    assert step_memory(stated) == step_memory(plain)
    assert prompts(4, cp_exchange="all-gather").hash == prompts(4).hash != ring(4).hash


def test_a_ring_over_nodes_waits_for_the_network():
    inside, outside = (
        op_of(ring(ranks, attention_tp=ranks, moe_tp=ranks, requests=1 / ranks), "ring0.pass")
        for ranks in (8, 16)
    )
    assert inside.network_bytes == 0.0 < inside.link_bytes
    assert outside.link_bytes == 0.0 < outside.network_bytes


def test_a_ring_under_longcats_schedule():
    """Twin and timeline agree where rounds stand beside experts, too."""
    own = ring(4, 32768.0, model="longcat-flash", overlap="sbo", ep=8, moe_tp=1)
    assert simulate_step(own).step_time_s == pytest.approx(step_s(own), rel=1e-6)
    assert step_s(own) < step_s(ring(4, 32768.0, model="longcat-flash", ep=8, moe_tp=1))


# --- caches in decode -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_a_shard_reads_its_part_with_all_heads(shards):
    whole, part = (op_of(decodes(k), "core") for k in (1, shards))
    assert part.flops == pytest.approx(whole.flops, rel=1e-3)
    assert part.shape["heads"] == shards * whole.shape["heads"]
    cache = LATENT * 2
    out = 2 * 16 * 16 * (LATENT + 512)  # 16 requests, 128 / 8 heads
    assert whole.hbm_bytes == pytest.approx(16 * 100_001 * cache + out, rel=1e-9)
    assert part.hbm_bytes == pytest.approx(16 * (100_000 / shards + 1) * cache + shards * out, rel=1e-9)


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_what_shards_exchange(shards):
    """16 requests, 16 heads on each GPU: queries of all the shard group's heads, their log-sum-exps, their outputs."""
    own, share = decodes(shards), (shards - 1) / shards
    heads = 16 * shards
    assert op_of(own, "dcp_gather").link_bytes == pytest.approx(16 * heads * LATENT * 2 * share)
    assert op_of(own, "dcp_gather_lse").link_bytes == pytest.approx(16 * heads * 4 * shards * share)
    assert op_of(own, "dcp_merge").link_bytes == pytest.approx(16 * heads * 512 * 2 * share)
    assert not ops_of(decodes(1), "dcp_gather")


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_so_many_times_the_tokens_fit(shards):
    assert kv_tokens_of(decodes(shards)) == pytest.approx(shards * kv_tokens_of(decodes(1)), rel=1e-5)
    one, part = (step_memory(decodes(k)).kv_cache for k in (1, shards))
    assert part == pytest.approx(one / shards, rel=1e-12)


def test_long_contexts_gain_and_short_ones_lose():
    short, long = ([step_s(decodes(k, context)) for k in (1, 8)] for context in (1024, 100_000))
    assert short[1] > short[0]
    assert long[1] < 0.7 * long[0]


def test_a_cached_prefix_is_gathered_for_a_prompt():
    own = {
        "attention_tp": 8,
        "moe_tp": 8,
        "phase": "prefill",
        "prefill_requests_per_gpu": 0.125,
        "prefill_tokens": 1000.0,
    }
    cold, warm = (
        built(engine="vllm", decode_context_parallel=4, prefill_cached_tokens=cached, **own)
        for cached in (0.0, 5000.0)
    )
    assert not ops_of(cold, "dcp_context")
    assert op_of(warm, "dcp_context").link_bytes == pytest.approx(5000 * LATENT * 2 * 3 / 4)


def test_grouped_queries_too():
    """Qwen3-235B: 4 KV heads over TP of 8 lie twice each, so caches are divided by two and no more."""
    sizes = {"model": "qwen3-235b-a22b", "ep": 8, "moe_tp": 1, "context": 30_000}
    whole, part = (decodes(k, **sizes) for k in (1, 2))
    assert step_memory(part).kv_cache == pytest.approx(step_memory(whole).kv_cache / 2)
    assert op_of(part, "dcp_gather").link_bytes == pytest.approx(16 * 16 * 128 * 2 / 2)
    with pytest.raises(
        SpecError, match="exceeds the copies of each KV head: attention_tp = 8 over 4 KV heads allows 2"
    ):
        decodes(4, **sizes)


# --- one of each is none --------------------------------------------------------------------------------------------


SAME = {"attention_tp": 8, "moe_tp": 8}
PROMPT = {"phase": "prefill", "prefill_requests_per_gpu": 0.125, "prefill_tokens": 8192}


def test_one_rank_is_what_there_was_before():
    for stated, plain in (
        (prompts(1), built(**SAME, **PROMPT, engine="sglang")),
        (decodes(1), built(**SAME, engine="vllm", batch_per_gpu=2, context_tokens=100_000)),
    ):  # fmt: skip
        assert stated.hash == plain.hash
        assert step_s(stated) == step_s(plain)


# --- under traffic --------------------------------------------------------------------------------------------------

TRAFFIC = {
    "num_requests": 40,
    "request_rate": 20,
    "input_tokens": {"mean": 3000, "std": 1500},
    "output_tokens": 30,
}
APART = {
    "engine": "sglang", "phase": "prefill", "context_parallel": 8, "attention_tp": 8, "moe_tp": 8, "dense_tp": 8,
}  # fmt: skip


def served_apart(workload=TRAFFIC, **prefill):
    """InferenceX's glm5.2-fp8-h200 2P2D, with DeepSeek-V3: prefill CP8, decode DP8 with expert TP8."""
    decode = {
        "engine": "sglang", "attention_dp": 8, "moe_tp": 8, "dense_tp": 8, "batch_per_gpu": 2,
        "context_tokens": 65536, "mtp": {"draft_tokens": 3, "acceptance": 0.8},
    }  # fmt: skip
    document = {"model": "deepseek-v3", "cluster": "h200-ib", "deployment": decode, "workload": workload}
    return build_scenario({**document, "prefill": {"deployment": {**APART, **prefill}}})


def test_prompts_of_a_replica_take_what_step_says():
    side = served_apart().prefill_side
    times = TwinStepTimes(side, most_requests=8, most_prompt=8192, most_context=8192)
    alone = step_s(prompts(8, 4096.0, dense_tp=8))
    assert times.prompt_s(4096.0, 4096.0 * 2048.0, 0, 0.0) == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize(
    "own",
    [
        served_apart(),
        served_apart(context_parallel=2),
        served_apart(cp_exchange="ring"),
        decodes(8).model_copy(update={"workload": served_apart().workload}),
    ],
    ids=["prompts divided by 8", "by 2", "in a ring", "caches divided by 8"],
)
def test_everything_holds_under_traffic(own):
    keeps_the_laws(own)
    assert layout_of(own).blocks > 0


PARALLEL, TP2 = {"moe_tp": 1, "ep": 8}, {"attention_tp": 2, "attention_dp": 4}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: prompts(3), "context_parallel = 3 must divide attention_tp = 8"),
        (lambda: decodes(16), "decode_context_parallel = 16 must divide attention_tp = 8"),
        (lambda: decodes(1, context_parallel=2), "needs phase: prefill, not decode"),
        (lambda: prompts(2, model="qwen3.5-397b-a17b", **PARALLEL, **TP2), "layers hand states"),
        (lambda: decodes(2, model="gpt-oss-120b"), "attention with windows, selection or compressed"),
        (lambda: decodes(2, model="longcat-2.0", **PARALLEL), "attention with windows, selection or compressed"),
        (lambda: ring(2, overlap="tbo", ep=8, moe_tp=1), "without overlap = tbo"),
        (lambda: ring(2, decode_context_parallel=2), "cp_exchange = ring is modelled with decode_context_parallel = 1"),
        (lambda: ring(2, model="gpt-oss-120b"), "cp_exchange = ring: attention with windows or selection"),
        (lambda: ring(2, model="longcat-2.0", **PARALLEL), "cp_exchange = ring: attention with windows or selection"),
        (lambda: prompts(2, cp_exchange="circle"), "deployment.cp_exchange"),
        (lambda: serve(prompts(2)), "replicas that decode too do not divide prompts"),
    ],
)  # fmt: skip
def test_what_is_not_modelled_is_refused(make, said):
    with pytest.raises(PerfModelError) as error:
        make()
    assert said in str(error.value)


SIZES = st.one_of(st.integers(-3, 20), st.none(), st.floats(), st.booleans(), st.text(max_size=3))


@settings(max_examples=80, deadline=None)
@given(
    SIZES,
    SIZES,
    st.sampled_from(["decode", "prefill", "mixed"]),
    st.sampled_from([1, 2, 6, 8]),
    st.one_of(st.sampled_from(["ring", "all-gather"]), SIZES),
)
def test_whatever_is_stated_is_read_or_told_in_one_line(prompt, cache, phase, tp, exchange):
    keys = {
        "cp_exchange": exchange,
        "context_parallel": prompt,
        "decode_context_parallel": cache,
        "phase": phase,
        "attention_tp": tp,
    }
    try:
        found = built(engine="vllm", **keys)
    except PerfModelError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    assert tp % found.deployment.context_parallel == tp % found.deployment.decode_context_parallel == 0
