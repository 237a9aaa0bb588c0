"""The reference model on one rank: configs, kernels, steps of several groups, forced routing, generation."""

import json
from dataclasses import replace

import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch
from oracle_env import MODELS

from perfmodel.ops.mixers.mixer import index_weights
from perfmodel.ops.parameters import parameter_counts
from perfmodel.spec.models.reader import model_from_config
from reference_model import kernels
from reference_model.config import SIZES, Config
from reference_model.generate import Drafts, generate
from reference_model.model import LongcatFlash
from reference_model.moe import MoE
from reference_model.parallel import Alone
from reference_model.weights import block_parameters, init_weights
from reference_model.work import Cache, Group

torch.set_num_threads(1)
TINY = SIZES["tiny"]
FULL = MODELS / "longcat-flash.json"


def build(config=TINY, seed=0, dtype=torch.float32):
    model = LongcatFlash(config, dtype=dtype)
    init_weights(model, seed)
    return model


@pytest.fixture(scope="module")
def model():
    return build()


def tokens(requests, new, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(TINY.vocab_size, (requests, new), generator=generator)


def group(kind, ids, cache=None, room=64):
    return Group(kind, ids, cache or Cache(TINY, len(ids), room))


# configs


def test_the_released_config_is_the_full_size():
    assert Config.from_json(FULL) == SIZES["full"]


@pytest.mark.parametrize("size", SIZES)
def test_perfmodel_reads_every_size_and_counts_its_parameters(size):
    config = SIZES[size]
    described = model_from_config(config.as_hugging_face(), name=size)
    counts = parameter_counts(described)
    model = LongcatFlash(config, device="meta")
    own = counts.total + counts.indexer  # a draft layer's index branch is in neither
    draft = counts.mtp + index_weights(described.mtp.layer.attention, config.hidden_size).total
    assert own == sum(p.numel() for _, p in block_parameters(model))
    assert own + draft == sum(p.numel() for p in model.parameters())
    assert described.moe.mean_real_experts == config.expected_real_experts


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_method", "LSA"),
        ("zero_expert_type", "constant"),
        ("attention_bias", True),
        ("mla_scale_q_lora", False),
        ("rope_scaling", {"type": "yarn"}),
        ("index_n_heads", 16),
        ("cli_factor", 1),
        ("oe_neighbor_num", 5),
        ("qk_rope_head_dim", 63),
        ("moe_topk", 800),
        ("hidden_size", 0),
        ("hidden_size", "6144"),
        ("mtp_num_layers", 3),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path, key, value):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(FULL.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=key):
        Config.from_json(path)


def test_a_config_without_a_size_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"vocab_size": 100, "hidden_size": 64}))
    with pytest.raises(ValueError, match="num_layers, num_attention_heads"):
        Config.from_json(path)


# kernels that parity with transformers does not cover


@pytest.mark.parametrize(("new", "keys"), [(1, 9), (3, 9), (9, 9)])
def test_grouped_query_attention_equals_one_key_head_per_query_head(new, keys):
    query = torch.randn(2, new, 6, 8)
    key, value = torch.randn(2, keys, 2, 8), torch.randn(2, keys, 2, 8)
    many = kernels.gqa(query, key, value, 0.3)
    one = kernels._attend(query, key.repeat_interleave(3, dim=2), value.repeat_interleave(3, dim=2), 0.3)
    torch.testing.assert_close(many, one)


def test_permute_drops_zero_computation_experts_and_unpermute_adds_them():
    x = torch.randn(3, 4)
    ids = torch.tensor([[2, 0], [5, 4], [2, 7]])  # experts from 4 upwards compute nothing
    weights = torch.rand(3, 2)
    rows, pairs, counts = kernels.permute(x, ids, 4)
    assert counts == [1, 0, 2, 0]
    torch.testing.assert_close(rows, x[[0, 0, 2]])
    zero = kernels.zero_weight(weights, ids, 4)
    out = kernels.unpermute(10 * rows, pairs, weights, x, zero)
    expected = torch.stack(
        [
            10 * (weights[0, 0] + weights[0, 1]) * x[0],
            weights[1].sum() * x[1],
            (10 * weights[2, 0] + weights[2, 1]) * x[2],
        ]
    )
    torch.testing.assert_close(out, expected)


# steps


@torch.no_grad()
def test_a_mixed_step_equals_its_groups_alone(model):
    def groups():
        cache = Cache(TINY, 2, 64)
        model.step([group("prefill", tokens(2, 5), cache)])
        return [group("decode", tokens(2, 2, seed=1), cache), group("prefill", tokens(3, 7, seed=2))]

    alone = torch.cat([model.step([one]) for one in groups()])
    mixed = groups()
    together = model.step(mixed)
    assert together.shape == (2 * 2 + 3, TINY.vocab_size)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        model.step(list(reversed(groups()))), together.roll(3, dims=0), rtol=0, atol=1e-5
    )
    assert [one.cache.length for one in mixed] == [7, 7]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_overlapped_equals_sequential_to_the_bit(dtype):
    model = build(dtype=dtype)
    steps = [
        model.step(
            [group("prefill", tokens(2, 9), Cache(TINY, 2, 9, dtype=dtype))],
            overlapped=overlapped,
            all_logits=True,
        )
        for overlapped in (False, True)
    ]
    assert torch.equal(*steps)


