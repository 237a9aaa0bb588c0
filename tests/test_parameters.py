"""Parameter counts against what the models' authors publish, each by its own convention."""

import json
import math
from pathlib import Path

import pytest

from perfmodel.errors import SpecError
from perfmodel.ops.parameters import (
    active,
    active_by_real_experts,
    index_bytes_per_token,
    kv_bytes_per_token,
    matmul_parameters,
    ngram_parameters,
    parameter_counts,
)
from perfmodel.spec.documents import read_document
from perfmodel.spec.model import Model
from perfmodel.spec.models.reader import model_from_config

MODELS = Path(__file__).resolve().parent.parent / "perfmodel" / "data" / "models"
INDEX = read_document(MODELS / "index.yaml")
BILLION = 1e9


def load(name: str) -> Model:
    config = json.loads((MODELS / INDEX[name]["file"]).read_text())
    expected = INDEX[name].get("expected_real_experts")
    return model_from_config(config, name=name, expected_real_experts=expected)


def rounded(value: float, digits: int) -> float:
    return round(value / BILLION, digits)


def truncated(value: float, digits: int) -> float:
    return math.floor(value / BILLION * 10**digits) / 10**digits


def test_index_and_files_match() -> None:
    files = {path.name for path in MODELS.glob("*.json")}
    assert {card["file"] for card in INDEX.values()} == files
    for card in INDEX.values():
        assert {"title", "source", "retrieved", "license", "card"} <= set(card)
        assert {"total_b", "convention", "source"} <= set(card["card"])


def test_longcat_flash_total_is_exact() -> None:
    """arXiv 2509.01322: 560 B, multi-token prediction excluded."""
    counts = parameter_counts(load("longcat-flash"))
    assert counts.total == 560_664_958_976
    assert counts.embedding == counts.head == 131072 * 6144
    assert rounded(counts.experts, 3) == 541.166
    assert rounded(counts.dense_ffn, 3) == 12.684
    assert rounded(counts.attention, 3) == 5.072
    assert rounded(counts.router, 3) == 0.132
    assert counts.norms == (28 * 4 + 1) * 6144
    assert counts.shared_experts == counts.ngram_embedding == counts.indexer == 0


def test_longcat_flash_active() -> None:
    """Published 18.6 to 31.3 B, mean about 27 B: the head counted, the embedding not; truncated."""
    model = load("longcat-flash")
    by_k = active_by_real_experts(model)
    assert list(by_k) == ["0", "8", "12"]
    assert all(isinstance(value, int) for value in by_k.values())
    assert [rounded(value, 2) for value in by_k.values()] == [18.69, 27.15, 31.38]
    assert [truncated(by_k[k], 1) for k in ("0", "12")] == [18.6, 31.3]
    with_embedding = active_by_real_experts(model, with_embedding=True)
    assert [rounded(value, 2) for value in with_embedding.values()] == [19.5, 27.95, 32.18]
    assert with_embedding["8"] - by_k["8"] == 131072 * 6144


def test_longcat_flash_draft_layer_is_dense() -> None:
    """Report, Table 5: the draft layer is 1.41 % of the activated parameters."""
    model = load("longcat-flash")
    draft = parameter_counts(model).mtp
    assert rounded(draft, 4) == 0.3926
    low = draft / active(model, 8, with_embedding=True)
    assert low < 0.0141 < draft / active(model, 8)


def test_longcat_flash_lite() -> None:
    """arXiv 2601.21204: 68.5 B, 2.9 to 4.5 B active; truncated, without any embedding."""
    model = load("longcat-flash-lite")
    counts = parameter_counts(model)
    tables, projections = ngram_parameters(model)
    assert counts.total == 68_562_459_648
    assert truncated(counts.total, 1) == 68.5
    assert rounded(counts.total - projections, 2) == 68.55
    assert rounded(tables, 1) == 31.4
    by_k = active_by_real_experts(model)
    assert [rounded(by_k[k], 2) for k in ("0", "12")] == [2.92, 4.51]
    assert [truncated(by_k[k], 1) for k in ("0", "12")] == [2.9, 4.5]
    embedded = active(model, 12, with_embedding=True)
    assert embedded - by_k["12"] == 131072 * 3072 + projections


