"""Runs transformers' GlmMoeDsaAttention on random weights: PYTHON sparse_attention.py FOLDER.

FOLDER/case.json has "config" (keys of a GlmMoeDsaConfig), "seed", "batch", "tokens" and "eps". Two attentions: one with
an index branch, and one that uses its selection. The index key's norm is replaced by an RMS norm of that eps, which is
what LongCat has. Writes FOLDER/out.npz: "x0", "x1" (inputs), "out0", "out1", "ids" (selected by the first), and
"0.<name>", "1.<name>" (weights).
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from transformers import GlmMoeDsaConfig
from transformers.models.glm_moe_dsa.modeling_glm_moe_dsa import GlmMoeDsaAttention, GlmMoeDsaRotaryEmbedding

WIDTH = 0.3


@torch.no_grad()
def main(folder: Path) -> None:
    """Both attentions on inputs of their own."""
    case = json.loads((folder / "case.json").read_text())
    config = GlmMoeDsaConfig(**case["config"], num_hidden_layers=2, indexer_types=["full", "shared"])
    config._attn_implementation = "eager"
    generator = torch.Generator().manual_seed(case["seed"])
    batch, tokens = case["batch"], case["tokens"]
    places = torch.arange(tokens)[None]
    mask = torch.ones(batch, 1, tokens, tokens, dtype=torch.bool).tril()
    mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    results, ids = {}, None
    for index in range(2):
        attention = GlmMoeDsaAttention(config, index).eval()
        if attention.indexer is not None:
            attention.indexer.k_norm = torch.nn.RMSNorm(config.index_head_dim, eps=case["eps"])
        for name, weight in attention.state_dict().items():
            if "norm" in name:
                weight.copy_(0.5 + torch.rand(weight.shape, generator=generator))
            else:
                weight.copy_(WIDTH * torch.randn(weight.shape, generator=generator))
            results[f"{index}.{name}"] = weight.numpy()
        x = torch.randn(batch, tokens, config.hidden_size, generator=generator)
        embeddings = GlmMoeDsaRotaryEmbedding(config)(x, places)
        out, _, ids = attention(x, embeddings, mask, position_ids=places, prev_topk_indices=ids)
        results |= {f"x{index}": x.numpy(), f"out{index}": out.numpy(), "ids": ids.numpy()}
    np.savez(folder / "out.npz", **results)
    print(json.dumps({"transformers": __import__("transformers").__version__}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
