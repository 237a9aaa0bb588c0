"""Prints the parameters of transformers' models by component: PYTHON count_parameters.py PATH..."""

from collections import Counter
from pathlib import Path

from hf_models import build, parameters, run


def component(name: str) -> str:
    """Which of perfmodel's components a parameter belongs to."""
    parts = {
        "embed_tokens": "embedding",
        "lm_head": "head",
        ".self_attn.": "attention",
        "norm": "norms",
        ".shared_expert": "shared_experts",
        ".experts.": "experts",
        ".router.": "router",
        ".gate.": "router",
    }
    return next((label for part, label in parts.items() if part in name), "dense_ffn")


def count(path: Path, _experts: int | None) -> dict[str, int]:
    """Elements by component, and their total."""
    counts: Counter[str] = Counter()
    for name, elements in parameters(build(path)):
        counts[component(name)] += elements
    return {**counts, "total": counts.total()}


if __name__ == "__main__":
    run(count)
