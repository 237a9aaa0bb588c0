"""What a LongCat is made of: sizes under Hugging Face's key names, and models to run or count."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Sizes of a model. Names are those of the released ``config.json``.

    Raises:
        ValueError: a size that is not positive, an odd rotary width, more experts per token than experts, or an index
            branch or n-gram embedding of which some keys are missing or do not go together.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    """Shortcut-connected blocks, each with two attentions and two dense FFNs."""
    num_attention_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    ffn_hidden_size: int
    """Width of the dense FFNs."""
    expert_ffn_hidden_size: int
    n_routed_experts: int
    """Real experts."""
    zero_expert_num: int
    """Zero-computation experts, which return their input."""
    moe_topk: int
    """Experts that a token selects, of both kinds."""
    routed_scaling_factor: float = 6.0
    rope_theta: float = 1e7
    rms_norm_eps: float = 1e-5
    """Of the norms of a block; those of the latents have 1e-6."""
    max_position_embeddings: int
    mtp_num_layers: int = 1
    """Multi-token prediction layers: 0 or 1."""
    index_n_heads: int = 0
    """Heads of the index branch of a sparse attention (LSA), one branch for the two attentions of a block; 0: none."""
    index_head_dim: int = 0
    """Width of an index head, and of the key that is cached for all."""
    index_topk: int = 0
    """Tokens that a query attends to."""
    index_init_tokens: int = 0
    """First tokens of a request that are always among them."""
    index_local_tokens: int = 0
    """Latest tokens that are always among them."""
    oe_vocab_size_ratio: float = 0.0
    """Rows of an n-gram table per row of the vocabulary, about; 0: no n-gram embedding."""
    oe_neighbor_num: int = 0
    """Tokens of the longest n-gram."""
    oe_split_num: int = 0
    """Tables for each length of n-gram."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{field.name} = {value!r} must be a number")
            optional = field.name in _OPTIONAL
            if value < 0 or (value == 0 and not optional):
                raise ValueError(f"{field.name} = {value} must be {'at least' if optional else 'above'} 0")
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim = {self.qk_rope_head_dim} must be even: pairs are rotated")
        if self.moe_topk > self.num_experts:
            raise ValueError(f"moe_topk = {self.moe_topk} must be at most the {self.num_experts} experts")
        if self.mtp_num_layers > 1:
            raise ValueError(f"mtp_num_layers = {self.mtp_num_layers} must be 0 or 1")
        self._check_index_branch()
        self._check_ngrams()

    def _check_index_branch(self) -> None:
        always = self.index_init_tokens + self.index_local_tokens
        if not self.sparse:
            if self.index_head_dim or self.index_topk or always:
                raise ValueError(
                    "index_n_heads = 0 must be above 0 where other keys of an index branch are stated"
                )
            return
        if self.index_head_dim <= self.qk_rope_head_dim:
            raise ValueError(
                f"index_head_dim = {self.index_head_dim} must be above qk_rope_head_dim = {self.qk_rope_head_dim}, "
                f"which is rotated of each of the index_n_heads = {self.index_n_heads} heads"
            )
        if self.index_topk < max(always, 1):
            raise ValueError(
                f"index_topk = {self.index_topk} must be at least 1 and at least index_init_tokens + "
                f"index_local_tokens = {always}, which are among them"
            )

    def _check_ngrams(self) -> None:
        stated = (self.oe_vocab_size_ratio, self.oe_neighbor_num, self.oe_split_num)
        if not any(stated):
            return
        if not all(stated) or self.oe_neighbor_num < 2:
            raise ValueError(
                f"oe_vocab_size_ratio, oe_neighbor_num, oe_split_num = {stated} must all be above 0, and n-grams of at "
                "least 2 tokens"
            )
        if self.hidden_size % self.num_ngram_tables:
            raise ValueError(
                f"hidden_size = {self.hidden_size} must be a multiple of the {self.num_ngram_tables} n-gram tables "
                "(oe_neighbor_num - 1) x oe_split_num"
            )

    @property
    def sparse(self) -> bool:
        """Whether attention is LSA."""
        return self.index_n_heads > 0

    @property
    def num_ngram_tables(self) -> int:
        """Tables of the n-gram embedding."""
        return max(self.oe_neighbor_num - 1, 0) * self.oe_split_num

    @property
    def ngram_rows(self) -> list[int]:
        """Rows of each n-gram table, all different, so that two n-grams seldom share a row in all of them."""
        first = int(self.oe_vocab_size_ratio * self.vocab_size) + 1
        return [first + 2 * table for table in range(self.num_ngram_tables)]

    @property
    def tokens_before(self) -> int:
        """Tokens that an n-gram looks back beyond its last one."""
        return max(self.oe_neighbor_num - 1, 0)

    @property
    def qk_head_dim(self) -> int:
        """Width of a query head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_dim(self) -> int:
        """Elements that one attention caches of a token: latent and rotated key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def num_experts(self) -> int:
        """Experts of both kinds: what the router chooses from."""
        return self.n_routed_experts + self.zero_expert_num

    @property
    def expected_real_experts(self) -> float:
        """Real experts per token if all experts are chosen equally often (K_e): 8 of 12 in the released model."""
        return self.moe_topk * self.n_routed_experts / self.num_experts

    @classmethod
    def from_json(cls, path: Path | str) -> "Config":
        """Reads a ``config.json``; keys that change nothing here are ignored.

        Raises:
            ValueError: a key is missing, or one has a value that this model does not implement.
        """
        stated = json.loads(Path(path).read_text())
        for key, allowed in {**_ONLY, **_ONLY_SPARSE}.items():
            if stated.get(key, allowed) != allowed:
                raise ValueError(f"{path}: {key} = {stated[key]!r} is not implemented; allowed: {allowed!r}")
        for key in _ABSENT:
            if stated.get(key):
                raise ValueError(f"{path}: {key} = {stated[key]!r} is not implemented; remove the key")
        if stated.get("mtp_replicate_modules"):  # passes through one layer
            stated["mtp_num_layers"] = min(stated.get("mtp_num_layers", 1), 1)
        return cls(**_own_keys(stated, path))

    def as_hugging_face(self) -> dict[str, Any]:
        """The same as a ``config.json``'s keys, for perfmodel and for transformers.

        ``head_dim`` is there because transformers takes the rotary width from it.
        """
        return {
            **{name: value for name, value in asdict(self).items() if value or name not in _LATER},
            "architectures": ["LongcatFlashForCausalLM"],
            "head_dim": self.qk_rope_head_dim,
            **_ONLY,
            **(_ONLY_SPARSE if self.sparse else {}),
        }


