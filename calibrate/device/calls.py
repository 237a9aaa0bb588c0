"""Calls that :class:`calibrate.device.timing.Bench` runs in a way of their own."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from calibrate.device.case import Run
from reference_model import kernels

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
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


@dataclass(frozen=True, slots=True)
class BetweenOthers:
    """A call with what comes before it in a step."""

    run: Run
    inputs: Sequence[Tensor]
    sweep: Callable[[], None]

    def __call__(self) -> object:
        """The call itself."""
        return self.run()

    def prepare(self) -> None:
        """Sweep the caches, then write the inputs once more, as the kernel before has."""
        with torch.no_grad():
            self.sweep()
            for tensor in self.inputs:
                tensor.add_(0)


@dataclass(frozen=True, slots=True)
class WithGradients:
    """A call that autograd records, or that asks for gradients; others run in inference mode."""

    run: Run

    def __call__(self) -> object:
        """The call itself."""
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.enable_grad():
                return self.run()
        return self.run()


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
