"""Prints the parameters of recorded configs as transformers counts them: PYTHON count_configs.py FILE.json.gz NAME...

Each model is built full size on the meta device, from the recorded config without its quantization.
"""

import gzip
import json
import sys
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM


def parameters(config: dict[str, object]) -> int:
    """Elements of the language model's parameters, shared ones once."""
    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    found = CONFIG_MAPPING[str(kept["model_type"])].from_dict(kept)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(found.get_text_config())
    model.tie_weights()
    return sum(one.numel() for one in {id(one): one for one in model.parameters()}.values())


if __name__ == "__main__":
    recorded = json.loads(gzip.decompress(Path(sys.argv[1]).read_bytes()))
    print(json.dumps({name: parameters(recorded[name]["config"]) for name in sys.argv[2:]}))
