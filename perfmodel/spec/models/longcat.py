"""What LongCat's configs leave to arithmetic: n-gram embedding tables and indexers shared by attentions."""

from collections.abc import Mapping
from typing import Any, Final

from perfmodel.spec.model import Indexer, NgramEmbedding
from perfmodel.spec.models.fields import MAX_TOKENS, Fields

MAX_TABLE_ROWS: Final = 10**9


def ngram_embedding(rules: Mapping[str, Any], fields: Fields) -> NgramEmbedding | None:
    """(N - 1) K tables of hidden / ((N - 1) K) columns [arXiv 2601.21204].

    Table i has int(ratio x vocab) + 2 i + 1 rows, so that no two hashes share a modulus: on average
    int(ratio x vocab) + (number of tables).

    Args:
        rules: the keys of ``ratio``, ``neighbours`` (N) and ``splits`` (K), and ``unless``, a switch that turns it off.
        fields: the config.

    Raises:
        SpecError: only some of the keys, a value out of range, or widths that don't divide.
    """
    keys = (rules["ratio"], rules["neighbours"], rules["splits"])
    used = fields.flag(rules["switch"]) if fields.has(rules["switch"]) else True
    if not any([fields.has(key) for key in keys]):  # a list: all of them are marked as read
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


INDEX_KEYS: Final = (
    "cli_factor",
    "index_topk_pattern",
    "index_k_norm_type",
    "index_topk",
    "index_local_tokens",
    "index_init_tokens",
    "indexer_rope_interleave",
    "index_n_heads",
    "index_head_dim",
)


def indexer(fields: Fields, num_attentions: int) -> Indexer | None:
    """One indexer for every ``cli_factor`` attentions, or wherever ``index_topk_pattern`` says "C".

    Raises:
        SpecError: a value out of range, a factor that does not divide, a pattern without "C".
        UnsupportedError: another norm of keys than RMS.
    """
    required = fields.has("attention_method") and fields.text("attention_method") == "LSA"
    used = fields.flag("use_longcat_dsa") if fields.has("use_longcat_dsa") else True
    if not required and not (used and fields.has("index_n_heads")):
        fields.mark_read(INDEX_KEYS)
        return None
    factor = fields.integer("cli_factor", high=num_attentions) if fields.has("cli_factor") else 1
    if num_attentions % factor:
        raise fields.wrong("cli_factor", factor, f"a divisor of the {num_attentions} attentions")
    pattern = fields.items("index_topk_pattern", length=num_attentions)
    if pattern is not None and not set(map(str, pattern)) <= {"C", "S"}:
        raise fields.not_modelled("index_topk_pattern", pattern, 'items "C" and "S"')
    count = num_attentions // factor if pattern is None else pattern.count("C")
    if count == 0:
        raise fields.wrong("index_topk_pattern", pattern, 'a list with at least one "C"')
    if fields.has("index_k_norm_type") and fields.text("index_k_norm_type") != "rms":
        raise fields.not_modelled("index_k_norm_type", fields.text("index_k_norm_type"), "rms")
    for key in ("index_topk", "index_local_tokens", "index_init_tokens"):
        if fields.has(key):
            fields.integer(key, low=0, high=MAX_TOKENS)
    if fields.has("indexer_rope_interleave"):
        fields.flag("indexer_rope_interleave")
    heads, width = fields.integer("index_n_heads"), fields.integer("index_head_dim")
    return Indexer(num_heads=heads, head_dim=width, num_indexers=count)
