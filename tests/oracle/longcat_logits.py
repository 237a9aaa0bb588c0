"""Runs transformers' LongcatFlashForCausalLM on random weights: PYTHON longcat_logits.py FOLDER.

FOLDER/cases.json is {name: case}; a case has "config" (keys of a config.json), "seed", "batch", "tokens" and, optional,
"bf16", "zero_bias" (added to the correction bias of zero-computation experts) and "latent_scale" (multiplies the
latents' down-projections). Writes FOLDER/<name>.npz with the state dict, "ids" and "logits" of every position (and
"logits_fp32", of the same weights in float32, for bf16), and prints each case's fraction of zero-computation choices.

Weights are wide (standard deviation 0.2, norms uniform in 0.5 to 1.5) and the correction bias is random, so that no
part of the model can be left out unseen.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LongcatFlashConfig, LongcatFlashForCausalLM

WIDTH = 0.2


@torch.no_grad()
def randomise(model: nn.Module, case: dict[str, Any]) -> None:
    """Sets every weight from the case's seed."""
    generator = torch.Generator().manual_seed(case["seed"])
    for name, weight in model.state_dict().items():
        if name.endswith("norm.weight") or "layernorm" in name:
            weight.copy_(0.5 + torch.rand(weight.shape, generator=generator))
        elif name.endswith("e_score_correction_bias"):
            real = case["config"]["n_routed_experts"]
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
            weight[real:] += case.get("zero_bias", 0.0)
        else:
            weight.copy_(WIDTH * torch.randn(weight.shape, generator=generator))
            if name.endswith(("q_a_proj.weight", "kv_a_proj_with_mqa.weight")):
                weight.mul_(case.get("latent_scale", 1.0))


@torch.no_grad()
def run(case: dict[str, Any], path: Path) -> float:
    """Saves one case's weights and logits; the fraction of choices that fell on zero-computation experts."""
    config = LongcatFlashConfig(**case["config"])
    model = LongcatFlashForCausalLM(config).eval()
    randomise(model, case)
    generator = torch.Generator().manual_seed(case["seed"] + 1)
    ids = torch.randint(config.vocab_size, (case["batch"], case["tokens"]), generator=generator)
    if case.get("bf16"):
        model.to(torch.bfloat16)
    zero: list[Tensor] = []
    for layer in model.model.layers:
        layer.mlp.router.register_forward_hook(
            lambda _module, _input, output: zero.append(
                (output[2] >= config.n_routed_experts).double().mean()
            )
        )
    results = {name: weight.float().numpy() for name, weight in model.state_dict().items()}
    results |= {"ids": ids.numpy(), "logits": model(ids).logits.float().numpy()}
    if case.get("bf16"):
        results["logits_fp32"] = model.float()(ids).logits.numpy()
    np.savez(path, **results)
    return float(torch.stack(zero).mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    cases = json.loads((folder / "cases.json").read_text())
    print(json.dumps({name: run(case, folder / f"{name}.npz") for name, case in cases.items()}))
