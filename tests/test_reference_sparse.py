"""The reference model's sparse attention and n-gram embedding, against their definitions and its own dense form."""

import json
from dataclasses import replace

import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch
from oracle_env import MODELS

from perfmodel.load import load_scenario
from perfmodel.spec.models.reader import model_from_config
from reference_model import kernels
from reference_model.config import SIZES, Config
from reference_model.generate import generate
from reference_model.model import LongcatFlash
from reference_model.ngram import NgramEmbedding
from reference_model.parallel import Alone
from reference_model.weights import init_weights
from reference_model.work import Cache, Group

torch.set_num_threads(1)
LSA = replace(SIZES["lsa-tiny"], index_n_heads=16)
"""With more index heads than tiny has: two of them score a quarter of all tokens 0, and which of equals is selected
depends on how many there are."""
LONG = 100
WAYS = {
    "prefill": [("prefill", LONG)],
    "chunked prefill": [("prefill", 70), ("prefill", 1), ("prefill", 29)],
    "prefill, then decode": [("prefill", 80), *[("decode", 1)] * 20],
    "prefill, then two at a time": [("prefill", 80), *[("decode", 2)] * 10],
}
"""How the tokens of each request are cut into steps: the logits must not depend on it."""


def build(config=LSA, dtype=torch.float32):
    model = LongcatFlash(config, dtype=dtype)
    init_weights(model, 0)
    return model


@pytest.fixture(scope="module")
def model():
    return build()


def tokens(requests=2, new=LONG, seed=0):
    return torch.randint(LSA.vocab_size, (requests, new), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, way="prefill", *, ids=None, **options):
    """Of every position, [B, T, V]."""
    ids = tokens() if ids is None else ids
    cache = Cache(model.config, *ids.shape, dtype=model.head.dtype)
    steps, start = [], 0
    for kind, new in WAYS[way]:
        group = Group(kind, ids[:, start : start + new], cache)
        steps.append(model.step([group], all_logits=True, **options).view(len(ids), new, -1))
        start += new
    return torch.cat(steps, dim=1)


# the whole model


@pytest.mark.parametrize("way", WAYS)
def test_logits_do_not_depend_on_how_tokens_are_cut_into_steps(model, way):
    torch.testing.assert_close(logits(model, way), logits(model), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("way", "dtype"),
    [*((way, torch.float32) for way in WAYS), ("prefill", torch.bfloat16)],
)
def test_it_is_dense_attention_where_everything_is_selected(way, dtype):
    """top-k at the context's length against MLA with the same weights, which expands keys and values in prefill."""
    sparse = build(replace(LSA, index_topk=LONG), dtype)
    without = dict.fromkeys([name for name in Config.__dataclass_fields__ if name.startswith("index_")], 0)
    dense = LongcatFlash(replace(LSA, **without), dtype=dtype)
    found = dense.load_state_dict(sparse.state_dict(), strict=False)
    assert not found.missing_keys
    assert all(".indexer." in name for name in found.unexpected_keys)
    ours, theirs = logits(sparse, way).float(), logits(dense, way).float()
    assert theirs.std() > 0.5
    if dtype == torch.float32:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    else:  # as far apart as the dense form is from itself in other steps: expanded and absorbed round differently
        absorbed = logits(dense, "prefill, then decode").float()[:, 80:]
        rounding = (absorbed - theirs[:, 80:]).abs().mean()
        assert 0 < rounding < 0.1
        assert (ours - theirs)[:, 80:].abs().mean() < 1.5 * rounding


def test_what_is_not_selected_is_not_seen(model):
    """And it is: with the tokens between sinks and local ones out of reach the logits are others."""
    local = build(replace(LSA, index_topk=18, index_init_tokens=2, index_local_tokens=16))
    changed = tokens()
    changed[:, 10:20] += 1
    changed %= LSA.vocab_size
    with torch.no_grad():  # one block, so that nothing reaches the end by way of tokens in between
        rows = [one_block(local, ids)[:, -1] for ids in (tokens(), changed)]
        torch.testing.assert_close(*rows, rtol=0, atol=1e-5)
        rows = [one_block(model, ids)[:, -1] for ids in (tokens(), changed)]
        assert (rows[0] - rows[1]).abs().max() > 1e-3


