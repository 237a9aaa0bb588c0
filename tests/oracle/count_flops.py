"""Prints matrix-multiply FLOPs of transformers' models: PYTHON count_flops.py PATH=EXPERTS...

One decoder layer of each kind and the head run on the meta device at full width and are scaled by
their numbers. The experts' loop depends on data, so that it is replaced by a batched multiply of
EXPERTS experts that get every token each. Attention is the full square: no mask, no causality.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from hf_models import build, run
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

TOKENS = 512


def balanced(experts: nn.Module, chosen: int) -> Callable[..., Tensor]:
    """A forward for a mixture in which ``chosen`` experts multiply every token each."""
    gate_up, down = experts.gate_up_proj[:chosen], experts.down_proj[:chosen]
    if gate_up.shape[1] == 2 * down.shape[-1]:  # stored as [out, in], except in gpt-oss
        gate_up, down = gate_up.transpose(1, 2), down.transpose(1, 2)

    def forward(hidden: Tensor, *_: object, **__: object) -> Tensor:
        tokens = hidden.reshape(1, -1, hidden.shape[-1]).expand(chosen, -1, -1)
        gate, up = torch.bmm(tokens, gate_up).chunk(2, dim=-1)
        return torch.bmm(gate * up, down).sum(0).view(hidden.shape)

    return forward


def layer_flops(model: nn.Module, layer: nn.Module, experts: int | None) -> tuple[int, int]:
    """Linear and attention FLOPs of one layer for TOKENS tokens."""
    for name, module in layer.named_modules():
        if name.split(".")[-1] == "experts":
            module.forward = balanced(module, experts or model.config.num_experts_per_tok)
    hidden = torch.empty(1, TOKENS, model.config.hidden_size, device="meta")
    positions = torch.arange(TOKENS, device="meta").unsqueeze(0)
    embeddings = model.model.rotary_emb(hidden, positions)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(hidden, attention_mask=None, position_ids=positions, position_embeddings=embeddings)
    attention = sum(
        flops
        for module, counts in counter.get_flop_counts().items()
        if "self_attn" in module.split(".")[1:] and module.split(".")[-1] in ("self_attn", "0", "1")
        for operator, flops in counts.items()
        if operator is torch.ops.aten.bmm
    )
    return counter.get_total_flops() - attention, attention


def count(path: Path, experts: int | None) -> dict[str, int]:
    """FLOPs of the whole model for TOKENS tokens, split into linear and attention."""
    model = build(path)
    model.float()
    kinds: dict[str, list[nn.Module]] = {}
    for layer in model.model.layers:
        kinds.setdefault(type(layer.mlp).__name__, []).append(layer)
    linear = attention = 0
    for layers in kinds.values():
        one = layer_flops(model, layers[0], experts)
        linear += len(layers) * one[0]
        attention += len(layers) * one[1]
    head = 2 * TOKENS * model.lm_head.weight.numel()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.lm_head(torch.empty(1, TOKENS, model.config.hidden_size, device="meta"))
    if counter.get_total_flops() != head:
        raise RuntimeError(f"head: {counter.get_total_flops()} FLOPs, {head} expected")
    chosen = experts or getattr(model.config, "num_experts_per_tok", 0)
    return {"tokens": TOKENS, "experts": chosen, "linear": linear + head, "attention": attention}


if __name__ == "__main__":
    run(count)
