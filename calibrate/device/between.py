"""What a step does between two kernels: the interpreter, modules' calls, views.

On a CPU the host is the device, so this is time of the step, some 10 to 30 microseconds for each kernel. It is timed in
the reference model itself: whole steps of the smallest size, less what the kernels in them take. After every kernel
twice what the core's own caches hold is read, as kernels of a size that matters leave them.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn import functional

from calibrate.device.cases import Case, Run, random_of
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
TIMED: Final = (
    "linear",
    "absorb",
    "grouped_linear",
    "add_norm",
    "latent_norm",
    "rotate_and_cache",
    "mla_prefill",
    "swiglu",
    "select_experts",
    "permute",
    "unpermute",
    "reorder",
    "join",
    "embed",
    "greedy",
)
"""Functions of :mod:`reference_model.kernels` that perfmodel counts as one op each."""
PARTS: Final = ("zero_weight",)
"""Those that belong to another one's op."""


@dataclass(slots=True)
class Between:
    """A call of a step, and what its kernels took of the time."""

    run: Run
    clock: Callable[[], int]
    sweep: Callable[[], None]
    inside_ns: int = 0
    """In kernels, since :meth:`restart`."""
    count: int = 0
    """Kernels since then."""

    def restart(self) -> None:
        """Forget what was counted."""
        self.inside_ns = self.count = 0

    def __call__(self) -> object:
        """The step, its kernels on a stopwatch."""
        with self._watched():
            return self.run()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        own = {name: getattr(kernels, name) for name in (*TIMED, *PARTS)}
        for name, function in own.items():
            setattr(kernels, name, self._timed(function, int(name in TIMED)))
        try:
            yield
        finally:
            for name, function in own.items():
                setattr(kernels, name, function)

    def _timed(self, function: Callable[..., Any], ops: int) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            start = self.clock()
            out = function(*args, **named)
            self.sweep()
            self.count += ops
            self.inside_ns += self.clock() - start
            return out

        return timed


def build(case: Case, bench: "Bench", *, gradients: bool) -> Between:
    """A prefill of the smallest model, or the forward of a training step; to be timed by
    :meth:`calibrate.device.timing.Bench.measure`, whose seconds are then those between two kernels.
    """
    from calibrate.device.timing import DTYPES, WithGradients

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
