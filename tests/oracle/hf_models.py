"""Full-size transformers models on the meta device, for the counting scripts beside this file.

Run by the oracle environment alone: it imports torch and transformers, never perfmodel.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from torch import nn

STAND_INS = {
    "LongcatFlashNgramForCausalLM": "LongcatFlashForCausalLM",
    "LongcatCausalLM": "LongcatFlashForCausalLM",
}
"""Classes that transformers lacks -> the one that has everything but their new parts."""


def build(path: Path) -> nn.Module:
    """The model of a config.json, full size, without storage; attention is not fused."""
    stated = json.loads(path.read_text())
    for key in ("quantization_config", "rope_scaling"):  # neither has parameters or multiplies
        stated.pop(key, None)
    if "routed_scaling_factor" in stated:  # LongCat-2.0's 9 is an integer; transformers is strict
        stated["routed_scaling_factor"] = float(stated["routed_scaling_factor"])
    name = stated["architectures"][0]
    model_class = getattr(transformers, STAND_INS.get(name, name))
    config = model_class.config_class.from_dict(stated)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        return model_class(config).eval()


def real_experts(module: nn.Module) -> int:
    """Experts of a mixture that have weights."""
    down: nn.Parameter = module.down_proj
    return down.shape[0]


def parameters(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Name and number of elements of every parameter that is used.

    transformers 5.23 gives LongCat's zero-computation experts rows in ``gate_up_proj`` that nothing
    reads; ``down_proj`` has the true number.
    """
    for name, parameter in model.named_parameters():
        elements = parameter.numel()
        if name.endswith(".experts.gate_up_proj"):
            experts = model.get_submodule(name.removesuffix(".gate_up_proj"))
            elements = elements * real_experts(experts) // parameter.shape[0]
        yield name, elements


def run(count: Callable[[Path, int | None], dict[str, Any]]) -> None:
    """Counts each command-line argument, ``PATH`` or ``PATH=EXPERTS``, and prints one JSON object."""
    results = {}
    for argument in sys.argv[1:]:
        path, _, experts = argument.partition("=")
        results[Path(path).stem] = count(Path(path), int(experts) if experts else None)
    print(json.dumps(results))
