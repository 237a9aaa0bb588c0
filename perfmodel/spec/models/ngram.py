"""N-gram embedding tables, whose number and rows LongCat's configs leave to arithmetic."""

from collections.abc import Mapping
from typing import Any, Final

from perfmodel.spec.model import NgramEmbedding
from perfmodel.spec.models.fields import MAX_TOKENS, Fields

MAX_TABLE_ROWS: Final = 10**9


def ngram_embedding(rules: Mapping[str, Any], fields: Fields) -> NgramEmbedding | None:
    """(N - 1) K tables of hidden / ((N - 1) K) columns [arXiv 2601.21204].

    Table i has int(ratio x vocab) + 2 i + 1 rows, so that no two hashes share a modulus: on average
    int(ratio x vocab) + (number of tables).

    Args:
        rules: the keys of ``ratio``, ``neighbours`` (N) and ``splits`` (K), and ``switch``, which turns it off.
        fields: the config.

    Raises:
        SpecError: only some of the keys, a value out of range, or widths that don't divide.
    """
    keys = (rules["ratio"], rules["neighbours"], rules["splits"])
    used = fields.flag(rules["switch"]) if fields.has(rules["switch"]) else True
    fields.mark_read(keys)
    if not any(fields.has(key) for key in keys):
        return None
    ratio = fields.number(keys[0], high=1e6)
    tables = (fields.integer(keys[1], low=2, high=1000) - 1) * fields.integer(keys[2], high=1000)
    hidden = fields.integer("hidden_size")
    if hidden % tables:
        allowed = f"a multiple of the {tables} tables that emb_neighbor_num and emb_split_num give"
        raise fields.wrong("hidden_size", hidden, allowed)
    rows = int(ratio * fields.integer("vocab_size", high=MAX_TOKENS)) + tables
    if rows > MAX_TABLE_ROWS:
        raise fields.wrong(keys[0], ratio, f"small enough for tables of at most {MAX_TABLE_ROWS} rows")
    table = NgramEmbedding(num_tables=tables, rows_per_table=rows, table_width=hidden // tables)
    return table if used else None
