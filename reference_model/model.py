"""LongCat: the shortcut-connected block and the model. A step runs perfmodel's ops, in perfmodel's order.

Shape suffixes as in :mod:`reference_model.kernels`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reference_model import kernels
from reference_model.config import Config
from reference_model.layer import DenseLayer, norm_weight
from reference_model.moe import MoE
from reference_model.mtp import DraftLayer
from reference_model.ngram import NgramEmbedding
from reference_model.parallel import Alone, Exchange
from reference_model.work import Group, Place, Rotary


class Block(nn.Module):
    """Two dense layers, with a mixture of experts beside the second one (ScMoE).

    ::

        x ── norm ─ attention 0 ─ + ─ norm ─┬─ FFN 0 ─ + ─ norm ─ attention 1 ─ + ─ norm ─ FFN 1 ─┬─ join ── + ──
                                            └─ router ─ dispatch ─ experts ─ combine ─────────────┘

    As the residual additions are fused with the norms, the last one is left to whoever comes next: a block takes and
    returns the residual stream and what is still to be added to it.
    """

    def __init__(
        self,
        config: Config,
        index: int,
        exchange: Alone | Exchange,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """``index`` numbers the blocks: attentions 2 index and 2 index + 1 of the caches are its own."""
        super().__init__()
        self.first = DenseLayer(config, 2 * index, dtype, device)
        self.second = DenseLayer(config, 2 * index + 1, dtype, device)
        self.moe = MoE(config, exchange, dtype, device)

    def forward(
        self,
        residual_NH: Tensor,
        delta_NH: Tensor | None,
        places: Sequence[Place],
        *,
        overlapped: bool = False,
        routed_ids_NK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream and what is to be added to it, after the block.

        ``overlapped`` runs the experts' path beside the dense one, to the bit with the same result.
        """
        order = self._overlapped if overlapped else self._sequential
        return order(residual_NH, delta_NH, places, routed_ids_NK)

    def _sequential(
        self,
        residual_NH: Tensor,
        delta_NH: Tensor | None,
        places: Sequence[Place],
        routed_ids_NK: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One op after another, communication included."""
        first, second = self.first, self.second
        queries, residual_NH = first.pre(residual_NH, delta_NH, places)
        u_NH, residual_NH = first.core(queries, residual_NH, places)
        experts_NH = self.moe(u_NH, routed_ids_NK)
        queries, residual_NH = second.pre(residual_NH, first.ffn(u_NH), places)
        v_NH, residual_NH = second.core(queries, residual_NH, places)
        return residual_NH, kernels.join(second.ffn(v_NH), experts_NH)

    def _overlapped(
        self,
        residual_NH: Tensor,
        delta_NH: Tensor | None,
        places: Sequence[Place],
        routed_ids_NK: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Single-batch overlap, in the report's four stages (its Figure 9)."""
        first, second, moe = self.first, self.second, self.moe
        # 1: the first attention, alone
        queries, residual_NH = first.pre(residual_NH, delta_NH, places)
        u_NH, residual_NH = first.core(queries, residual_NH, places)
        # 2: dispatch, beside the first FFN and the second attention's projections
        packed = moe.pack(u_NH, routed_ids_NK)
        dispatched = moe.dispatch(packed, overlapped=True)
        queries, residual_NH = second.pre(residual_NH, first.ffn(u_NH), places)
        # 3: the experts, alone
        received = dispatched.wait()
        combined = moe.combine(moe.compute(received), received, overlapped=True)
        # 4: combine, beside the second attention's core and the second FFN
        v_NH, residual_NH = second.core(queries, residual_NH, places)
        dense_NH = second.ffn(v_NH)
        experts_NH = moe.unpack(combined.wait(), packed, u_NH)
        return residual_NH, kernels.join(dense_NH, experts_NH)


class LongcatFlash(nn.Module):
    """The model. Weights are not set: see :mod:`reference_model.weights`."""

    def __init__(
        self,
        config: Config,
        *,
        exchange: Exchange | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """With ``exchange`` the experts of its rank alone; ``dtype`` is of weights (the router's are float32)."""
        super().__init__()
        self.config = config
        self.exchange = exchange or Alone(config.n_routed_experts)
        table = (config.vocab_size, config.hidden_size)
        self.embedding = nn.Parameter(torch.empty(table, dtype=dtype, device=device))
        self.ngram = NgramEmbedding(config, dtype, device) if config.num_ngram_tables else None
        self.blocks = nn.ModuleList(
            Block(config, index, self.exchange, dtype, device) for index in range(config.num_layers)
        )
        self.norm = norm_weight(config.hidden_size, dtype, device)
        self.head = nn.Parameter(torch.empty(table, dtype=dtype, device=device))
        self.mtp = DraftLayer(config, dtype, device) if config.mtp_num_layers else None
        self.rotary = Rotary(config, device)

    def step(
        self,
        groups: Sequence[Group],
        *,
        overlapped: bool = False,
        routed_ids_NK: Tensor | None = None,
        all_logits: bool = False,
    ) -> Tensor:
        """One step over all groups; adds their tokens to their caches. Returns logits [M, V], groups in turn.

        Args:
            groups: what to compute. A decode group has logits for every token, a prefill group for the last one of each
                request.
            overlapped: run each block's experts' path beside its dense path. The result is the same.
            routed_ids_NK: experts of every token in every block, to time chosen loads: 12 zero-computation experts, or
                none. The router runs all the same, and its weights stand.
            all_logits: logits for every token of every group.

        Raises:
            ValueError: tokens do not fit a cache or the model's positions.
        """
        rows = self.hidden(groups, overlapped=overlapped, routed_ids_NK=routed_ids_NK, all_rows=all_logits)
        return self.logits(rows)

    def hidden(
        self,
        groups: Sequence[Group],
        *,
        overlapped: bool = False,
        routed_ids_NK: Tensor | None = None,
        all_rows: bool = False,
    ) -> Tensor:
        """As :meth:`step` up to the final norm: [M, H], which the head and the draft layer take."""
        places = self.rotary.places(groups, self.embedding.dtype)
        residual_NH = kernels.embed(joined_ids(groups), self.embedding)
        if self.ngram is not None:
            residual_NH = self.ngram(residual_NH, groups)
        delta_NH: Tensor | None = None
        for block in self.blocks:
            residual_NH, delta_NH = block(
                residual_NH, delta_NH, places, overlapped=overlapped, routed_ids_NK=routed_ids_NK
            )
        for place in places:
            place.cache.length += place.num_new
        rows = None if all_rows else logit_rows(places, residual_NH.device)
        if rows is not None and delta_NH is not None:
            residual_NH, delta_NH = kernels.reorder(residual_NH, rows), kernels.reorder(delta_NH, rows)
        return kernels.add_norm(residual_NH, delta_NH, self.norm, self.config.rms_norm_eps)[0]

    def logits(self, hidden_MH: Tensor) -> Tensor:
        """Logits [M, V] of normed rows."""
        return kernels.linear(hidden_MH, self.head)


def joined_ids(groups: Sequence[Group]) -> Tensor:
    """The new tokens of all groups, one after another, [N]."""
    ids = [group.ids_BT.flatten() for group in groups]
    return ids[0] if len(ids) == 1 else torch.cat(ids)


def logit_rows(places: Sequence[Place], device: torch.device) -> Tensor | None:
    """Rows that need logits: all of decode, the last of each request of prefill; None: all of them."""
    if all(place.kind == "decode" for place in places):
        return None
    rows: list[int] = []
    for place in places:
        every = 1 if place.kind == "decode" else place.num_new
        rows.extend(range(place.rows.start + every - 1, place.rows.stop, every))
    return torch.tensor(rows, device=device)
