"""The reference model runs what perfmodel counts: kernel for kernel, shape for shape."""

from collections import Counter

import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch

from calibrate.device.needs import load_model, reference_scenario
from calibrate.device.steps import Models, StepCase, build_step, draw_steps, forced_ids
from perfmodel.step import step_segments
from reference_model import kernels
from reference_model.config import SIZES

torch.set_num_threads(1)

CASES = {
    "decode": StepCase("tiny", "fp32", "step", "decode", 4, batch=6, context=20),
    "verify drafts": StepCase("tiny", "fp32", "step", "decode", 2, batch=3, new_tokens=3, context=9),
    "prefill": StepCase("tiny", "fp32", "step", "prefill", 3, prefill_requests=2, prefill_tokens=8),
    "chunk": StepCase(
        "tiny", "fp32", "step", "prefill", 6, prefill_requests=1, prefill_tokens=8, prefill_cached=16
    ),
    "mixed": StepCase(
        "tiny", "fp32", "step", "mixed", 4, batch=5, context=30, prefill_requests=1, prefill_tokens=12
    ),
    "sparse decode": StepCase("lsa-tiny", "fp32", "step", "decode", 4, batch=6, context=50),
    "sparse verify": StepCase("lsa-tiny", "fp32", "step", "decode", 2, batch=3, new_tokens=3, context=9),
    "sparse prompt": StepCase(
        "lsa-tiny", "fp32", "step", "prefill", 3, prefill_requests=2, prefill_tokens=80
    ),
    "sparse mixed": StepCase(
        "lsa-tiny",
        "fp32",
        "step",
        "mixed",
        4,
        batch=5,
        context=70,
        prefill_requests=1,
        prefill_tokens=12,
        prefill_cached=30,
    ),
}


