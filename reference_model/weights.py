"""Setting a model's weights: at random, the same on every number of ranks, or from transformers."""

import zlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from reference_model.attention import MLA
from reference_model.config import Config
from reference_model.model import Block, LongcatFlash
from reference_model.moe import Experts, Router


def latent_scales(config: Config) -> tuple[float, float]:
    """LongCat's scale corrections of query and key-value latent: sqrt(H / L) and sqrt(H / C).

    They belong behind the latents' norms, and a norm's weight takes them in for good: the released engine folds them
    in when it loads, too. The shared rotated key is not scaled.
    """
    return (config.hidden_size / config.q_lora_rank) ** 0.5, (config.hidden_size / config.kv_lora_rank) ** 0.5


@torch.no_grad()
def init_weights(model: LongcatFlash, seed: int) -> None:
    """Random weights: matrices normal with standard deviation 1 / sqrt(fan in), norms one, correction bias zero.

    Each matrix (each expert, each n-gram table's projection) has a generator of its own, so all ranks of an
    expert-parallel model, and a model on one rank, have the same weights.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        elif parameter.dim() == 2:
            _fill(parameter, seed, name)
        else:
            first = model.exchange.rank * parameter.shape[0] if ".experts." in name else 0
            for expert, matrix in enumerate(parameter):
                _fill(matrix, seed, f"{name} {first + expert}")
    for module in model.modules():
        if isinstance(module, MLA):
            _fold_scales(module)
        elif isinstance(module, Router):
            module.bias_Z.zero_()


def _fill(matrix: Tensor, seed: int, name: str) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    matrix.copy_(torch.randn(matrix.shape, generator=generator) * matrix.shape[-1] ** -0.5)


def _fold_scales(attention: MLA) -> None:
    query, latent = latent_scales(attention.config)
    attention.q_norm_L.mul_(query)
    attention.kv_norm_C.mul_(latent)


@torch.no_grad()
def load_hugging_face(model: LongcatFlash, state: Mapping[str, Tensor]) -> None:
    """Weights from the state dict of a ``LongcatFlashForCausalLM`` in memory; takes this rank's experts.

    transformers 5.23 allocates ``gate_up_proj`` for zero-computation experts too: the first E are taken. It has no
    draft layer, so a model with one keeps what that has.

    Raises:
        KeyError: a weight is missing.
        RuntimeError: a weight has another shape than the model's.
    """
    _set(model.embedding, state["model.embed_tokens.weight"])
    _set(model.norm, state["model.norm.weight"])
    _set(model.head, state["lm_head.weight"])
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        prefix = f"model.layers.{index}."
        for half, layer in enumerate((block.first, block.second)):
            _set(layer.in_norm, state[f"{prefix}input_layernorm.{half}.weight"])
            _set(layer.post_norm, state[f"{prefix}post_attention_layernorm.{half}.weight"])
            _load_attention(layer.attention, state, f"{prefix}self_attn.{half}.")
            gate, up, down = (
                state[f"{prefix}mlps.{half}.{part}_proj.weight"] for part in ("gate", "up", "down")
            )
            _set(layer.ffn.gate_up, gate, up)
            _set(layer.ffn.down, down)
        _set(block.moe.router.classifier, state[f"{prefix}mlp.router.classifier.weight"])
        _set(block.moe.router.bias_Z, state[f"{prefix}mlp.router.e_score_correction_bias"])
        _load_experts(block.moe.experts, state, f"{prefix}mlp.experts.", model.exchange.rank)


def _load_attention(attention: MLA, state: Mapping[str, Tensor], prefix: str) -> None:
    down = (state[f"{prefix}q_a_proj.weight"], state[f"{prefix}kv_a_proj_with_mqa.weight"])
    _set(attention.qkv_a, *down)
    _set(attention.q_norm_L, state[f"{prefix}q_a_layernorm.weight"])
    _set(attention.kv_norm_C, state[f"{prefix}kv_a_layernorm.weight"])
    _fold_scales(attention)
    _set(attention.q_b, state[f"{prefix}q_b_proj.weight"])
    _set(attention.kv_b, state[f"{prefix}kv_b_proj.weight"])
    _set(attention.o, state[f"{prefix}o_proj.weight"])


def _load_experts(experts: Experts, state: Mapping[str, Tensor], prefix: str, rank: int) -> None:
    num_local = experts.down_EHF.shape[0]
    own = slice(rank * num_local, (rank + 1) * num_local)
    _set(experts.gate_up_EFH, state[f"{prefix}gate_up_proj"][own])
    _set(experts.down_EHF, state[f"{prefix}down_proj"][own])


def _set(parameter: Tensor, *parts: Tensor) -> None:
    """Copies the parts, one below another, into a parameter of exactly that shape."""
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    if whole.shape != parameter.shape:
        raise RuntimeError(f"a weight of shape {tuple(whole.shape)} must have {tuple(parameter.shape)}")
    parameter.copy_(whole)


def block_parameters(model: LongcatFlash) -> Iterator[tuple[str, Tensor]]:
    """All parameters but those of the draft layer, which model cards count apart."""
    return (item for item in model.named_parameters() if not item[0].startswith("mtp."))
