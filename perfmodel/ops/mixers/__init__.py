"""Sequence mixers, one module per kind: ops of a step, weights, what grows with tokens and what a request keeps.

Kernel classes that mixers emit, as tables and calibrations look them up: ``Op.kernel`` with the keys of ``Op.shape``.
Heads, channels and groups are those of one GPU; ``requests`` those of an attention group (all its GPUs hold them);
``new_tokens`` per request (verification: drafts + 1); ``context`` the tokens of a request at the step's end, new ones
included, or those that a window leaves of them. The number format that a curve is looked up by is in brackets.

======================================  ================================================================================
kernel                                  shape
======================================  ================================================================================
gqa_decode, gqa_prefill [cache]         requests new_tokens context heads kv_heads head_dim; and where they are not the
                                        common case window (tokens; ``context`` is cut to it), value (width of a value)
mla_decode, mla_prefill [cache]         requests new_tokens context heads latent rope (prefill: nope rope value); window
index_logits [precision.index_cache]    requests new_tokens context heads head_dim: scores of all keys that a query may
                                        see; ``context`` in keys (tokens, pools or compressed entries)
index_topk [fp32]                       requests new_tokens context top_k
mla_sparse_decode,                      requests new_tokens context selected heads latent rope: absorbed core over
mla_sparse_prefill [cache]              ``selected`` tokens per query (at most top_k), of ``context``
msa_logits [precision.index_cache]      requests new_tokens context heads head_dim block: scores, largest per block
msa_topk [fp32]                         requests new_tokens context top_k: ``context`` and ``top_k`` in blocks
msa_decode, msa_prefill [cache]         requests new_tokens context selected heads kv_heads head_dim
compress [activations]                  rows width ratio: gated pooling of ``rows`` new tokens into entries of ``width``
csa_decode, csa_prefill [cache]         requests new_tokens context selected window heads head_dim: ``selected`` entries
hca_decode, hca_prefill [cache]         per query and the window's tokens; HCA: all entries; neither: selected 0
conv_update, conv_prefill [activations] requests new_tokens channels taps: causal convolution with its state
gdn_decode, gdn_prefill [state]         requests new_tokens key_heads heads key_dim value_dim; heads are value heads
kda_decode, kda_prefill [state]         requests new_tokens heads key_dim value_dim
lightning_decode, lightning_prefill     requests new_tokens heads key_dim value_dim [state]
scan_decode, scan_prefill [state]       requests new_tokens channels state_size (Mamba-1)
ssm_decode, ssm_prefill [state]         requests new_tokens heads head_dim groups state_size
gated_norm [activations]                rows width: RMS norm times a gate
mhc_pre, mhc_post [activations]         rows width streams: weights and weighted sum of the streams before a part;
                                        their mixture and the addition of its output behind it
======================================  ================================================================================

Whole modules that a measured span may stand for (``Op.inside``, at the core), each with (linear's format, cache's
format): ``mla_module_decode`` of DeepSeek-V3's widths; with an index branch ``dsa_module_decode`` and
``dsa_module_prefill`` of DeepSeek-V3.2's widths, ``dsa_glm_module_*`` of GLM-5's, and ``dsa_skip_module_*``,
``dsa_glm_skip_module_*`` where an earlier selection is used. What such a module includes is the curve's to say.

Projections are ``gemm`` (groups of them ``bmm``), rotations and cache writes ``rope``, gates ``activation``, as ever.
"""
