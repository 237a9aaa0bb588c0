"""Sparse attention out of the measured tables: whole modules in decode, and the parts of an index branch.

What the rows are:

- ``dsa_generation_module``: from the projections of query and latent to the output's, with index branch
  (``dsa_module_decode``) or with an earlier selection (``..._skip_indexer``, GLM-5.2). KV length = ``step``.
  TensorRT-LLM's take the host's time on Hopper (0.22 ms whatever the shape) and have a spike at 2,048 keys on
  Blackwell, where the dense path ends: left out. Modules of prompts are launched one by one in SGLang, and like MLA's
  are left out.
- ``glm5_mqa_logits``, ``glm5_topk``, ``glm5_dsa_attn``: one kernel each of a prompt's index branch and core (SGLang),
  32 index heads of 128 (``num_heads`` 64 is the attention's). The top-k is 0 where nothing is selected (as many keys
  as are taken, or fewer): left out. Of two score patterns that with the largest scores last is read; all equal takes
  1.6 to 2.6 times as long.
- ``dsv4_paged_mqa_logits``: scores in decode over a paged cache of entries of 4 tokens, 64 index heads; 262,144 entries
  in all at most, so always in L2. What a key costs beyond that is read off vLLM's modules, with index branch less
  without, over all batches and up to 16.8 M keys (:func:`key_seconds`): 132 bytes at about 0.7 of the memory bandwidth.
- SGLang's modules end at 262,144 tokens in all, and its batches above 256 are not in a CUDA graph: those are left out,
  and longer contexts continue by what a key costs, or unchanged without an index branch. Only rows that were read are
  judged.
- ``dsv4_hca_attn``: DeepSeek-V4's core over compressed entries of 128 tokens and a window of 128 (vLLM).
"""

from typing import TYPE_CHECKING

import numpy as np

from calibrate.device.curves import fit_terms
from calibrate.public.attention_rows import FORMATS, cite
from calibrate.public.mla import CORE, MODULE_INCLUDES
from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, Source

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

FAMILIES = {"deepseek-ai/DeepSeek-V3.2": "dsa", "zai-org/GLM-5": "dsa_glm", "zai-org/GLM-5.2": "dsa_glm"}
"""Model of a module -> how its kernel class begins; FP8 checkpoints of a model have the same widths."""
SKIP = "skip_indexer"
INCLUDES = (*MODULE_INCLUDES, "index_logits", "index_topk")
HOPPER = ("h100_sxm", "h200_sxm")
DENSE_ENDS = 2048
FAMILY = "sparse_attention"
GRID = ("cached", "queries", "requests")
INDEX_HEADS, V4_HEADS = 32, 64
V4_RATIO = 4
FEW_QUERIES = 4
FEWEST = 20
"""Rows that tell what a key costs."""
ONE_QUERY_EACH = 8
"""New tokens per request up to which a core's rows are decode's."""
MOST_CAPTURED = 256
"""Requests up to which SGLang's modules were replayed from a graph."""
LAW_TABLE, LAW_MODEL, LAW_HEADS = "dsa_generation_module", "zai-org/GLM-5.2", 64
ENGINES_APART = 0.15
"""Spread of the scores' time: SGLang's modules with index branch less those without take 6 % less than vLLM's on H200
and 21 % less on B200 (one request, 8,192 tokens)."""
TIES = 0.3
"""Spread of a top-k kernel: its time depends on the scores (ln of 1.6 to 2.6 between two patterns is 0.5 to 1.0, of
which serving has neither), and LSA's forced first and last tokens were not timed."""


def samples(source: Source, system: str) -> list[Samples]:
    """Modules of every engine, and the kernels of index branches and sparse cores."""
    found = []
    for engine in ENGINES:
        found += _modules(source, system, engine)
    return [*found, *_logits(source, system), *_selection(source, system), *_cores(source, system)]