def one_block(model, ids):
    """The first attention's output on embeddings, [B, T, H]."""
    cache = Cache(model.config, *ids.shape)
    places = model.rotary.places([Group("prefill", ids, cache)], torch.float32)
    attention = model.blocks[0].first.attention
    x = kernels.embed(ids.flatten(), model.embedding)
    return attention.core(attention.pre(x, places), places).view(*ids.shape, -1)


def test_both_attentions_of_a_block_use_one_selection(model, monkeypatch):
    calls, used = [], []

    def index_topk(*args, original=kernels.index_topk):
        calls.append(original(*args))
        return calls[-1]

    def mla_sparse(*args, original=kernels.mla_sparse):
        used.append(args[3])
        return original(*args)

    monkeypatch.setattr(kernels, "index_topk", index_topk)
    monkeypatch.setattr(kernels, "mla_sparse", mla_sparse)
    logits(model)
    assert len(calls) == LSA.num_layers
    assert [id(ids) for ids in used] == [id(ids) for ids in calls for _ in range(2)]
    assert [
        layer.attention.indexer is None for block in model.blocks for layer in (block.first, block.second)
    ] == ([False, True] * LSA.num_layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_overlapped_equals_sequential_to_the_bit(dtype):
    model = build(dtype=dtype)
    assert torch.equal(logits(model, overlapped=True), logits(model))


@torch.no_grad()
def test_a_mixed_step_equals_its_groups_alone(model):
    def groups():
        cache = Cache(LSA, 2, 128)
        model.step([Group("prefill", tokens(2, 50), cache)])
        return [
            Group("decode", tokens(2, 2, 1), cache),
            Group("prefill", tokens(3, 45, 2), Cache(LSA, 3, 64)),
        ]

    alone = torch.cat([model.step([one]) for one in groups()])
    torch.testing.assert_close(model.step(groups()), alone, rtol=0, atol=1e-5)


def test_generation_with_and_without_drafts_agrees(model):
    prompt = tokens(2, 40, seed=3)
    assert torch.equal(generate(model, prompt, 25), generate(model, prompt, 25, draft=True))


def test_blocks_of_queries_change_nothing(model, monkeypatch):
    expected = logits(model)
    monkeypatch.setattr(kernels, "QUERY_BLOCK", 7)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-4)


# kernels, by their definitions


@pytest.mark.parametrize(("new", "keys"), [(1, 9), (3, 9), (9, 9), (70, 150)])
def test_index_scores(new, keys):
    heads, width, rotated = 3, 8, 4
    query, key = torch.randn(2, new, heads, width), torch.randn(2, keys, width)
    weights, end = torch.randn(2, new, heads), torch.randn(2, new, heads, rotated)
    scores = kernels.index_logits(query.clone(), end, weights, key)
    whole = torch.cat((query[..., :-rotated], end), dim=-1)
    expected = torch.einsum("bti,btis->bts", weights, torch.einsum("btij,bsj->btis", whole, key).relu())
    for place in range(new):
        seen = keys - new + place + 1
        torch.testing.assert_close(scores[:, place, :seen], expected[:, place, :seen], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("new", "keys"), [(1, 40), (5, 40), (40, 40), (1, 5), (5, 5)])
def test_selection_takes_sinks_local_tokens_and_the_best_others(new, keys):
    scores = torch.randn(2, new, keys)
    ids = kernels.index_topk(scores.clone(), 12, 2, 6)
    assert ids.shape == (2, new, min(12, keys))
    for request in range(2):
        for place in range(new):
            last = keys - new + place
            always = {i for i in range(last + 1) if i < 2 or i > last - 6}
            others = sorted(set(range(last + 1)) - always, key=lambda i: -scores[request, place, i])
            wanted = always | set(others[: 12 - len(always)])
            row = ids[request, place].tolist()
            assert set(row[: len(wanted)]) == wanted
            assert all(i > last for i in row[len(wanted) :])