def _own_keys(stated: Mapping[str, Any], path: Path | str) -> dict[str, Any]:
    """The fields of a Config among a file's keys; some may be missing, as defaults exist."""
    given = {field.name: stated[field.name] for field in fields(Config) if field.name in stated}
    given.setdefault("zero_expert_num", 0)
    optional = {"routed_scaling_factor", "rope_theta", "rms_norm_eps", "mtp_num_layers"} | _LATER
    missing = [field.name for field in fields(Config) if field.name not in {*given, *optional}]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing")
    return given


_ONLY: Final[Mapping[str, Any]] = {
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "attention_bias": False,
    "router_bias": False,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "model_type": "longcat_flash",
}
"""Keys that other LongCat models set otherwise -> the one value that is implemented (also if missing)."""
_ONLY_SPARSE: Final[Mapping[str, Any]] = {
    "use_longcat_dsa": True,
    "cli_factor": 2,
    "index_k_norm_type": "rms",
    "mtp_disable_over_tokenizer": True,
}
"""The same of LongCat-2.0's keys."""
_ABSENT: Final = ("rope_scaling", "ngram_vocab_size_ratio", "index_topk_pattern", "nextn_use_scmoe")
"""Keys whose presence means a part that is not implemented: YaRN, Flash-Lite's scale of n-gram embeddings, index
branches in some layers alone, ScMoE draft."""
_LATER: Final = {
    "index_n_heads",
    "index_head_dim",
    "index_topk",
    "index_init_tokens",
    "index_local_tokens",
    "oe_vocab_size_ratio",
    "oe_neighbor_num",
    "oe_split_num",
}
"""Keys of parts that LongCat-Flash does not have."""
_OPTIONAL: Final = {"zero_expert_num", "mtp_num_layers"} | _LATER
"""Sizes that may be 0."""

