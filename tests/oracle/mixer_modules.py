"""Prints what transformers' own modules of sequence mixers hold and multiply: PYTHON mixer_modules.py JSON...

Each argument is {"name", "module", "class", "config_class", "config", "layer", "tokens"}: the class is built on the
meta device from that config or, where tokens are asked for, run on zeros on the CPU. Printed per name: parameters;
FLOPs of matrix products and convolutions (``linear``) and of batched products (``batched``: cores and recurrences).
"""

import importlib
import json
import sys
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

LINEAR = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)
"""Operators of projections and convolutions; everything else that is counted is batched."""


def count(asked: dict[str, Any]) -> dict[str, int]:
    """Parameters of one module, and FLOPs where it is run."""
    package = f"transformers.models.{asked['module']}"
    modeling = importlib.import_module(f"{package}.modeling_{asked['module']}")
    config = getattr(importlib.import_module(package), asked["config_class"])(**asked["config"])
    config._attn_implementation = "eager"
    arguments = [config] if asked["layer"] is None else [config, asked["layer"]]
    tokens = asked.get("tokens")
    with torch.device("cpu" if tokens else "meta"):
        module = getattr(modeling, asked["class"])(*arguments)
    found = {"parameters": sum(parameter.numel() for parameter in module.parameters())}
    if not tokens:
        return found
    hidden = torch.zeros(1, tokens, config.hidden_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(hidden)
    counts = counter.get_flop_counts()["Global"]
    linear = sum(flops for operator, flops in counts.items() if operator in LINEAR)
    return found | {"linear": linear, "batched": counter.get_total_flops() - linear}


if __name__ == "__main__":
    print(json.dumps({asked["name"]: count(asked) for asked in map(json.loads, sys.argv[1:])}))
