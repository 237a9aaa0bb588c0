"""The reference runs perfmodel's ops: the same kernels on the same shapes, in the same order, and as many FLOPs."""

from dataclasses import replace
from unittest import mock

import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch
from scenarios import BARE
from torch.utils.flop_counter import FlopCounterMode

from perfmodel.load import load_scenario
from perfmodel.ops.layer import layer_ops
from perfmodel.ops.op import Stream
from perfmodel.ops.work import Group as WorkGroup
from perfmodel.ops.work import Work
from perfmodel.overlap.schedules import schedule_layer
from perfmodel.spec.models.reader import model_from_config
from perfmodel.step import step_segments
from reference_model import kernels
from reference_model.config import SIZES
from reference_model.generate import Drafts
from reference_model.model import LongcatFlash
from reference_model.parallel import Exchange, Pending
from reference_model.ranks import run_ranks
from reference_model.weights import block_parameters, init_weights
from reference_model.work import Cache, Group

torch.set_num_threads(1)
TINY, LSA = SIZES["tiny"], SIZES["lsa-tiny"]
REAL = TINY.moe_topk * 2 // 3


def scenario(config, *settings, ranks=1):
    """A scenario of the reference model in BF16 or wider, which the reference lays out as it does."""
    layout = {"attention_dp": ranks, "dense_tp": 1, "ep": ranks, "all_to_all": "all-to-all"}
    set_ = [f"deployment.{key}={value}" for key, value in layout.items()]
    set_ += ["deployment.mtp.draft_tokens=0", "deployment.overlap=sequential", *settings]
    model = model_from_config(config.as_hugging_face(), name="reference")
    return load_scenario("longcat-flash-h800", [*BARE, *set_]).model_copy(update={"model": model})


def balanced_ids(config, tokens, real, first=0):
    """``real`` real experts and the rest zero-computation ones for each token, all equally often."""
    experts = config.n_routed_experts
    ids = torch.arange(tokens * real).view(tokens, real) % experts
    zero = torch.full((tokens, config.moe_topk - real), experts)
    return torch.cat(((ids + first) % experts, zero), dim=1)


