"""Logits against transformers' LongcatFlashForCausalLM with the same weights, and that a wrong detail would show."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from oracle_env import run_oracle
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch

from reference_model import attention, kernels, weights, work
from reference_model.config import SIZES, Config
from reference_model.model import LongcatFlash
from reference_model.work import Cache, Group

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

TOLERANCE = 1e-4
SMALL = Config(
    vocab_size=100,
    hidden_size=64,
    num_layers=2,
    num_attention_heads=4,
    q_lora_rank=32,
    kv_lora_rank=16,
    qk_nope_head_dim=12,
    qk_rope_head_dim=8,
    v_head_dim=10,
    ffn_hidden_size=96,
    expert_ffn_hidden_size=24,
    n_routed_experts=8,
    zero_expert_num=4,
    moe_topk=3,
    max_position_embeddings=64,
    mtp_num_layers=0,
)
WITHOUT_ZERO = replace(
    SMALL,
    num_layers=3,
    zero_expert_num=0,
    moe_topk=2,
    routed_scaling_factor=1.5,
    rope_theta=1e4,
    v_head_dim=16,
)
CASES = {
    "small": {"config": SMALL},
    "tiny": {"config": replace(SIZES["tiny"], mtp_num_layers=0)},
    "without-zero-experts": {"config": WITHOUT_ZERO},
    "zero-experts-only": {"config": SMALL, "zero_bias": 10.0},
    "other-eps": {"config": replace(SMALL, rms_norm_eps=1e-2)},
    "small-latents": {"config": SMALL, "latent_scale": 1e-3},
    "bf16": {"config": SMALL, "bf16": True},
}
FLOAT32 = [name for name in CASES if name != "bf16"]
WAYS = {
    "prefill": [("prefill", 12)],
    "chunked prefill": [("prefill", 5), ("prefill", 1), ("prefill", 6)],
    "prefill, then decode": [("prefill", 7), *[("decode", 1)] * 5],
    "prefill, then two at a time": [("prefill", 8), ("decode", 2), ("decode", 2)],
    "decode": [("decode", 12)],
}
"""How the 12 tokens of each request are cut into steps: the logits must not depend on it."""


@dataclass(frozen=True)
class Run:
    """What transformers computed."""

    config: Config
    arrays: dict[str, np.ndarray]
    zero_share: float
    """Of the choices of all tokens, those that fell on zero-computation experts."""

    def model(self, dtype=torch.float32) -> LongcatFlash:
        """This project's model with the same weights."""
        model = LongcatFlash(self.config, dtype=dtype)
        weights.load_hugging_face(model, {name: torch.from_numpy(a) for name, a in self.arrays.items()})
        return model

    @torch.no_grad()
    def logits(self, way="prefill", dtype=torch.float32, **options) -> np.ndarray:
        """This project's logits of every position, [B, T, V]."""
        model = self.model(dtype)
        ids = torch.from_numpy(self.arrays["ids"])
        cache = Cache(self.config, *ids.shape, dtype=dtype)
        steps, start = [], 0
        for kind, new in WAYS[way]:
            group = Group(kind, ids[:, start : start + new], cache)
            logits = model.step([group], all_logits=True, **options)
            assert logits.dtype == dtype
            steps.append(logits.view(len(ids), new, -1))
            start += new
        assert start == cache.length == ids.shape[1]
        return torch.cat(steps, dim=1).float().numpy()

    def equal(self, way="prefill", **options) -> bool:
        """The check: largest absolute difference below TOLERANCE (false for NaN)."""
        return bool(np.abs(self.logits(way, **options) - self.arrays["logits"]).max() < TOLERANCE)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("longcat")
    cases = {
        name: case | {"config": case["config"].as_hugging_face(), "seed": seed, "batch": 2, "tokens": 12}
        for seed, (name, case) in enumerate(CASES.items())
    }
    (folder / "cases.json").write_text(json.dumps(cases))
    shares = run_oracle("longcat_logits.py", str(folder))
    results = {}
    for name, case in CASES.items():
        with np.load(folder / f"{name}.npz") as arrays:
            results[name] = Run(case["config"], dict(arrays), shares[name])
    return results


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FLOAT32)
def test_logits_equal_transformers(runs, name, way):
    run = runs[name]
    assert run.arrays["logits"].std() > 0.5
    difference = np.abs(run.logits(way) - run.arrays["logits"]).max()
    print(f"{name}, {way}: {difference:.1e}, standard deviation {run.arrays['logits'].std():.2f}")
    assert difference < TOLERANCE
    assert run.equal(way, overlapped=True)


def test_the_cases_are_what_they_are_called(runs):
    assert 0.1 < runs["small"].zero_share < 0.9
    assert 0.1 < runs["tiny"].zero_share < 0.9
    assert runs["without-zero-experts"].zero_share == 0
    assert runs["zero-experts-only"].zero_share == 1


@pytest.mark.parametrize("way", ["prefill", "prefill, then decode"])
def test_bf16_is_as_near_as_transformers_own_bf16(runs, way):
    """By the mean: a routing decision that flips makes the largest difference as large as rounding ever can."""
    run = runs["bf16"]
    theirs = np.abs(run.arrays["logits"] - run.arrays["logits_fp32"]).mean()
    ours = np.abs(run.logits(way, torch.bfloat16) - run.arrays["logits_fp32"]).mean()
    between = np.abs(run.logits(way, torch.bfloat16) - run.arrays["logits"]).mean()
    print(f"mean difference: theirs {theirs:.4f}, ours {ours:.4f} from float32; between them {between:.4f}")
    assert ours < 1.5 * theirs
    assert between < 1.5 * theirs