def test_a_cache_that_is_full_is_refused(model):
    with pytest.raises(ValueError, match="at most 8"):
        model.step([group("prefill", tokens(1, 9), room=8)])
    with pytest.raises(ValueError, match="at most 1024"):
        model.step([group("prefill", tokens(1, 1025), room=2000)])


# forced routing


def forced(real, num_tokens):
    """Each token's first experts are real, the others zero-computation ones."""
    ids = torch.arange(num_tokens * TINY.moe_topk).view(num_tokens, -1)
    is_real = torch.arange(TINY.moe_topk) < real
    return torch.where(
        is_real, ids % TINY.n_routed_experts, TINY.n_routed_experts + ids % TINY.zero_expert_num
    )


@torch.no_grad()
@pytest.mark.parametrize("real", [0, 2, 4, 6])
def test_forced_routing_computes_so_many_experts(model, monkeypatch, real):
    rows = []

    def grouped_linear(x, weight, counts, original=kernels.grouped_linear):
        rows.append((len(x), sum(counts), max(counts) - min(counts)))
        return original(x, weight, counts)

    monkeypatch.setattr(kernels, "grouped_linear", grouped_linear)
    logits = model.step([group("prefill", tokens(2, 8))], routed_ids_NK=forced(real, 16))
    assert rows == [(16 * real, 16 * real, rows[0][2])] * 2 * TINY.num_layers
    assert logits.isfinite().all()


@torch.no_grad()
def test_forcing_what_the_router_chose_changes_nothing():
    moe = MoE(TINY, Alone(TINY.n_routed_experts), torch.float32, "cpu")
    for parameter in moe.parameters():
        parameter.normal_(std=0.1)
    x = torch.randn(7, TINY.hidden_size)
    ids, weights, _ = moe.router(x)
    assert torch.equal(moe(x, ids), moe(x))
    zero_only = torch.full_like(ids, TINY.n_routed_experts)
    torch.testing.assert_close(moe(x, zero_only), weights.sum(dim=1, keepdim=True) * x)


# generation


@torch.no_grad()
def uncached(model, prompt, num_tokens):
    ids = prompt
    for _ in range(num_tokens):
        cache = Cache(model.config, *ids.shape)
        ids = torch.cat((ids, model.step([Group("prefill", ids, cache)]).argmax(dim=-1, keepdim=True)), dim=1)
    return ids[:, prompt.shape[1] :]


@pytest.mark.parametrize(("requests", "length", "num_tokens"), [(1, 6, 12), (3, 4, 9), (1, 1, 1)])
def test_generation_with_and_without_cache_and_drafts_agrees(model, requests, length, num_tokens):
    prompt = tokens(requests, length, seed=length)
    plain = generate(model, prompt, num_tokens)
    assert plain.shape == (requests, num_tokens)
    assert torch.equal(plain, uncached(model, prompt, num_tokens))
    assert torch.equal(plain, generate(model, prompt, num_tokens, draft=True))


@torch.no_grad()
def test_right_drafts_save_steps_and_wrong_ones_leave_no_trace(model, monkeypatch):
    """Two drafts of three are set right, the third wrong; the draft layer itself must guess what it guesses afresh."""
    prompt, num_tokens = tokens(2, 4), 20
    sequence = torch.cat((prompt, generate(model, prompt, num_tokens + 2)), dim=1)
    guessed, steps = [], []

    def hidden(groups, original=model.hidden, **options):
        steps.append(groups[0].ids_BT.shape[1])
        return original(groups, **options)

    def next_(self, kind, ids_BT, hidden_NH, *, accepted, original=Drafts.next):
        guess = original(self, kind, ids_BT, hidden_NH, accepted=accepted)
        guessed.append((self.cache.length, guess))
        right = sequence[:, self.cache.length + 1]
        return right if len(guessed) % 3 else (right + 1) % TINY.vocab_size

    with monkeypatch.context() as patched:
        patched.setattr(model, "hidden", hidden)
        patched.setattr(Drafts, "next", next_)
        drafted = generate(model, prompt, num_tokens, draft=True)
    assert torch.equal(drafted, sequence[:, 4 : 4 + num_tokens])
    assert steps == [4] + [2] * 11  # 1 token from the prompt, 2 + 2 + 1 from every three steps
    for length, guess in guessed:
        hidden_NH = model.hidden([group("prefill", sequence[:, :length])], all_rows=True)
        afresh = Drafts(model, 2, 64).next("prefill", sequence[:, 1 : length + 1], hidden_NH, accepted=length)
        assert torch.equal(guess, afresh)


def test_generation_in_bf16_runs():
    assert generate(build(dtype=torch.bfloat16), tokens(2, 5), 6, draft=True).shape == (2, 6)


def test_generation_refuses_what_it_cannot_do(model):
    with pytest.raises(ValueError, match="num_tokens = 0"):
        generate(model, tokens(1, 3), 0)
    with pytest.raises(ValueError, match="mtp_num_layers"):
        generate(build(replace(TINY, mtp_num_layers=0)), tokens(1, 3), 2, draft=True)


def test_weights_depend_on_the_seed_alone():
    first, again, other = (build(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head"], other["head"])