# What perfmodel's shape of a kernel is in terms of the arguments of the reference's function.
SHAPES = {
    "linear": ("gemm", lambda x, w: (x.numel() // x.shape[-1], *w.shape)),
    "absorb": ("bmm", lambda x, w: (w.shape[0], x.shape[0], w.shape[2], w.shape[1])),
    "grouped_linear": ("grouped_gemm", lambda x, w, counts: (sum(counts), *w.shape[1:])),
    "add_norm": ("norm", lambda x, *_: tuple(x.shape)),
    "latent_norm": ("latent_norm", lambda x, *_: tuple(x.shape)),
    "rotate_and_cache": (
        "rope",
        lambda q, latent, *_: (q.shape[0] * q.shape[1], *q.shape[2:], latent.shape[-1]),
    ),
    "mla_decode": (
        "mla_decode",
        lambda q, r, cache, _: (*q.shape[:2], cache.shape[1], *q.shape[2:], r.shape[-1]),
    ),
    "mla_prefill": ("mla_prefill", lambda q, _, kv, *__: (*q.shape[:2], kv.shape[1], q.shape[2])),
    "mla_sparse": (
        "mla_sparse",
        lambda q, r, cache, ids, _: (*q.shape[:2], cache.shape[1], attended(cache, ids), q.shape[2]),
    ),
    "index_logits": ("index_logits", lambda q, r, w, key: (*q.shape[:2], key.shape[1], *q.shape[2:])),
    "index_topk": ("index_topk", lambda scores, top_k, *_: (*scores.shape, top_k)),
    "swiglu": ("activation", lambda x: (x.shape[0], x.shape[1] // 2)),
    "select_experts": ("select", lambda logits, bias, top_k, _: (*logits.shape, top_k)),
    "permute": ("permute", lambda x, ids, experts: (int((ids < experts).sum()), *x.shape)),
    "unpermute": ("unpermute", lambda y, pairs, weights, x, zero: (len(y), *x.shape)),
    "reorder": ("reorder", lambda x, order: tuple(x.shape)),
    "join": ("add", lambda x, y: tuple(x.shape)),
    "embed": ("gather", lambda ids, table: (ids.numel(), table.shape[1])),
    "greedy": ("sample", lambda logits: tuple(logits.shape)),
}
KEYS = {
    "gemm": "m n k",
    "bmm": "groups m n k",
    "grouped_gemm": "rows n k",
    "rope": "rows heads rope latent",
    "mla_decode": "requests new_tokens context heads latent rope",
    "mla_prefill": "requests new_tokens context heads",
    "mla_sparse": "requests new_tokens context selected heads",
    "index_logits": "requests new_tokens context heads head_dim",
    "index_topk": "requests new_tokens context top_k",
    "select": "rows width top_k",
    "permute": "rows tokens width",
    "unpermute": "rows tokens width",
}


def attended(cache, ids):
    """Tokens that a query attends to, in the mean: those of its ids that it sees."""
    new, keys = ids.shape[1], cache.shape[1]
    return round(float((ids <= torch.arange(keys - new, keys)[:, None]).float().sum(dim=-1).mean()))


def traced(function, *args, **kwargs):
    """(kernel class, shape) of each kernel that ``function`` runs, in order, with all-to-alls and waits for them."""
    calls = []

    def record(name):
        kernel, shape = SHAPES[name]
        original = getattr(kernels, name)

        def call(*args):
            calls.append((kernel, shape(*args)))
            return original(*args)

        return mock.patch.object(kernels, name, call)

    def mark(owner, name, *entry):
        original = getattr(owner, name)

        def call(self, *args, **kwargs):
            calls.append(entry)
            return original(self, *args, **kwargs)

        return mock.patch.object(owner, name, call)

    patches = [record(name) for name in SHAPES]
    patches += [mark(Exchange, name, "all_to_all", name) for name in ("dispatch", "combine")]
    patches.append(mark(Pending, "wait", "wait", ""))
    for patch in patches:
        patch.start()
    try:
        with torch.no_grad():
            function(*args, **kwargs)
    finally:
        for patch in patches:
            patch.stop()
    return calls


def predicted(tasks):
    """(kernel class, shape) of perfmodel's ops on the GPU, in order; of an all-to-all its name instead of a shape."""
    ops = (task.op for task in tasks)
    return [(class_of(op), shape_of(op)) for op in ops if op.stream != Stream.HOST]


def class_of(op):
    """One function of the reference has the two classes of a core over selected tokens."""
    return "mla_sparse" if op.kernel.startswith("mla_sparse_") else op.kernel


def shape_of(op):
    if op.kernel == "all_to_all":
        return op.name
    return tuple(round(float(op.shape[key])) for key in KEYS.get(class_of(op), "rows width").split())


def without_waits(calls):
    return [call for call in calls if call[0] != "wait"]


def reference(exchange=None, config=TINY):
    model = LongcatFlash(config, exchange=exchange)
    init_weights(model, 0)
    return model


def a_group(kind, requests, new, cached, max_tokens=64, config=TINY):
    cache = Cache(config, requests, max_tokens)
    cache.length = cached
    return Group(kind, torch.zeros(requests, new, dtype=torch.long), cache)


@pytest.mark.parametrize(
    ("phase", "groups"),
    [
        ("decode", [("decode", 3, 2, 10)]),
        ("prefill", [("prefill", 2, 7, 4)]),
        ("mixed", [("decode", 3, 2, 10), ("prefill", 2, 7, 4)]),
    ],
)
@pytest.mark.parametrize("config", [TINY, LSA], ids=["mla", "lsa"])
def test_a_step_runs_the_predicted_ops(config, phase, groups):
    """All of it, from the embedding to the head; with sparse attention at contexts on both sides of its top-k."""
    for longer in (0, 40) if config.sparse else (0,):
        step_runs_the_predicted_ops(config, phase, [(*group[:3], group[3] + longer) for group in groups])


def step_runs_the_predicted_ops(config, phase, groups):
    requests, context, cached = groups[0][1], groups[0][3], groups[-1][3]
    settings = [
        f"deployment.phase={phase}",
        f"deployment.batch_per_gpu={requests}",
        f"deployment.context_tokens={context}",
    ]
    settings += ["deployment.prefill_requests_per_gpu=2", "deployment.prefill_tokens=7"]
    settings += [f"deployment.prefill_cached_tokens={cached}", f"routing.mean_real_experts={REAL}"]
    settings += ["deployment.mtp.draft_tokens=1"] * (phase != "prefill")
    segments = [s for s in step_segments(scenario(config, *settings)) if not s.name.startswith("draft")]
    expected = [call for s in segments for call in predicted(s.tasks) * s.repeat]

    model, parts = reference(config=config), [a_group(*group, config=config) for group in groups]
    ids = balanced_ids(config, sum(g.ids_BT.numel() for g in parts), REAL)
    calls = without_waits(traced(lambda: kernels.greedy(model.step(parts, routed_ids_NK=ids))))
    calls = [call for call in calls if call not in index_norms(config, parts)]
    assert sorted(one_rope(calls)) == sorted(expected)
    if len(groups) == 1:
        assert one_rope(calls) == expected


def index_norms(config, groups):
    """The norm of an index key, which is not predicted (perfmodel has it in the key's rotation and write)."""
    return [("norm", (sum(g.ids_BT.numel() for g in groups), config.index_head_dim))]


def one_rope(calls):
    """Calls with the groups' rotations summed, as perfmodel has one op for them, and rows for the head unpicked.

    Picking rows (two small copies where prefill needs logits of last tokens alone) is not predicted.
    """
    merged = []
    for kernel, shape in calls:
        if kernel == "rope" and (last := next((i for i in (-1, -2) if merged[i][0] == "rope"), None)):
            merged[last] = ("rope", (merged[last][1][0] + shape[0], *shape[1:]))
        elif kernel != "reorder":
            merged.append((kernel, shape))
    return merged


def test_the_draft_layer_runs_the_predicted_ops():
    """perfmodel has the norms of embedding and hidden state as one op; the row that is picked is not predicted."""
    settings = ["deployment.batch_per_gpu=3", "deployment.context_tokens=10", "deployment.mtp.draft_tokens=1"]
    segments = step_segments(scenario(TINY, *settings))
    (expected,) = (predicted(s.tasks) for s in segments if s.name.startswith("draft"))
    drafts = Drafts(reference(), 3, 64)
    drafts.cache.length = 10
    hidden, ids = torch.zeros(6, TINY.hidden_size), torch.zeros(3, 2, dtype=torch.long)
    calls = traced(drafts.next, "decode", ids, hidden, accepted=2)
    assert expected[1] == ("norm", (12, TINY.hidden_size))
    assert calls[1:3] == [("norm", (6, TINY.hidden_size))] * 2
    del calls[1:3], expected[1]
    assert [call for call in calls if call[0] != "reorder"] == expected


def traced_blocks():
    """What one of two ranks runs in a block with 3 requests of 2 tokens, sequential and overlapped."""
    exchange = Exchange(TINY.n_routed_experts)
    model = reference(exchange)
    places = model.rotary.places([a_group("decode", 3, 2, 10)], torch.float32)
    ids = balanced_ids(TINY, 6, REAL, first=8 * exchange.rank)
    x = torch.randn(6, TINY.hidden_size)
    calls = [
        traced(model.blocks[0], x, None, places, overlapped=overlapped, routed_ids_NK=ids)
        for overlapped in (False, True)
    ]
    exchange.close()
    return calls


@pytest.fixture(scope="module")
def blocks_on_two_ranks():
    return run_ranks(traced_blocks, 2)


@pytest.mark.parametrize(("schedule", "overlapped"), [("sequential", False), ("sbo", True)])
def test_a_block_on_two_ranks_runs_the_predicted_ops_in_order(blocks_on_two_ranks, schedule, overlapped):
    """With what packs, orders and unpacks rows around the all-to-alls."""
    described = scenario(TINY, f"routing.mean_real_experts={REAL}", ranks=2)
    work = Work((WorkGroup("decode", 3.0, 2.0, 10.0),))
    tasks = schedule_layer(schedule, [layer_ops(described.model.layers[0], work, described)])
    for calls in blocks_on_two_ranks:
        assert without_waits(calls[overlapped]) == predicted(tasks)


def test_a_block_waits_for_its_exchanges_as_late_as_it_can(blocks_on_two_ranks):
    """Sequential: at once. Overlapped: where the experts need the rows, and where the outputs join the dense path."""
    for sequential, overlapped in blocks_on_two_ranks:
        for calls, before in ((sequential, ["all_to_all"] * 2), (overlapped, ["bmm", "gemm"])):
            kernels_ = [kernel for kernel, _ in calls]
            waits = [i for i, kernel in enumerate(kernels_) if kernel == "wait"]
            assert [kernels_[i + 1] for i in waits] == ["reorder", "unpermute"]
            assert [kernels_[i - 1] for i in waits] == before


def test_parameters_of_longcat_2():
    """Those of the published checkpoint outside its draft layer, less 38 x 896 correction biases (the catalogue's
    notes), which are buffers here."""
    model = LongcatFlash(SIZES["lsa-full"], device="meta", dtype=torch.bfloat16)
    total = sum(parameter.numel() for _, parameter in block_parameters(model))
    assert total + sum(b.numel() for name, b in model.named_buffers() if name.endswith("bias_Z")) == (
        1_638_616_807_424
    )


def test_parameters_at_full_size():
    """560.66 B without the draft layer, which is 0.3926 B."""
    model = LongcatFlash(SIZES["full"], device="meta", dtype=torch.bfloat16)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for _, parameter in block_parameters(model)) == 560_664_958_976
    assert total - 560_664_958_976 == 392_593_408


@pytest.mark.parametrize(
    ("size", "kind", "requests", "new", "cached"),
    [
        ("full", "prefill", 2, 64, 0),
        ("full", "prefill", 1, 32, 96),
        ("full", "decode", 8, 2, 100),
        ("lsa-full", "prefill", 1, 32, 4096),
        ("lsa-full", "decode", 8, 2, 8000),
    ],
)
def test_flops_of_a_full_size_block(size, kind, requests, new, cached):
    """As the FLOP counter sees them, 8 real experts per token; it takes attention and index scores as the full square.

    It counts the weighted sum over index heads, too, which is a product here: one FLOP for each element of a head.
    """
    config = SIZES[size]
    described = scenario(config, "routing.mean_real_experts=8")
    work = Work((WorkGroup(kind, float(requests), float(new), float(cached)),))
    square = requests * new * (new + cached) / work.groups[0].attended_pairs()
    counted = {"index_logits": square * (1 + 1 / config.index_head_dim)} if config.sparse else {}
    counted |= dict.fromkeys(("mla_decode", "mla_prefill"), square)
    tasks = schedule_layer("sequential", [layer_ops(described.model.layers[0], work, described)])
    expected = sum(task.op.flops * counted.get(task.op.kernel, 1) for task in tasks)

    model = LongcatFlash(replace(config, num_layers=1), device="meta", dtype=torch.bfloat16)
    cache = Cache(model.config, requests, new + cached, dtype=torch.bfloat16, device="meta")
    cache.length = cached
    tokens = requests * new
    group = Group(kind, torch.empty(requests, new, dtype=torch.long, device="meta"), cache)
    x = torch.empty(tokens, config.hidden_size, dtype=torch.bfloat16, device="meta")
    places = model.rotary.places([group], torch.bfloat16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.blocks[0](x, None, places, routed_ids_NK=balanced_ids(config, tokens, 8))
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-12)
