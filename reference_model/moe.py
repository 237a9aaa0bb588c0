"""Mixture of experts with zero-computation experts: pack, dispatch, compute, combine, unpack.

Shape suffixes as in :mod:`reference_model.kernels`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reference_model import kernels
from reference_model.config import Config
from reference_model.parallel import Alone, Exchange, Pending, Received


class Routing(NamedTuple):
    """What the router decides for each token."""

    ids_NK: Tensor
    """Experts, zero-computation ones from E upwards."""
    weights_NK: Tensor
    """Their weights, float32."""
    logits_NZ: Tensor
    """The router's logits over all experts, float32."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A step's tokens in the order of their real experts."""

    rows_PH: Tensor
    counts: list[int]
    """Rows of each of the E experts."""
    pairs_P: Tensor
    weights_NK: Tensor
    zero_weight_N1: Tensor


class Router(nn.Module):
    """Softmax router in float32, whatever the type of the activations.

    ``bias_Z`` takes part in the choice alone; training moves it so that a token has the wanted number of real experts.
    """

    def __init__(self, config: Config, device: torch.device | str) -> None:
        """Weights for E real and Z - E zero-computation experts."""
        super().__init__()
        self.top_k, self.scaling_factor = config.moe_topk, config.routed_scaling_factor
        shape = (config.num_experts, config.hidden_size)
        self.classifier = nn.Parameter(torch.empty(shape, dtype=torch.float32, device=device))
        self.bias_Z: Tensor
        self.register_buffer("bias_Z", torch.zeros(config.num_experts, dtype=torch.float32, device=device))

    def forward(self, x_NH: Tensor, routed_ids_NK: Tensor | None = None) -> Routing:
        """Chooses experts; ``routed_ids_NK`` overrides which, after the choice, and leaves the weights as they are."""
        logits_NZ = kernels.linear(x_NH.float(), self.classifier)
        ids_NK, weights_NK = kernels.select_experts(logits_NZ, self.bias_Z, self.top_k, self.scaling_factor)
        return Routing(ids_NK if routed_ids_NK is None else routed_ids_NK, weights_NK, logits_NZ)


class Experts(nn.Module):
    """The real experts of one rank."""

    def __init__(
        self, config: Config, num_local: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        """``num_local`` SwiGLU experts."""
        super().__init__()
        hidden, width = config.hidden_size, config.expert_ffn_hidden_size
        gate_up = torch.empty(num_local, 2 * width, hidden, dtype=dtype, device=device)
        down = torch.empty(num_local, hidden, width, dtype=dtype, device=device)
        self.gate_up_EFH, self.down_EHF = nn.Parameter(gate_up), nn.Parameter(down)

    def forward(self, rows_PH: Tensor, counts: list[int]) -> Tensor:
        """Rows sorted by expert, ``counts`` of each; [P, H]."""
        gate_up_PF = kernels.grouped_linear(rows_PH, self.gate_up_EFH, counts)
        return kernels.grouped_linear(kernels.swiglu(gate_up_PF), self.down_EHF, counts)


class MoE(nn.Module):
    """Router and experts. Zero-computation experts are never packed, sent or computed: :meth:`unpack` adds them."""

    def __init__(
        self, config: Config, exchange: Alone | Exchange, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        """Holds the experts of ``exchange``'s rank."""
        super().__init__()
        self.num_experts = config.n_routed_experts
        self.exchange = exchange
        self.router = Router(config, device)
        self.experts = Experts(config, exchange.num_local_experts, dtype, device)

    def pack(self, x_NH: Tensor, routed_ids_NK: Tensor | None = None) -> Packed:
        """Routes tokens and puts one row per token and real expert in the order of the experts."""
        ids_NK, weights_NK, _ = self.router(x_NH, routed_ids_NK)
        zero_weight_N1 = kernels.zero_weight(weights_NK, ids_NK.to(weights_NK.device), self.num_experts)
        rows_PH, pairs_P, counts = kernels.permute(x_NH, ids_NK, self.num_experts)
        return Packed(rows_PH, counts, pairs_P, weights_NK, zero_weight_N1)

    def dispatch(self, packed: Packed, *, overlapped: bool) -> Pending[Received]:
        """Sends the rows to the ranks of their experts."""
        return self.exchange.dispatch(packed.rows_PH, packed.counts, overlapped=overlapped)

    def compute(self, received: Received) -> Tensor:
        """Runs this rank's experts on the rows of all ranks, in the order in which the rows came."""
        if received.order_P is None or received.back_P is None:
            return self._run(received.rows_PH, received.counts)
        rows_PH = kernels.reorder(received.rows_PH, received.order_P)
        return kernels.reorder(self._run(rows_PH, received.counts), received.back_P)

    def combine(self, y_PH: Tensor, received: Received, *, overlapped: bool) -> Pending[Tensor]:
        """Sends the experts' outputs back, in the order of :attr:`Packed.rows_PH`."""
        return self.exchange.combine(y_PH, received, overlapped=overlapped)

    def unpack(self, y_PH: Tensor, packed: Packed, x_NH: Tensor) -> Tensor:
        """Weighted sum per token, [N, H], zero-computation experts included."""
        return kernels.unpermute(y_PH, packed.pairs_P, packed.weights_NK, x_NH, packed.zero_weight_N1)

    def forward(self, x_NH: Tensor, routed_ids_NK: Tensor | None = None) -> Tensor:
        """One part after another."""
        packed = self.pack(x_NH, routed_ids_NK)
        received = self.dispatch(packed, overlapped=False).wait()
        y_PH = self.combine(self.compute(received), received, overlapped=False).wait()
        return self.unpack(y_PH, packed, x_NH)

    def _run(self, rows_PH: Tensor, counts: list[int]) -> Tensor:
        y_PH: Tensor = self.experts(rows_PH, counts)
        return y_PH