def _modules(source: Source, system: str, engine: str) -> list[Samples]:
    if engine == "trtllm" and system in HOPPER:
        return []
    table = "dsa_generation_module"
    frame = source.read(system, FAMILY, engine, table)
    if frame is None:
        return []
    version = source.version(system, FAMILY, engine, table)
    names = {"batch_size": "requests", "num_heads": "heads", "step": "context"}
    frame = frame.rename(columns=names).assign(
        family=frame["model"].str.removesuffix("-FP8").map(FAMILIES), skip=frame["op_name"].str.endswith(SKIP)
    )
    frame = frame[frame["family"].notna() & (frame["mla_dtype"] == "bfloat16") & (frame["seconds"] > 0.0)]
    frame = frame[_regular(frame["context"])]
    if engine == "trtllm":
        frame = frame[frame["context"] != DENSE_ENDS]
    if engine == "sglang":
        frame = frame[frame["requests"] <= MOST_CAPTURED]
    per_key = key_seconds(source, system)
    found = []
    for (family, skip, weights, cache), part in frame.groupby(
        ["family", "skip", "gemm_type", "kv_cache_dtype"]
    ):
        rows = part.groupby(list(CORE), as_index=False)["seconds"].median()
        rows = continued(rows, 0.0 if skip else per_key)
        found.append(
            Samples(
                kernel=f"{family}_{'skip_' if skip else ''}module_decode",
                dtype="fp8-tensor" if weights == "fp8" else FORMATS[str(weights)],
                backend=FORMATS[str(cache)],
                engine=engine,
                axes=CORE,
                frame=rows,
                source=cite(source, system, engine, version, table, _kernels(part)),
                slices={
                    "requests 16..64": rows["requests"].between(16, 64),
                    "context 1024..4096": rows["context"].between(1024, 4096),
                },
                includes=INCLUDES,
                note="projections, norms, RoPE, cache write, absorbed products, "
                + ("core over an earlier selection" if skip else "index branch, core"),
            )
        )
    return found


def key_seconds(source: Source, system: str) -> float:
    """What one more cached token of one request costs an index branch in decode, s; 0 where no table tells.

    vLLM's modules of GLM-5.2 with index branch less those without: a constant, a term per request and one per key.
    """
    frame = source.read(system, FAMILY, "vllm", LAW_TABLE)
    if frame is None:
        return 0.0
    rows = frame[
        (frame["model"] == LAW_MODEL)
        & (frame["num_heads"] == LAW_HEADS)
        & (frame["kv_cache_dtype"] == "fp8")
        & (frame["step"] >= DENSE_ENDS)
    ]
    rows = rows.assign(skip=rows["op_name"].str.endswith(SKIP))
    wide = rows.pivot_table(
        index=["gemm_type", "batch_size", "step"], columns="skip", values="seconds"
    ).dropna()
    if len(wide) < FEWEST or len(wide.columns) < 2:
        return 0.0
    extra = (wide[False] - wide[True]).to_numpy(dtype=float)
    requests, context = (
        wide.index.get_level_values(name).to_numpy(dtype=float) for name in ("batch_size", "step")
    )
    some = extra > 0.0
    variables = {"requests": requests[some], "context": context[some]}
    terms = dict(fit_terms(("1", "requests", "requests*context"), variables, extra[some]))
    return terms.get("requests*context", 0.0)


def continued(rows: "pd.DataFrame", per_key: float, whole: float = 0.0) -> "pd.DataFrame":
    """Modules at contexts that were timed with fewer requests or heads only (column ``filled``).

    A further token costs ``per_key`` per request. Up to ``whole`` tokens, all of which a core reads, time grows by
    twice what it does with half as many requests, where those were timed.
    """
    import pandas as pd

    contexts = np.unique(rows["context"])
    added = []
    lines: dict[tuple[float, float], dict[float, float]] = {}
    for (requests, heads), line in rows.groupby(["requests", "heads"]):
        times = dict(zip(line["context"].astype(float), line["seconds"], strict=True))
        half = lines.get((requests / 2.0, heads), {})
        last = max(times)
        for context in map(float, contexts[contexts > last]):
            if context <= whole and {context, last} <= half.keys():
                more = 2.0 * max(half[context] - half[last], 0.0)
            else:
                more = per_key * requests * (context - last)
            times[context] = times[last] + more
            last = context
            added.append((context, requests, heads, times[context]))
        lines[requests, heads] = times
    rows = rows.assign(filled=False)
    if not added:
        return rows
    new = pd.DataFrame(added, columns=[*CORE, "seconds"]).assign(filled=True)
    return pd.concat([rows, new], ignore_index=True)


