"""What a LongCat-Flash is made of: sizes under Hugging Face's key names, and four models to run or count."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Sizes of a model. Names are those of the released ``config.json``.

    Raises:
        ValueError: a size that is not positive, an odd rotary width, or more experts per token than experts.
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

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{field.name} = {value!r} must be a number")
            optional = field.name in ("zero_expert_num", "mtp_num_layers")
            if value < 0 or (value == 0 and not optional):
                raise ValueError(f"{field.name} = {value} must be {'at least' if optional else 'above'} 0")
        if self.qk_rope_head_dim % 2:
            raise ValueError(f"qk_rope_head_dim = {self.qk_rope_head_dim} must be even: pairs are rotated")
        if self.moe_topk > self.num_experts:
            raise ValueError(f"moe_topk = {self.moe_topk} must be at most the {self.num_experts} experts")
        if self.mtp_num_layers > 1:
            raise ValueError(f"mtp_num_layers = {self.mtp_num_layers} must be 0 or 1")

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
        for key, allowed in _ONLY.items():
            if stated.get(key, allowed) != allowed:
                raise ValueError(f"{path}: {key} = {stated[key]!r} is not implemented; allowed: {allowed!r}")
        for key in _ABSENT:
            if stated.get(key):
                raise ValueError(f"{path}: {key} = {stated[key]!r} is not implemented; remove the key")
        return cls(**_own_keys(stated, path))

    def as_hugging_face(self) -> dict[str, Any]:
        """The same as a ``config.json``'s keys, for perfmodel and for transformers.

        ``head_dim`` is there because transformers takes the rotary width from it.
        """
        return asdict(self) | {
            "architectures": ["LongcatFlashForCausalLM"],
            "model_type": "longcat_flash",
            "head_dim": self.qk_rope_head_dim,
            **_ONLY,
        }


def _own_keys(stated: Mapping[str, Any], path: Path | str) -> dict[str, Any]:
    """The fields of a Config among a file's keys; some may be missing, as defaults exist."""
    given = {field.name: stated[field.name] for field in fields(Config) if field.name in stated}
    given.setdefault("zero_expert_num", 0)
    optional = ("routed_scaling_factor", "rope_theta", "rms_norm_eps", "mtp_num_layers")
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
_ABSENT: Final = (
    "rope_scaling",
    "ngram_vocab_size_ratio",
    "oe_vocab_size_ratio",
    "index_n_heads",
    "nextn_use_scmoe",
)
"""Keys whose presence means a part that is not implemented: YaRN, n-gram embedding, sparse attention, ScMoE draft."""

SIZES: Final[Mapping[str, Config]] = {
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
"""Models by name: tiny for tests, small and medium to time on a CPU, full (the released 560 B) to count on ``meta``.

All keep the released proportions that matter for time: two real experts per zero-computation expert, dense FFNs twice
and experts about a third of the hidden width, query latent a quarter of it (half in tiny).
"""
