"""What a dense layer is made of, twice in a shortcut-connected block and once in the draft layer.

Shape suffixes as in :mod:`reference_model.kernels`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reference_model import kernels
from reference_model.attention import MLA, Query
from reference_model.config import Config
from reference_model.sparse import LSA
from reference_model.work import Place


def norm_weight(width: int, dtype: torch.dtype, device: torch.device | str) -> nn.Parameter:
    """Weight of an RMS norm, [width]."""
    return nn.Parameter(torch.empty(width, dtype=dtype, device=device))


class FFN(nn.Module):
    """Dense SwiGLU network, gate and up projection in one matrix."""

    def __init__(self, config: Config, dtype: torch.dtype, device: torch.device | str) -> None:
        """Width ``ffn_hidden_size``."""
        super().__init__()
        hidden, width = config.hidden_size, config.ffn_hidden_size
        self.gate_up = nn.Parameter(torch.empty(2 * width, hidden, dtype=dtype, device=device))
        self.down = nn.Parameter(torch.empty(hidden, width, dtype=dtype, device=device))

    def forward(self, x_NH: Tensor) -> Tensor:
        """[N, H] -> [N, H]."""
        return kernels.linear(kernels.swiglu(kernels.linear(x_NH, self.gate_up)), self.down)


class DenseLayer(nn.Module):
    """Norm, attention, norm, dense FFN, in the pieces that a block runs other things between.

    Residual additions are fused with the norm that follows them, so the pieces hand on two things: the residual stream
    and what is still to be added to it.
    """

    def __init__(
        self, config: Config, cache_index: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        """``cache_index`` is the attention's number in the groups' caches."""
        super().__init__()
        self.eps = config.rms_norm_eps
        self.in_norm = norm_weight(config.hidden_size, dtype, device)
        self.attention = (LSA if config.sparse else MLA)(config, cache_index, dtype, device)
        self.post_norm = norm_weight(config.hidden_size, dtype, device)
        self.ffn = FFN(config, dtype, device)

    def pre(
        self, residual_NH: Tensor, delta_NH: Tensor | None, places: Sequence[Place]
    ) -> tuple[list[Query], Tensor]:
        """Norm, projections, rotary embedding and cache write (the report's Attn0): queries and residual stream."""
        x_NH, residual_NH = kernels.add_norm(residual_NH, delta_NH, self.in_norm, self.eps)
        return self.attention.pre(x_NH, places), residual_NH

    def core(
        self, queries: Sequence[Query], residual_NH: Tensor, places: Sequence[Place]
    ) -> tuple[Tensor, Tensor]:
        """Attention core, output projection (the report's Attn1), norm: the FFN's input and residual stream."""
        attended_NH = self.attention.core(queries, places)
        return kernels.add_norm(residual_NH, attended_NH, self.post_norm, self.eps)
