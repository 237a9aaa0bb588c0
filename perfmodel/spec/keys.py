"""Every key path of a scenario, and which one somebody means who writes another."""

import difflib
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from perfmodel.spec.scenario import Scenario

OF_A_FILE = ("engine", "base")
"""Keys that a scenario's file may have beside a scenario's own (:mod:`perfmodel.load`)."""
OWN_KEYS = ("model", "deployment.mtp.drafter.model", "prefill.deployment.mtp.drafter.model")
"""Sections whose keys are not a scenario's: a model's are those of its config.json."""


@cache
def key_paths() -> tuple[str, ...]:
    """Key paths, those of a section after its own; in lists every item has the keys of the list's path."""
    return (*_paths(Scenario, ""), *OF_A_FILE)


def meant(path: str) -> list[str]:
    """The key paths that an unknown one may stand for, at most MOST: siblings that have it as a word or are spelled
    alike, else keys of that name in another section.
    """
    section, _, name = path.rpartition(".")
    word = WORDS.get(name.lower())
    if word is not None:
        return [word]
    own = {one.rpartition(".")[2]: one for one in key_paths() if one.rpartition(".")[0] == section}
    close = [one for one in own if name in one.split("_")] + difflib.get_close_matches(name, own)
    if close:
        return [own[one] for one in dict.fromkeys(close)][:MOST]
    others: dict[str, str] = {}
    for one in key_paths():
        others.setdefault(one.rpartition(".")[2], one)
    return [others[one] for one in difflib.get_close_matches(name, others, n=1, cutoff=ELSEWHERE)]


WORDS = {
    "tp": "deployment.attention_tp",
    "tensor_parallel": "deployment.attention_tp",
    "tensor_parallel_size": "deployment.attention_tp",
    "dp": "deployment.attention_dp",
    "data_parallel_size": "deployment.attention_dp",
    "pipeline_parallel_size": "deployment.pp",
    "expert_parallel_size": "deployment.ep",
    "batch_size": "deployment.batch_per_gpu",
    "context": "deployment.context_tokens",
    "context_length": "deployment.context_tokens",
    "max_num_seqs": "serving.max_running",
    "max_running_requests": "serving.max_running",
    "max_num_batched_tokens": "serving.max_batched_tokens",
    "chunked_prefill_size": "serving.max_batched_tokens",
    "gpu_memory_utilization": "deployment.memory_utilization",
    "mem_fraction_static": "deployment.memory_utilization",
    "concurrency": "workload.max_concurrency",
    "users": "workload.max_concurrency",
    "rate": "workload.request_rate",
    "qps": "workload.request_rate",
    "isl": "workload.input_tokens",
    "input_len": "workload.input_tokens",
    "osl": "workload.output_tokens",
    "output_len": "workload.output_tokens",
    "price": "prices.usd_per_gpu_hour",
}
"""What engines and benchmarks call a key."""
MOST = 3
ELSEWHERE = 0.85
"""How alike (0 to 1) a key of another section must be."""


def unknown_key(path: str) -> str:
    """What to say of a key that a scenario does not have: those that may be meant, else those that are allowed."""
    near = meant(path)
    if near:
        return f"{path}: unknown key; did you mean {' or '.join(near)}?"
    allowed = [
        one.rpartition(".")[2] for one in key_paths() if one.rpartition(".")[0] == path.rpartition(".")[0]
    ]
    return f"{path}: unknown key; " + (
        f"allowed: {', '.join(allowed)}" if allowed else "see docs/scenarios.md"
    )


def _paths(spec: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in spec.model_fields.items():
        yield prefix + name
        if prefix + name not in OWN_KEYS:
            for inner in _specs(field.annotation):
                yield from _paths(inner, f"{prefix}{name}.")


def _specs(annotation: Any) -> Iterator[type[BaseModel]]:
    """The descriptions in a type: itself, or in its optional, its union, its list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from _specs(one)
