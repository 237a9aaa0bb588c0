"""LongCat-Flash, Flash-Lite and 2.0: shortcut-connected blocks with zero-computation experts.

Rules that a config does not state:

- ``num_layers`` counts blocks of two attentions. transformers derives ``num_hidden_layers`` =
  2 x ``num_layers`` from it, and a config with the latter alone is halved.
- LongCat-Flash was released with one dense multi-token prediction layer that its config.json does
  not mention (arXiv 2509.01322, Table 5). So a config without ``mtp_num_layers`` and
  ``num_nextn_predict_layers`` gets one, unless it has n-gram embeddings: LongCat-Flash-Lite was
  released without.
- ``mtp_replicate_modules`` (LongCat-2.0): ``mtp_num_layers`` passes run through one layer. With sparse attention it
  has an indexer of its own (its checkpoint holds one: see the catalogue's notes).
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from perfmodel.errors import SpecError, UnsupportedError
from perfmodel.spec.hf_fields import MAX_LAYERS, MAX_MTP_LAYERS, MAX_TOKENS, Fields, Parts
from perfmodel.spec.hf_mla import latent_attention
from perfmodel.spec.mixers import Indexer
from perfmodel.spec.model import Layer, Moe, Mtp, NgramEmbedding

MAX_TABLE_ROWS: Final = 10**9
LONGCAT_FAMILIES: Final = (
    "longcat_flash",
    "longcat_flash_ngram",
    "longcat_flash_pro",
    "longcat2",
    "longcat",
)
"""Model types of the LongCat family."""
_INDEX_KEYS: Final = (
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


def longcat(fields: Fields) -> Parts:
    """The parts of a LongCat model: one kind of block, n-gram embedding, draft layer, indexer."""
    num_layers = _longcat_layers(fields)
    method = fields.word("attention_method", ("MLA", "LSA"), default="MLA")
    fields.integer("use_mla", high=1, default=1)
    attention = latent_attention(fields)
    dense_size = fields.integer("intermediate_size")
    moe = _longcat_moe(fields)
    ngram = _ngram_embedding(fields)
    num_drafts = _longcat_drafts(fields, default=0 if ngram else 1)
    indexer, places = _longcat_indexer(fields, num_attentions=2 * num_layers, required=method == "LSA")
    attention = attention.model_copy(update={"indexer": indexer})
    blocks = [
        Layer(
            count=len(list(alike)),
            attention=attention,
            num_attentions=2,
            num_indexers=own if indexer else None,
            dense_ffn_size=dense_size,
            moe=moe,
        )
        for own, alike in groupby(
            first + second for first, second in zip(places[::2], places[1::2], strict=True)
        )
    ]
    draft = Layer(count=1, attention=attention, dense_ffn_size=dense_size)
    return Parts(
        blocks,
        mtp=Mtp(num_layers=num_drafts, layer=draft) if num_drafts else None,
        ngram_embedding=ngram,
    )


def _longcat_layers(fields: Fields) -> int:
    """Blocks: ``num_layers``, or half of ``num_hidden_layers``, which counts attentions."""
    blocks: int | None = fields.integer("num_layers", high=MAX_LAYERS, default=None)
    attentions: int | None = fields.integer("num_hidden_layers", high=2 * MAX_LAYERS, default=None)
    if blocks is None and attentions is None:
        raise SpecError(f"model config ({fields.model_type}): num_layers is missing")
    if attentions is not None and attentions % 2:
        raise fields.wrong("num_hidden_layers", attentions, "even: two attentions per layer")
    if blocks is None:
        return (attentions or 0) // 2
    if attentions is not None and attentions != 2 * blocks:
        raise fields.wrong("num_hidden_layers", attentions, f"2 x num_layers = {2 * blocks}, or left out")
    return blocks


def _longcat_moe(fields: Fields) -> Moe:
    experts = fields.integer("n_routed_experts")
    zero = fields.integer("zero_expert_num", low=0, default=0)
    fields.word("zero_expert_type", ("identity",), default="identity")
    fields.word("topk_method", ("noaux_tc",), default="noaux_tc")
    return Moe(
        num_experts=experts,
        num_zero_experts=zero,
        top_k=fields.integer(
            "num_experts_per_tok", high=experts + zero, bound="n_routed_experts + zero_expert_num"
        ),
        ffn_size=fields.integer("moe_intermediate_size"),
        router_bias=fields.flag("router_bias", default=False),
        correction_bias=True,
    )


def _longcat_drafts(fields: Fields, *, default: int) -> int:
    """Draft layers in the weights; see the module's rules."""
    if fields.flag("nextn_use_scmoe", default=False):
        raise UnsupportedError("nextn_use_scmoe = True is not modelled; allowed: false (a dense draft layer)")
    stated = fields.integer("num_nextn_predict_layers", low=0, high=MAX_MTP_LAYERS, default=default)
    count: int = fields.integer("mtp_num_layers", low=0, high=MAX_MTP_LAYERS, default=stated)
    return min(count, 1) if fields.flag("mtp_replicate_modules", default=False) else count