def rotate_halves(x, cos, sin):
    """Rotation of element i with element i + R / 2 instead of its neighbour."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def rotate_into_halves(x, cos, sin, rotate=kernels.rotate):
    """Pairs of neighbours, all first elements before all second ones: what transformers returns."""
    rotated = rotate(x, cos, sin)
    return torch.cat((rotated[..., 0::2], rotated[..., 1::2]), dim=-1)


def keys_in_halves(x, cos, sin, rotate=kernels.rotate):
    """Queries [B, T, A, R] by pairs, keys [B, T, R] by halves."""
    return (rotate if x.dim() == 4 else rotate_halves)(x, cos, sin)


def scaled_rotation(*, query=1.0, key=1.0, rotate_and_cache=kernels.rotate_and_cache):
    def rotate(query_BTAR, latent_BTC, key_BTR, *rest):
        return rotate_and_cache(query * query_BTAR, latent_BTC, key * key_BTR, *rest)

    return rotate


def select(*, choice=1.0, weight=0.0, renormalise=False):
    """Expert selection with the bias in the choice or in the weights, at will."""

    def select_experts(logits_NZ, bias_Z, top_k, scaling_factor):
        probabilities = torch.softmax(logits_NZ, dim=-1)
        ids = torch.topk(probabilities + choice * bias_Z, top_k, dim=-1).indices
        chosen = (probabilities + weight * bias_Z).gather(1, ids)
        if renormalise:
            chosen = chosen / chosen.sum(dim=-1, keepdim=True)
        return ids, chosen * scaling_factor

    return select_experts


HARMLESS = {
    "(b) rotated elements in another order, in queries and keys alike": (
        kernels,
        "rotate",
        rotate_into_halves,
    ),
    "(d) the selection of this test": (kernels, "select_experts", select()),
}
WRONG = {
    "(a) latent norms with the blocks' eps": (attention, "LATENT_EPS", 1e-5),
    "(b) keys rotated by halves, queries by pairs": (kernels, "rotate", keys_in_halves),
    "(b) both rotated by halves": (kernels, "rotate", rotate_halves),
    "(c) query latent not scaled": (weights, "latent_scales", lambda c: (1.0, 2.0)),
    "(c) key-value latent not scaled": (weights, "latent_scales", lambda c: (2**0.5, 1.0)),
    "(c) shared key scaled": (kernels, "rotate_and_cache", scaled_rotation(key=2.0)),
    "(c) rotated part of the query not scaled": (kernels, "rotate_and_cache", scaled_rotation(query=2**-0.5)),
    "(d) bias in the weights": (kernels, "select_experts", select(weight=1.0)),
    "(d) bias not in the choice": (kernels, "select_experts", select(choice=0.0)),
    "(d) weights renormalised": (kernels, "select_experts", select(renormalise=True)),
}
"""Details that are easy to get wrong (docs/reference_model.md) -> what to replace by something else."""


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_a_harmless_change_does_not_show(runs, monkeypatch, change):
    monkeypatch.setattr(*change)
    assert runs["small-latents"].equal()
    assert runs["small-latents"].equal("prefill, then decode")


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_wrong_detail_shows(runs, monkeypatch, change):
    assert runs["small-latents"].equal()
    monkeypatch.setattr(*change)
    assert not runs["small-latents"].equal()
    assert not runs["small-latents"].equal("prefill, then decode")


def test_the_scales_of_the_wrong_details_are_those_of_the_case():
    assert weights.latent_scales(SMALL) == (2**0.5, 2.0)


def float32_tables(self, start, num_new, dtype):
    return self.cos[start : start + num_new], self.sin[start : start + num_new]


def unpermute_without_cast(y_PH, pairs_P, weights_NK, x_NH, zero_weight_N1):
    weighted = y_PH * weights_NK.flatten()[pairs_P, None]
    identity = x_NH * zero_weight_N1.to(x_NH.dtype)
    return identity.index_add(0, pairs_P // weights_NK.shape[1], weighted)


UNCAST = {
    "(e) cosines and sines left in float32": (work.Rotary, "at", float32_tables),
    "(e) experts' outputs left in float32": (kernels, "unpermute", unpermute_without_cast),
}


@pytest.mark.parametrize("change", UNCAST.values(), ids=UNCAST)
def test_a_missing_cast_shows_in_bf16(runs, monkeypatch, change):
    monkeypatch.setattr(*change)
    assert runs["small"].equal("prefill, then decode")  # it can't show in float32
    with pytest.raises(RuntimeError, match=r"dtype|scalar type"):
        runs["bf16"].logits("prefill, then decode", torch.bfloat16)


def test_weights_of_another_shape_are_refused(runs):
    arrays = runs["small"].arrays
    state = {name: torch.from_numpy(a) for name, a in arrays.items()}
    with pytest.raises(RuntimeError, match="shape"):
        weights.load_hugging_face(LongcatFlash(replace(SMALL, vocab_size=90)), state)
    del state["model.norm.weight"]
    with pytest.raises(KeyError):
        weights.load_hugging_face(LongcatFlash(SMALL), state)
