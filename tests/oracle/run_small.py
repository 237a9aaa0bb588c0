"""Prints what small models of transformers multiply: PYTHON run_small.py FILE.json

The file maps a name to a config. Each model is built on the CPU as the class that its config names, with zeros for
weights, and reads TOKENS tokens; experts are looped over, attention is not fused. Printed per name: its ``parameters``,
those of its convolutions (``taps``), whether it has a ``head``, and FLOPs of matrix products (``linear``), convolutions
(``convolved``, which are padded by a kernel less one) and batched products (``batched``: cores and recurrences).
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM, PreTrainedConfig

TOKENS = 16
LINEAR = (torch.ops.aten.mm, torch.ops.aten.addmm)
"""Operators of projections."""
CONVOLUTION = torch.ops.aten.convolution


def built(config: PreTrainedConfig) -> nn.Module:
    """The language model of a config: with a head where transformers has such a class, else the class of its layers."""
    for auto in (AutoModelForCausalLM, AutoModel):
        if type(config) in auto._model_mapping:
            return auto.from_config(config)
    modeling = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    classes = [one for name, one in vars(modeling).items() if name.endswith("TextModel")]
    return classes[0]._from_config(config)


def count(config: dict[str, Any]) -> dict[str, Any]:
    """What one model holds and multiplies."""
    found = CONFIG_MAPPING[config["model_type"]].from_dict(config).get_text_config()
    found._attn_implementation, found._experts_implementation = "eager", "eager"
    model = built(found).eval()
    ids = torch.arange(TOKENS)[None] % found.vocab_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False)
    flops = counter.get_flop_counts()["Global"]
    linear, convolved = sum(flops.get(one, 0) for one in LINEAR), flops.get(CONVOLUTION, 0)
    return {
        "parameters": sum(one.numel() for one in {id(one): one for one in model.parameters()}.values()),
        "taps": sum(one.weight.numel() for one in model.modules() if isinstance(one, nn.Conv1d)),
        "tokens": TOKENS,
        "head": hasattr(model, "lm_head"),
        "linear": linear,
        "convolved": convolved,
        "batched": counter.get_total_flops() - linear - convolved,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({name: count(config) for name, config in asked.items()}))