_FLASH: Final[Mapping[str, Config]] = {
    "tiny": Config(
        vocab_size=512,
        hidden_size=128,
        num_layers=2,
        num_attention_heads=4,
        q_lora_rank=64,
        kv_lora_rank=32,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        ffn_hidden_size=256,
        expert_ffn_hidden_size=64,
        n_routed_experts=16,
        zero_expert_num=8,
        moe_topk=6,
        max_position_embeddings=1024,
    ),
    "small": Config(
        vocab_size=4096,
        hidden_size=512,
        num_layers=4,
        num_attention_heads=8,
        q_lora_rank=128,
        kv_lora_rank=64,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        ffn_hidden_size=1024,
        expert_ffn_hidden_size=192,
        n_routed_experts=32,
        zero_expert_num=16,
        moe_topk=12,
        max_position_embeddings=8192,
    ),
    "medium": Config(
        vocab_size=4096,
        hidden_size=1024,
        num_layers=4,
        num_attention_heads=16,
        q_lora_rank=256,
        kv_lora_rank=128,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        ffn_hidden_size=2048,
        expert_ffn_hidden_size=384,
        n_routed_experts=32,
        zero_expert_num=16,
        moe_topk=12,
        max_position_embeddings=8192,
    ),
    "full": Config(
        vocab_size=131072,
        hidden_size=6144,
        num_layers=28,
        num_attention_heads=64,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        ffn_hidden_size=12288,
        expert_ffn_hidden_size=2048,
        n_routed_experts=512,
        zero_expert_num=256,
        moe_topk=12,
        max_position_embeddings=131072,
    ),
}
_LSA: Final[Mapping[str, Config]] = {
    "lsa-tiny": replace(
        _FLASH["tiny"],
        index_n_heads=2,
        index_head_dim=32,
        index_topk=32,
        index_init_tokens=2,
        index_local_tokens=16,
        oe_vocab_size_ratio=2.5,
        oe_neighbor_num=5,
        oe_split_num=4,
    ),
    "lsa-small": replace(
        _FLASH["small"],
        index_n_heads=4,
        index_head_dim=64,
        index_topk=256,
        index_init_tokens=2,
        index_local_tokens=128,
        oe_vocab_size_ratio=2.5,
        oe_neighbor_num=5,
        oe_split_num=4,
    ),
    "lsa-medium": replace(
        _FLASH["medium"],
        index_n_heads=8,
        index_head_dim=64,
        index_topk=512,
        index_init_tokens=4,
        index_local_tokens=256,
        oe_vocab_size_ratio=2.5,
        oe_neighbor_num=5,
        oe_split_num=4,
    ),
    "lsa-full": Config(
        vocab_size=163840,
        hidden_size=8192,
        num_layers=38,
        num_attention_heads=64,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        ffn_hidden_size=12288,
        expert_ffn_hidden_size=2048,
        n_routed_experts=768,
        zero_expert_num=128,
        moe_topk=12,
        routed_scaling_factor=9,
        rope_theta=1e6,
        max_position_embeddings=262144,
        index_n_heads=32,
        index_head_dim=128,
        index_topk=2048,
        index_init_tokens=16,
        index_local_tokens=1024,
        oe_vocab_size_ratio=100.567,
        oe_neighbor_num=5,
        oe_split_num=4,
    ),
}
SIZES: Final[Mapping[str, Config]] = {**_FLASH, **_LSA}
"""Models by name: tiny for tests, small and medium to time on a CPU, full (the released ones) to count on ``meta``.
With MLA they are LongCat-Flash (560 B); ``lsa-``, with sparse attention and n-gram embedding, LongCat-2.0 (1.6 T).

All keep the released proportions that matter for time: two real experts per zero-computation expert (lsa-full: six),
dense FFNs twice and experts about a third of the hidden width, query latent a quarter of it (half in tiny); half as
many index heads as heads, and half of what is selected chosen by its place.
"""