def test_longcat_2_total_and_active() -> None:
    """Published 1.6 T, 33 to 56 B, about 48 B; truncated, indexers and embeddings not active."""
    model = load("longcat-2.0")
    counts = parameter_counts(model)
    assert counts.total == 1_638_327_885_824
    assert truncated(counts.total, -2) == 1600
    by_k = active_by_real_experts(model)
    assert [rounded(value, 2) for value in by_k.values()] == [33.06, 48.36, 56.01]
    assert rounded(sum(ngram_parameters(model)), 0) == 135
    assert rounded(active(model, 8, with_embedding=True), 2) == 49.77


def test_longcat_2_matches_its_checkpoint_element_by_element() -> None:
    """Elements of meituan-longcat/LongCat-2.0's safetensors, outside and inside ``model.mtp``.

    A checkpoint also holds the routers' correction bias, and in ``model.mtp`` an indexer of its own
    and copies of the embedding and of the n-gram tables (the projections left out would not fit).
    """
    model = load("longcat-2.0")
    counts = parameter_counts(model)
    correction_biases = 38 * (768 + 128)
    assert counts.total + counts.indexer + correction_biases == 1_638_616_807_424
    assert model.mtp is not None
    assert model.mtp.num_layers == 1
    copies = counts.embedding + counts.ngram_embedding + counts.indexer // 38
    assert counts.mtp + copies == 136_943_683_712


@pytest.mark.parametrize(
    ("name", "total_b", "digits", "active_b", "active_digits", "with_embedding"),
    [
        ("deepseek-v3", 671, 0, 37, 0, False),
        ("kimi-k2", 1000, -3, 32, 0, False),
        ("qwen3-235b-a22b", 235, 0, 22, 0, True),
        ("mixtral-8x22b", 141, 0, 39, 0, True),
        ("gpt-oss-120b", 116.8, 1, 5.1, 1, False),
        ("llama-3.1-70b", 70.6, 1, 70.6, 1, True),
    ],
)
def test_cards(
    name: str,
    total_b: float,
    digits: int,
    active_b: float,
    active_digits: int,
    with_embedding: bool,
) -> None:
    """The published total and active count, rounded as the card rounds and by its convention."""
    model = load(name)
    card = INDEX[name]["card"]
    assert (card["total_b"], card["active_b"]) == (total_b, active_b)
    assert rounded(parameter_counts(model).total, digits) == total_b
    top_k = model.moe.top_k if model.moe else 0
    used = active(model, top_k, with_embedding=with_embedding)
    assert rounded(used, active_digits) == active_b
    assert ("with embedding" in INDEX[name]["card"]["convention"]) == with_embedding


@pytest.mark.parametrize(
    ("name", "without", "with_embedding"),
    [
        ("deepseek-v3", 36.63, 37.55),
        ("kimi-k2", 31.69, 32.86),
        ("qwen3-235b-a22b", 21.57, 22.19),
        ("qwen3-30b-a3b", 3.04, 3.35),
        ("mixtral-8x22b", 38.96, 39.15),
        ("gpt-oss-120b", 5.13, 5.71),
        ("glm-4.5", 32.86, 33.63),
        ("llama-3.1-70b", 69.5, 70.55),
    ],
)
def test_active_with_and_without_embedding(name: str, without: float, with_embedding: float) -> None:
    model = load(name)
    (used,) = active_by_real_experts(model).values()
    (more,) = active_by_real_experts(model, with_embedding=True).values()
    assert rounded(used, 2) == pytest.approx(without, abs=0.0051)
    assert rounded(more, 2) == pytest.approx(with_embedding, abs=0.0051)


def test_qwen3_30b_card_truncates_its_active_count() -> None:
    """Card: 30.5 B in total, 3.3 B activated (3.35 B with embedding)."""
    model = load("qwen3-30b-a3b")
    assert rounded(parameter_counts(model).total, 1) == 30.5
    assert truncated(active(model, 8, with_embedding=True), 1) == 3.3


