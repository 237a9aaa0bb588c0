"""What the suites of ``perfmodel validate`` are called: apart, because the command line's help lists them."""

TITLES = (
    ("kernels", "kernels timed alone, against the calibrations' curves"),
    ("collectives", "published timings of dispatch, combine and collectives"),
    ("longcat-theory", "the LongCat-Flash report's Table 7, itself a calculation"),
    ("longcat-measured", "the LongCat-Flash report's Table 6, measured"),
    ("deepseek", "DeepSeek's production figures and profile, and SGLang on 96 H100"),
    ("deepseek-fleet", "what a node of DeepSeek's fleet could do, against its production average"),
    ("silicon", "TTFT and TPOT at fixed concurrency on H100, H200, B200 and GB200"),
    (
        "silicon-field",
        "TTFT and TPOT at fixed concurrency from cookbooks, labs, blogs and pull requests of 2025-26",
    ),
    ("serving-2026", "steps, bursts and other figures of the public runs of 2025-26"),
    ("training", "training runs: DeepSeek-V3, Megatron-Bridge, Megatron-LM on A100, SimuMax's B200, overlap"),
    ("silicon-2026", "TTFT and TPOT at fixed concurrency of MiniMax-M2.5, gpt-oss-120b and Qwen3.5-397B"),
    (
        "planning",
        "whether predictions choose what measured best, in sets of configurations of the silicon suites",
    ),
)
"""Name and title of each suite, in the order in which they run; the module is the name with ``_`` for ``-``."""
