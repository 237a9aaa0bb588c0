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
    words = TRAINING_WORDS if section.partition(".")[0] == "training" else WORDS
    word = words.get(name.lower().replace("-", "_"))
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
TRAINING_WORDS = {
    word: f"training.{key}"
    for key, own in {
        "tokens": "train_samples train_iters train_tokens steps",
        "sequence_tokens": "seq_length seq_len sequence_length max_seq_len",
        "global_batch_sequences": "global_batch_size train_batch_size batch_size gbs",
        "micro_batch_sequences": "micro_batch_size local_batch_size train_micro_batch_size_per_gpu mbs",
        "batch_ramp": "rampup_batch_size step_batch_size_schedule",
        "tp": "tensor_parallel tensor_parallel_size tensor_model_parallel_size tensor_parallel_degree",
        "cp": "context_parallel context_parallel_size context_parallel_degree",
        "pp": "pipeline_parallel pipeline_parallel_size pipeline_model_parallel_size pipeline_parallel_degree",
        "dp": "data_parallel data_parallel_size data_parallel_shard_degree num_gpus gpus world_size",
        "dp_replicate": "data_parallel_replicate_degree num_distributed_optimizer_instances",
        "ep": "expert_parallel expert_parallel_size expert_model_parallel_size expert_parallel_degree ep_size",
        "etp": "expert_tensor_parallel_size expert_tensor_parallel_degree",
        "virtual_stages": "vpp num_virtual_stages_per_pipeline_rank virtual_pipeline_model_parallel_size",
        "stage_layers": "pipeline_model_parallel_layout module_fqns_per_model_part",
        "schedule": "pipeline_schedule pipeline_parallel_schedule",
        "zero": "zero_stage use_distributed_optimizer data_parallel_sharding_strategy zero_optimization fsdp",
        "recompute": "recompute_granularity recompute_modules activation_checkpoint activation_checkpointing",
        "precision": "dtype fp8 fp8_format fp8_recipe converters",
        "optimizer.moments": "exp_avg_dtype exp_avg_sq_dtype",
        "optimizer.gradients": "main_grads_dtype grad_reduce_in_bf16",
        "optimizer.clip": "clip_grad max_norm gradient_clipping",
        "all_to_all": "moe_token_dispatcher_type moe_flex_dispatcher_backend expert_parallel_comm_backend dispatcher",
        "moe_overlap": "overlap_moe_expert_parallel_comm",
        "delay_weights": "delay_wgrad_compute",
        "overlap_gradients": "overlap_grad_reduce overlap_comm",
        "overlap_parameters": "overlap_param_gather",
        "offload.optimizer_fraction": "optimizer_cpu_offload optimizer_offload_fraction offload_optimizer",
        "offload.activations_fraction": "cpu_offloading_num_layers",
        "capacity.factor": "moe_expert_capacity_factor capacity_factor",
        "balanced": "moe_router_force_load_balancing moe_force_load_balance",
        "cp_exchange": "cp_comm_type",
        "deterministic": "deterministic_mode",
        "mtp": "mtp_num_layers",
        "failures.per_gpu_day": "mtbf failure_rate",
    }.items()
    for word in own.split()
}
"""What Megatron-LM, torchtitan and DeepSpeed call a key of ``training``."""
MOST = 3
ELSEWHERE = 0.85
"""How alike (0 to 1) a key of another section must be."""


def unknown_key(path: str) -> str:
    """What to say of a key that a scenario does not have, or of a section: those that may be meant, else those that are
    allowed.
    """
    below = [one for one in key_paths() if one.startswith(f"{path}.")]
    if below:
        return (
            f"{path}: a section; state a key of it: {', '.join(below[:MOST])}{', ...' * (len(below) > MOST)}"
        )
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