def test_glm_counts_its_draft_layer_and_leaves_embedding_and_head_out() -> None:
    """arXiv 2508.06471: 355 B and 32 B, with the draft layer, without embedding and head."""
    model = load("glm-4.5")
    counts = parameter_counts(model)
    assert rounded(counts.total + counts.mtp - counts.embedding - counts.head, 0) == 355
    assert rounded(active(model, 8) - counts.head, 0) == 32


def test_deepseek_draft_layer() -> None:
    """arXiv 2412.19437, 2.2: one more layer with experts, and a projection of 2 x 7168 to 7168."""
    counts = parameter_counts(load("deepseek-v3"))
    layer = counts.mtp - 2 * 7168 * 7168 - 3 * 7168
    assert rounded(layer, 2) == 11.51
    per_moe_layer = (counts.experts + counts.shared_experts + counts.router) // 58
    assert layer == per_moe_layer + counts.attention // 61 + 2 * 7168


def test_kv_cache_bytes() -> None:
    flash = load("longcat-flash")
    assert kv_bytes_per_token(flash) == 64_512
    assert kv_bytes_per_token(flash, "fp8") == 35_840
    assert kv_bytes_per_token(load("deepseek-v3")) == 70_272
    assert kv_bytes_per_token(load("longcat-2.0")) == 38 * 2 * 576 * 2
    assert index_bytes_per_token(load("longcat-2.0")) == 38 * 132, "FP8 with a scale"
    assert index_bytes_per_token(load("longcat-2.0"), "bf16") == 38 * 256
    assert index_bytes_per_token(flash) == 0
    llama = load("llama-3.1-70b")
    assert kv_bytes_per_token(llama) == 80 * 2 * 8 * 128 * 2
    assert kv_bytes_per_token(llama, "fp8") == 80 * 2 * 8 * 128
    assert kv_bytes_per_token(load("gpt-oss-120b")) == 36 * 2 * 8 * 64 * 2, "sliding layers count"
    with pytest.raises(SpecError, match="int4"):
        kv_bytes_per_token(flash, "int4")


def test_real_experts_must_be_possible() -> None:
    flash = load("longcat-flash")
    for wrong in (-1, 12.5, math.nan):
        with pytest.raises(SpecError, match=f"real_experts = {wrong}"):
            active(flash, wrong)
    with pytest.raises(SpecError, match="real_experts = 1"):
        active(load("llama-3.1-70b"), 1)
    assert active(flash, 7.46) == pytest.approx(0.54 * active(flash, 7) + 0.46 * active(flash, 8), rel=1e-12)


def test_active_is_linear_in_real_experts() -> None:
    flash = load("longcat-flash")
    step = 28 * 3 * 6144 * 2048
    assert [active(flash, k) - active(flash, 0) for k in range(13)] == [k * step for k in range(13)]
    assert active(flash, 0.5) - active(flash, 0) == step / 2


def test_matmul_parameters_leave_vectors_out() -> None:
    """LongCat-Flash: neither the block norms nor the low-rank norms (56 x 2048) are matrices."""
    flash = load("longcat-flash")
    vectors = (28 * 4 + 1) * 6144 + 56 * (1536 + 512)
    assert active(flash, 8) - matmul_parameters(flash, 8) == vectors
    lite = load("longcat-flash-lite")
    projections = ngram_parameters(lite)[1]
    vectors = (14 * 4 + 1) * 3072 + 28 * (1536 + 512)
    assert matmul_parameters(lite, 0) - active(lite, 0) == projections - vectors


def test_tied_embedding_counts_once_in_total_and_still_as_head() -> None:
    config = json.loads((MODELS / "llama-3.1-70b.json").read_text())
    untied = model_from_config(config, name="untied")
    tied = model_from_config(config | {"tie_word_embeddings": True}, name="tied")
    table = 128256 * 8192
    assert parameter_counts(untied).total - parameter_counts(tied).total == table
    assert active(tied, 0) == active(untied, 0)
    assert active(tied, 0, with_embedding=True) == active(tied, 0) == parameter_counts(tied).total
