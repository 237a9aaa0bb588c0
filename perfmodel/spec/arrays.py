"""One description that stands for many scenarios: leaves replaced by arrays."""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from perfmodel.errors import SpecError
from perfmodel.spec.messages import describe
from perfmodel.spec.scenario import Scenario

SWEEPABLE = (
    "deployment.batch_per_gpu",
    "deployment.context_tokens",
    "deployment.prefill_requests_per_gpu",
    "deployment.prefill_tokens",
    "deployment.prefill_cached_tokens",
    "deployment.host.prepare_us",
    "deployment.host.launch_us",
    "deployment.host.uncounted_us",
    "deployment.host.node_us",
    "deployment.host.join_us",
    "deployment.mtp.acceptance",
    "routing.mean_real_experts",
    "routing.imbalance",
    "prices.usd_per_gpu_hour",
    "given.attention_us",
    "cluster.gpu.hbm_gb_per_s",
    "cluster.gpu.bf16_tflops",
    "cluster.gpu.fp8_tflops",
    "cluster.gpu.fp4_tflops",
    "cluster.node.link_gb_per_s",
    "cluster.network.gb_per_s_per_gpu",
    "cluster.network.spine_oversubscription",
)
"""Quantities that change a step's numbers but not which ops it has or how they depend on each other."""

SpecT = TypeVar("SpecT", bound=BaseModel)


def with_arrays(scenario: Scenario, values: Mapping[str, Any], *, checked: bool = True) -> Scenario:
    """A scenario whose leaves at ``key.path`` are arrays, all of one length.

    The smallest and the largest value of each array are validated like a scalar; formulas then work
    element by element. Not ``checked``: values that a search tries, which are in range; validating took half of it.

    Raises:
        SpecError: a path that can't be an array, a value out of range, or unequal lengths.
    """
    arrays = {path: np.asarray(value, dtype=float) for path, value in values.items()}
    if len({array.shape for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{path}: {array.shape}" for path, array in arrays.items())
        raise SpecError(f"arrays must have one shape, have {sizes}")
    result = scenario
    for path, array in arrays.items():
        if path not in SWEEPABLE:
            raise SpecError(f"{path}: can't be an array; allowed: {', '.join(SWEEPABLE)}")
        for bound in (array.min(), array.max()) if checked else ():
            _validated(scenario, path.split("."), float(bound))
        result = _with(result, path.split("."), array)
    return result


def _validated(spec: BaseModel, keys: list[str], value: float) -> None:
    from pydantic import ValidationError

    leaf: Any = spec
    for key in keys[:-1]:
        leaf = getattr(leaf, key)
    try:
        type(leaf).model_validate(leaf.model_dump() | {keys[-1]: value})
    except ValidationError as error:
        raise SpecError(f"{'.'.join(keys[:-1])}.{describe(error)}") from error


def _with(spec: SpecT, keys: list[str], value: Any) -> SpecT:
    head, *rest = keys
    child = _with(getattr(spec, head), rest, value) if rest else value
    return spec.model_copy(update={head: child})