def shapes():
    """Function of reference_model.kernels -> kernel class and shape of a call."""

    def attention(query, keys, **widths):
        batch, new, heads = query.shape[:3]
        return {"requests": batch, "new_tokens": new, "context": keys.shape[1], "heads": heads, **widths}

    def sparse(query, rotated, cache, ids, _):
        new, keys = ids.shape[1], cache.shape[1]
        attended = (ids <= torch.arange(keys - new, keys)[:, None]).float().sum(dim=-1).mean()
        widths = {"latent": query.shape[3], "rope": rotated.shape[3], "selected": attended}
        return f"mla_sparse_{'decode' if new <= 3 else 'prefill'}", attention(query, cache, **widths)

    return {
        "linear": lambda x, w: ("gemm", {"m": x.numel() // x.shape[-1], "n": w.shape[0], "k": w.shape[1]}),
        "absorb": lambda x, w: (
            "bmm",
            {"groups": x.shape[1], "m": x.shape[0], "n": w.shape[2], "k": w.shape[1]},
        ),
        "grouped_linear": lambda x, w, counts: (
            "grouped_gemm",
            {"rows": x.shape[0], "n": w.shape[1], "k": w.shape[2]},
        ),
        "add_norm": lambda x, *_: ("norm", {"rows": x.shape[0], "width": x.shape[1]}),
        "latent_norm": lambda x, q, c, eps: (
            "latent_norm",
            {"rows": x.shape[0], "width": x.shape[1], "latent": c.shape[0]},
        ),
        "rotate_and_cache": lambda q, latent, *_: (
            "rope",
            {"rows": q.shape[0] * q.shape[1], "heads": q.shape[2], "latent": latent.shape[-1]},
        ),
        "mla_decode": lambda q, r, cache, s: (
            "mla_decode",
            attention(q, cache, latent=q.shape[3], rope=r.shape[3]),
        ),
        "mla_prefill": lambda q, r, kv, key, s: ("mla_prefill", attention(q, kv, rope=key.shape[-1])),
        "mla_sparse": sparse,
        "index_logits": lambda q, r, w, key: ("index_logits", attention(q, key, head_dim=q.shape[3])),
        "index_topk": lambda scores, k, sink, local: (
            "index_topk",
            {**dict(zip(("requests", "new_tokens", "context"), scores.shape, strict=True)), "top_k": k},
        ),
        "swiglu": lambda x: ("activation", {"rows": x.shape[0], "width": x.shape[1] // 2}),
        "select_experts": lambda x, b, k, s: (
            "select",
            {"rows": x.shape[0], "width": x.shape[1], "top_k": k},
        ),
        "permute": lambda x, ids, n: ("permute", {"tokens": x.shape[0], "width": x.shape[1]}),
        "unpermute": lambda y, p, w, x, z: ("unpermute", {"rows": y.shape[0], "tokens": x.shape[0]}),
        "join": lambda x, y: ("add", {"rows": x.shape[0], "width": x.shape[1]}),
        "embed": lambda ids, table: ("gather", {"rows": ids.shape[0], "width": table.shape[1]}),
        "greedy": lambda x: ("sample", {"rows": x.shape[0], "width": x.shape[1]}),
    }


@pytest.fixture
def calls(monkeypatch):
    """What is called, in order: (kernel class, shape)."""
    seen = []
    for name, describe in shapes().items():
        function = getattr(kernels, name)

        def logged(*args, _describe=describe, _function=function):
            seen.append(_describe(*args))
            return _function(*args)

        monkeypatch.setattr(kernels, name, logged)
    return seen


def counted(case, **sections):
    """What perfmodel counts for the case, as a list of (kernel class, shape)."""
    deployment = {"phase": case.phase}
    if case.batch:
        deployment |= {"batch_per_gpu": case.batch, "context_tokens": case.context}
    if case.prefill_requests:
        deployment |= {
            "prefill_requests_per_gpu": case.prefill_requests,
            "prefill_tokens": case.prefill_tokens,
            "prefill_cached_tokens": case.prefill_cached,
        }
    if case.new_tokens > 1:
        deployment["mtp"] = {"draft_tokens": case.new_tokens - 1}
    scenario = reference_scenario(
        load_model(case.size),
        "fp32",
        deployment,
        routing={"mean_real_experts": case.real_experts},
        **sections,
    )
    return [
        (task.op.kernel, task.op.shape)
        for segment in step_segments(scenario)
        if not segment.name.startswith("draft")
        for task in segment.tasks
        if task.op.kernel != "host"
        for _ in range(segment.repeat)
    ]


def keys(found, kernel, names):
    return Counter(
        tuple(round(float(shape[name])) for name in names) for own, shape in found if own == kernel
    )


def total(found, kernel, name):
    return sum(shape[name] for own, shape in found if own == kernel)


@pytest.mark.parametrize("name", CASES)
def test_a_step_runs_what_perfmodel_counts(calls, name):
    case = CASES[name]
    with torch.inference_mode():
        build_step(case, Models())()
    expected = counted(case)
    index_norm = ("norm", {"rows": case.tokens, "width": SIZES[case.size].index_head_dim})
    calls[:] = [call for call in calls if call != index_norm]  # a part of the key's rotation there
    assert {kernel for kernel, _ in calls} == {kernel for kernel, _ in expected}
    for kernel, names in {kernel: tuple(shape) for kernel, shape in calls}.items():
        if kernel == "rope":  # one call for each group here, one op for all rows there
            assert total(calls, kernel, "rows") == total(expected, kernel, "rows")
        else:
            assert keys(calls, kernel, names) == keys(expected, kernel, names), kernel


def test_without_real_experts_no_expert_row_is_computed(calls):
    case = StepCase("tiny", "fp32", "step", "decode", 0, batch=4, context=5)
    with torch.inference_mode():
        build_step(case, Models())()
    assert all(shape["rows"] == 0 for kernel, shape in calls if kernel in ("grouped_gemm", "unpermute"))


def test_forced_experts_are_distinct_and_as_many_as_asked():
    import numpy as np

    model = Models().get("tiny", "fp32")
    for real in (0, 3, 6):
        ids = forced_ids(model, 50, real, np.random.default_rng(0)).numpy()
        assert ids.shape == (50, model.config.moe_topk)
        assert ((ids < model.config.n_routed_experts).sum(axis=1) == real).all()
        assert all(len(set(row)) == len(row) for row in ids.tolist())


def test_a_call_can_be_repeated():
    for case in CASES.values():
        with torch.inference_mode():
            run = build_step(case, Models())
            assert torch.equal(run(), run())


def test_drawn_steps_cover_what_they_should():
    cases = draw_steps(["small", "medium"], "fp32", 48, max_tokens=512, max_context=2048, seed=1)
    assert cases == draw_steps(["small", "medium"], "fp32", 48, max_tokens=512, max_context=2048, seed=1)
    for name, values in {
        "what": {"block", "step"},
        "phase": {"decode", "prefill", "mixed"},
        "size": {"small", "medium"},
        "real_experts": {0, 4, 8, 12},
    }.items():
        assert {getattr(case, name) for case in cases} == values
    both = {(case.size, case.phase, case.what) for case in cases}
    assert len(both) == 12
    assert all(case.tokens <= 512 and case.context + case.new_tokens <= 2048 for case in cases)


def test_no_drawn_request_is_longer_than_its_model_takes():
    cases = draw_steps(["tiny"], "fp32", 96, max_tokens=4096, max_context=4096, seed=1)
    for case in cases:
        assert case.context + case.new_tokens <= 1024
        assert case.prefill_cached + case.prefill_tokens <= 1024