def _ngram_embedding(fields: Fields) -> NgramEmbedding | None:
    """(N - 1) K tables of hidden / ((N - 1) K) columns [arXiv 2601.21204].

    Table i has int(ratio x vocab) + 2 i + 1 rows, so that no two hashes share a modulus: on average
    int(ratio x vocab) + (number of tables).
    """
    used = fields.flag("use_oe_embedding", default=True)
    keys = ("ngram_vocab_size_ratio", "emb_neighbor_num", "emb_split_num")
    if not any(fields.has(key) for key in keys):
        return None
    ratio = fields.number(keys[0], high=1e6)
    tables = (fields.integer(keys[1], low=2, high=1000) - 1) * fields.integer(keys[2], high=1000)
    hidden = fields.integer("hidden_size")
    if hidden % tables:
        raise fields.wrong(
            "hidden_size",
            hidden,
            f"a multiple of the {tables} tables that emb_neighbor_num and emb_split_num give",
        )
    rows = int(ratio * fields.integer("vocab_size", high=MAX_TOKENS)) + tables
    if rows > MAX_TABLE_ROWS:
        raise fields.wrong(keys[0], ratio, f"small enough for tables of at most {MAX_TABLE_ROWS} rows")
    table = NgramEmbedding(num_tables=tables, rows_per_table=rows, table_width=hidden // tables)
    return table if used else None


def _longcat_indexer(
    fields: Fields, *, num_attentions: int, required: bool
) -> tuple[Indexer | None, Sequence[bool]]:
    """The indexer, and for each attention whether it has one: the first of every ``cli_factor`` attentions, or wherever
    the pattern says "C".
    """
    used = fields.flag("use_longcat_dsa", default=True)
    if not required and not (used and fields.has("index_n_heads")):
        fields.read_only(_INDEX_KEYS)
        return None, [False] * num_attentions
    factor = fields.integer("cli_factor", high=num_attentions, default=1)
    if num_attentions % factor:
        raise fields.wrong("cli_factor", factor, f"a divisor of the {num_attentions} attentions")
    pattern = fields.words("index_topk_pattern", ("C", "S"), length=num_attentions)
    places = [i % factor == 0 for i in range(num_attentions)]
    if pattern is not None:
        places = [letter == "C" for letter in pattern]
    if not any(places):
        raise fields.wrong("index_topk_pattern", pattern, 'a list with at least one "C"')
    fields.word("index_k_norm_type", ("rms",), default="rms")
    fields.flag("indexer_rope_interleave", default=True)
    heads, width = fields.integer("index_n_heads"), fields.integer("index_head_dim")
    top_k = fields.integer("index_topk", high=MAX_TOKENS)
    sinks = fields.integer("index_init_tokens", low=0, high=top_k, bound="index_topk", default=0)
    local = fields.integer(
        "index_local_tokens", low=0, high=top_k - sinks, bound="index_topk - index_init_tokens", default=0
    )
    indexer = Indexer(
        num_heads=heads,
        head_dim=width,
        top_k=top_k,
        sink_tokens=sinks,
        local_tokens=local,
        key_norm="rms",
    )
    return indexer, places
