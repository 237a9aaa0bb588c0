"""What a step does between two kernels: the interpreter, modules' calls, views.

On a CPU the host is the device, so this is time of the step, some 10 to 30 microseconds for each kernel. It is timed in
the reference model itself: whole steps of the smallest size, less what the kernels in them take. After every kernel
twice what the core's own caches hold is read, as kernels of a size that matters leave them.
"""

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from calibrate.device.calls import DTYPES, Between, WithGradients
from calibrate.device.case import Case, random_of
from calibrate.device.environment import own_cache_bytes
from reference_model import kernels
from reference_model.config import SIZES
from reference_model.model import LongcatFlash
from reference_model.weights import init_weights
from reference_model.work import Cache, Group

if TYPE_CHECKING:
    from calibrate.device.timing import Bench

SIZE: Final = "tiny"
TOKENS: Final = 32
"""Of one prompt: what lies between kernels does not depend on how many there are."""


def build(case: Case, bench: "Bench", *, gradients: bool) -> Between:
    """A prefill of the smallest model, or the forward of a training step; to be timed by
    :meth:`calibrate.device.timing.Bench.measure`, whose seconds are then those between two kernels.
    """
    dtype = DTYPES[case.dtype]
    with torch.inference_mode(False):
        model = LongcatFlash(SIZES[SIZE], dtype=dtype)
        init_weights(model, seed=0)
    text = torch.from_numpy(random_of(case).integers(0, model.config.vocab_size, (1, TOKENS + 1)))
    ids, targets = text[:, :-1].contiguous(), text[0, 1:]

    def step() -> object:
        group = Group("prefill", ids, Cache(model.config, 1, TOKENS, dtype=dtype))
        if not gradients:
            return kernels.greedy(model.step([group]))
        return functional.cross_entropy(model.step([group], all_logits=True), targets)

    run = WithGradients(step) if gradients else step
    return Between(run, bench.clock, lambda: bench.sweep(2 * own_cache_bytes()))
