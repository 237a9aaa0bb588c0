"""LongCat-2.0's n-gram embedding: rows that the last tokens of a request choose together, added to its own.

Shape suffixes as in :mod:`reference_model.kernels`; G tables.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reference_model import kernels
from reference_model.config import Config
from reference_model.work import Group


class NgramEmbedding(nn.Module):
    """``oe_split_num`` tables for each length of n-gram from 2 to ``oe_neighbor_num``, each with a projection.

    An n-gram's row in a table of M rows is the sum of id x V^j over its tokens, j back, modulo M [arXiv 2601.21204].
    Before a request's first token there are zeros. The sum of all projections is divided by G + 1, and the token's own
    embedding is not, as in public implementations of ``LongcatCausalLM``.
    """

    def __init__(self, config: Config, dtype: torch.dtype, device: torch.device | str) -> None:
        """All tables below one another."""
        super().__init__()
        self.longest = config.oe_neighbor_num
        rows, count = config.ngram_rows, config.num_ngram_tables
        width = config.hidden_size // count
        self.tables = nn.Parameter(torch.empty(sum(rows), width, dtype=dtype, device=device))
        self.project_GHW = nn.Parameter(
            torch.empty(count, config.hidden_size, width, dtype=dtype, device=device)
        )
        powers = [
            [
                pow(config.vocab_size, back, own) if back < 2 + table // config.oe_split_num else 0
                for table, own in enumerate(rows)
            ]
            for back in range(self.longest)
        ]
        firsts = [sum(rows[:table]) for table in range(count)]
        self.rows_G: Tensor
        self.first_G: Tensor
        self.powers: Tensor
        for name, values in (("rows_G", rows), ("first_G", firsts), ("powers", powers)):
            self.register_buffer(name, torch.tensor(values, device=device), persistent=False)

    def forward(self, x_NH: Tensor, groups: Sequence[Group]) -> Tensor:
        """The tokens' own embeddings with those of their n-grams, [N, H]."""
        grams = [group.cache.ngrams(group.ids_BT, self.longest).flatten(0, 1) for group in groups]
        hashed_NG = (torch.cat(grams)[..., None] * self.powers).sum(dim=1) % self.rows_G
        ids_NG = hashed_NG + self.first_G
        rows = kernels.embed(ids_NG.flatten(), self.tables)
        count = len(self.project_GHW)
        by_table_NGH = kernels.absorb(rows.view(-1, count, rows.shape[-1]), self.project_GHW.transpose(1, 2))
        return x_NH + by_table_NGH.sum(dim=1) / (count + 1)