@pytest.mark.parametrize(("new", "keys"), [(1, 40), (3, 40), (70, 150), (70, 70)])
@pytest.mark.parametrize("room", [0, 13])
def test_the_core_attends_to_what_is_selected(new, keys, room):
    heads, latent, rope = 3, 8, 4
    absorbed, rotated = torch.randn(2, new, heads, latent), torch.randn(2, new, heads, rope)
    cache = torch.randn(2, keys + room, latent + rope)[:, :keys]
    ids = kernels.index_topk(torch.randn(2, new, keys), 12, 2, 6)
    out = kernels.mla_sparse(absorbed, rotated, cache, ids, 0.3)
    chosen = torch.zeros(2, new, keys, dtype=torch.bool).scatter(-1, ids, value=True)
    chosen &= kernels.causal_mask(new, keys, chosen.device)
    scores = torch.einsum("btax,bsx->btas", torch.cat((absorbed, rotated), dim=-1), cache) * 0.3
    weights = scores.masked_fill(~chosen[:, :, None], -torch.inf).softmax(dim=-1)
    expected = torch.einsum("btas,bsc->btac", weights, cache[..., :latent])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


# n-gram embedding


def test_ngrams_are_hashed_as_they_are_defined(monkeypatch):
    """Row by row with Python's own integers, tokens before the first one being 0."""
    ngram = NgramEmbedding(LSA, torch.float32, "cpu")
    seen = []
    monkeypatch.setattr(kernels, "embed", lambda ids, table: seen.append(ids) or table[ids])
    ids = tokens(1, 30)
    cache = Cache(LSA, 1, 30)
    for start, new in ((0, 7), (7, 1), (8, 22)):
        with torch.no_grad():
            ngram(torch.zeros(new, LSA.hidden_size), [Group("decode", ids[:, start : start + new], cache)])
        cache.length += new
    hashed = torch.cat([one.view(-1, LSA.num_ngram_tables) for one in seen]).tolist()
    padded = [0] * 4 + ids[0].tolist()
    for place, row in enumerate(hashed):
        first = 0
        for table, rows in enumerate(LSA.ngram_rows):
            length = 2 + table // LSA.oe_split_num
            number = sum(padded[place + 4 - back] * LSA.vocab_size**back for back in range(length))
            assert row[table] == first + number % rows
            first += rows


def test_the_projections_are_the_same_on_every_rank(model):
    """Three dimensions have the experts, too, which are other ones on another rank."""
    exchange = Alone(LSA.n_routed_experts)
    exchange.rank = 1
    other = LongcatFlash(LSA, exchange=exchange)
    init_weights(other, 0)
    assert torch.equal(other.ngram.project_GHW, model.ngram.project_GHW)
    assert not torch.equal(other.blocks[0].moe.experts.down_EHF, model.blocks[0].moe.experts.down_EHF)


@torch.no_grad()
def test_ngrams_add_their_projected_rows():
    ngram = NgramEmbedding(LSA, torch.float32, "cpu")
    ngram.tables.fill_(1.0)
    ngram.project_GHW.fill_(2.0)
    out = ngram(torch.zeros(6, LSA.hidden_size), [Group("prefill", tokens(2, 3), Cache(LSA, 2, 3))])
    assert ngram.tables.shape[1] == LSA.hidden_size // 16
    torch.testing.assert_close(out, torch.full_like(out, 2.0 * LSA.hidden_size / 17))


# configs


def released(**changes):
    """LongCat-2.0's config.json without what is not implemented (YaRN), which changes no time."""
    stated = json.loads((MODELS / "longcat-2.0.json").read_text())
    del stated["rope_scaling"]
    return stated | changes


def test_the_scenario_is_the_small_size():
    described = model_from_config(SIZES["lsa-small"].as_hugging_face(), name="small")
    shipped = load_scenario("reference-lsa-cpu").model
    assert shipped.layers == described.layers
    assert shipped.ngram_embedding == described.ngram_embedding


def test_the_released_config_is_the_full_size(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(released()))
    assert Config.from_json(path) == SIZES["lsa-full"]
    with pytest.raises(ValueError, match="rope_scaling"):
        Config.from_json(MODELS / "longcat-2.0.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cli_factor", 1),
        ("index_k_norm_type", "layer"),
        ("use_longcat_dsa", False),
        ("index_head_dim", 64),
        ("index_topk", 1000),
        ("index_n_heads", 0),
        ("index_topk_pattern", "CSSS"),
        ("oe_neighbor_num", 1),
        ("oe_split_num", 0),
        ("oe_split_num", 3),
        ("ngram_vocab_size_ratio", 78),
        ("mtp_disable_over_tokenizer", False),
    ],
)
def test_what_is_not_implemented_is_refused_by_its_key(tmp_path, key, value):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(released(**{key: value})))
    with pytest.raises(ValueError, match=key):
        Config.from_json(path)