def _per_request(frame: "pd.DataFrame", ratio: int = 1) -> "pd.DataFrame":
    """Rows by new tokens per request and what was cached before (entries of ``ratio`` tokens; one more)."""
    frame = frame[(frame["seconds"] > 0.0) & ((frame["step"] == 0) | _regular(frame["step"]))]
    frame = frame.rename(columns={"batch_size": "requests", "isl": "queries"})
    return frame.assign(cached=frame["step"] // ratio + 1)


def _logits(source: Source, system: str) -> list[Samples]:
    import pandas as pd

    found = []
    for engine in ENGINES:
        paged = source.read(system, FAMILY, engine, "dsv4_paged_mqa_logits_module")
        if paged is None:
            continue
        if "local_num_heads" in paged:
            paged = paged[paged["local_num_heads"] == V4_HEADS]
        version = source.version(system, FAMILY, engine, "dsv4_paged_mqa_logits_module")
        paged = _per_request(paged, V4_RATIO).assign(heads=V4_HEADS)
        paged = paged.groupby(["heads", *GRID], as_index=False)["seconds"].median().assign(filled=False)
        few = _decoded(paged, key_seconds(source, system))
        prompts = source.read(system, FAMILY, "sglang", "glm5_mqa_logits_module")
        parts = [paged, few]
        if prompts is not None:
            prompts = _per_request(prompts).assign(heads=INDEX_HEADS, filled=False)
            parts.append(prompts[prompts["queries"] > 2 * FEW_QUERIES])
        rows = pd.concat(parts, ignore_index=True)[["heads", *GRID, "seconds", "filled"]]
        found.append(
            _grid(
                "index_logits",
                "fp8",
                engine,
                rows,
                cite(source, system, engine, version, "dsv4_paged_mqa_logits, glm5_mqa_logits", "deep_gemm"),
                "scores over FP8 index keys of 128; up to 4 new tokens by what a key costs in vLLM's modules",
                match=("heads",),
                flag="derived: in decode from modules with and without an index branch",
                least_log_std=ENGINES_APART,
            )
        )
    return found


def _decoded(paged: "pd.DataFrame", per_key: float) -> "pd.DataFrame":
    """Scores of few new tokens by what a key costs: of 32 heads everywhere, of 64 beyond what was timed."""
    import pandas as pd

    floor = float(paged["seconds"].min())
    timed = set(zip(paged["requests"], paged["cached"], strict=True))
    sizes = [2**power + 1 for power in range(11, 21)]
    added = []
    for heads in (INDEX_HEADS, V4_HEADS):
        for requests in np.unique(paged["requests"]):
            for cached in (1, *sizes):
                if heads == INDEX_HEADS or ((requests, cached) not in timed and cached > 1):
                    time = floor + per_key * float(requests) * cached
                    added += [(heads, cached, queries, requests, time, True) for queries in (1, FEW_QUERIES)]
    return pd.DataFrame(added, columns=["heads", *GRID, "seconds", "filled"])


def _selection(source: Source, system: str) -> list[Samples]:
    frame = source.read(system, FAMILY, "sglang", "glm5_topk_module")
    if frame is None:
        return []
    version = source.version(system, FAMILY, "sglang", "glm5_topk_module")
    rows = _per_request(frame[(frame["score_mode"] == "top_last") & (frame["step"] >= DENSE_ENDS)])
    rows = rows[rows["queries"] <= rows["cached"]].assign(rows=rows["requests"] * rows["queries"])
    rows = rows.groupby(["rows", "cached"], as_index=False)["seconds"].median()
    return [
        Samples(
            kernel="index_topk",
            dtype="fp32",
            backend="",
            engine="sglang",
            axes=("rows", "cached"),
            frame=rows,
            source=cite(source, system, "sglang", version, "glm5_topk", "fast_topk_transform_fused"),
            slices={
                "1024 to 4096 queries": rows["rows"].between(1024, 4096),
                "cached 8192..32768": rows["cached"].between(8192, 32769),
            },
            note="2,048 of the keys, the largest scores last",
            flag="derived: time depends on the scores, of which these are one pattern, and on tokens that are always "
            "selected (LSA), which nobody timed",
            least_log_std=TIES,
        )
    ]


def _cores(source: Source, system: str) -> list[Samples]:
    found = []
    frame = source.read(system, FAMILY, "sglang", "glm5_dsa_attn_module")
    if frame is not None:
        version = source.version(system, FAMILY, "sglang", "glm5_dsa_attn_module")
        rows = frame.assign(rows=frame["batch_size"] * frame["isl"], heads=64)
        rows = rows[(rows["seconds"] > 0.0) & (rows["isl"] > ONE_QUERY_EACH)]
        rows = rows.groupby(["rows", "heads"], as_index=False)["seconds"].median()
        found.append(
            Samples(
                kernel="mla_sparse_prefill",
                dtype="any",
                backend="",
                engine="sglang",
                axes=("rows",),
                match=("heads",),
                scale_by=("heads",),
                frame=rows,
                source=cite(source, system, "sglang", version, "glm5_dsa_attn", "flash_mla_sparse_fwd"),
                slices={"1024 to 4096 queries": rows["rows"].between(1024, 4096)},
                note="2,048 keys to a query, whatever the context",
            )
        )
    for engine in ENGINES:
        frame = source.read(system, FAMILY, engine, "dsv4_hca_attn_module")
        if frame is None:
            continue
        version = source.version(system, FAMILY, engine, "dsv4_hca_attn_module")
        whole = _per_request(frame).assign(heads=frame["local_num_heads"])
        for kernel, part in (
            ("hca_decode", whole[whole["queries"] <= ONE_QUERY_EACH]),
            ("hca_prefill", whole[whole["queries"] >= ONE_QUERY_EACH]),
        ):
            rows = part.groupby(["heads", *GRID], as_index=False)["seconds"].median()
            origin = cite(source, system, engine, version, "dsv4_hca_attn", _kernels(part))
            found.append(
                _grid(kernel, "fp8", engine, rows, origin, "entries of 128 tokens", match=("heads",))
            )
    return found


def _grid(
    kernel: str,
    dtype: str,
    engine: str,
    rows: "pd.DataFrame",
    source: str,
    note: str,
    *,
    match: tuple[str, ...],
    flag: str = "",
    least_log_std: float = 0.0,
) -> Samples:
    return Samples(
        kernel=kernel,
        dtype=dtype,
        backend="",
        engine=engine,
        axes=GRID,
        frame=rows,
        source=source,
        match=match,
        scale_by=match,
        slices={
            "requests 8..32": rows["requests"].between(8, 32),
            "cached 2048..8192": rows["cached"].between(2048, 8193),
        },
        note=note,
        flag=flag,
        least_log_std=least_log_std,
    )


def _kernels(frame: "pd.DataFrame") -> str:
    return "/".join(str(name) for name in frame["kernel_source"].value_counts().index)


def _regular(sizes: "pd.Series") -> "pd.Series":
    """Powers of two: what lies between is what fills a context to its last token, different for every other size."""
    logs = np.log2(sizes.clip(lower=1))
    return (logs == np.rint(logs)) & (sizes > 0)
