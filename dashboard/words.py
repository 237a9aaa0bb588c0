"""What terms mean, in a sentence each: the tooltips of all pages."""

from perfmodel.output.validation_html import ROLES

HELP = {
    "model": "Architecture, from the model's Hugging Face config.json.",
    "cluster": "GPU, node and network. Choosing one brings its GPU's calibration and price along.",
    "calibration": "Kernel times measured on a GPU: every op that it covers takes its time from there.",
    "engine": "Serving engine whose kernels and documented defaults count, with constants fitted on published runs.",
    "phase": "decode: one step makes one token (and drafts) per request. prefill: a step computes prompts.",
    "gpus": "GPUs of one replica that work on one step together.",
    "attention_tp": "Tensor parallelism of attention: GPUs that share one request's heads. The rest is data parallel.",
    "dense_tp": "Tensor parallelism of the dense FFNs: GPUs that share their columns.",
    "moe_tp": "Tensor parallelism inside each expert; 1: every expert is whole on one rank.",
    "pp": "Pipeline stages: parts of the layers on GPUs of their own.",
    "overlap": (
        "How communication hides behind compute. sequential: not at all. tbo: two half batches take turns. sbo: "
        "LongCat's shortcut lets one batch hide dispatch and combine behind a dense FFN and the second attention. "
        "sbo-engine: as the released engine does it."
    ),
    "batch": "Requests that one GPU decodes at the same time. More: cheaper tokens, slower for each user.",
    "prompts": "Prompts that one GPU computes in the same step.",
    "prompt_tokens": "New tokens of a prompt in this step.",
    "context": "Tokens in a request's KV cache: its prompt and what it has produced so far.",
    "drafts": "Tokens that the model's own draft layer (multi-token prediction, MTP) proposes per step; 0: off.",
    "acceptance": "Probability that a draft token is accepted, given that those before it were.",
    "real_experts": (
        "Mean number of experts per token that compute; the rest of its picks are zero-computation experts, which "
        "return their input and cost nothing."
    ),
    "popularity": "Which experts tokens like. uniform: all alike, loads differ by chance. power-law: some are hot.",
    "skew": "Exponent of the power law: 0.3 is mild, 1 is strong.",
    "placement": "contiguous: experts on ranks in order. eplb: by load, hot ones copied (needs redundant experts).",
    "redundant": "Extra copies of experts in all. Routed and redundant ones together must divide by the ranks.",
    "imbalance": "Load of the busiest rank beyond what popularity explains; 1: nothing more.",
    "attention_dtype": "Number format of the attention core.",
    "kv_dtype": "Number format of the KV cache.",
    "price": "What a GPU costs per hour, idle or busy.",
    "tokens_per_s_per_user": "Output tokens that one request gets per second: 1 / TPOT.",
    "output_tokens_per_s_per_gpu": "Output tokens per second over all GPUs of the replica.",
    "input_tokens_per_s_per_gpu": "Prompt tokens per second over all GPUs.",
    "usd_per_million_output_tokens": "GPU cost of a million output tokens with every GPU busy all the time; prompts, "
    "idle hours and staff are not in it (the Traffic page counts prompts and idle time).",
    "usd_per_million_input_tokens": "GPU cost of a million prompt tokens with every GPU busy all the time.",
    "tpot_s": "Time per output token of one request: step time over tokens per step.",
    "ttft_s": "Time to first token: of the prompt's step alone, without waiting in a queue.",
    "step_time_s": "Time of one step of the batch: all layers, drafts and the host's gap.",
    "max_batch_per_gpu": "Requests per GPU that fit in memory, at this context.",
    "overlap_pct": "Share of communication time that runs behind compute (Holistic Trace Analysis's definition).",
    "exposed_communication_s": "Time per step in which something communicates and nothing computes.",
    "mfu": "Model FLOPs utilisation: FLOPs over the peak of each op's number format, over the step's time.",
    "mbu": "Model bandwidth utilisation: HBM bytes over the peak bandwidth, over the step's time.",
    "interval": "80 % interval: kernels' and the engine's measured spread, carried through the schedule by 64 draws.",
}
"""Key -> tooltip."""

NAMES = {
    "tokens_per_s_per_user": "Tokens/s per user",
    "output_tokens_per_s_per_gpu": "Output tokens/s per GPU",
    "input_tokens_per_s_per_gpu": "Input tokens/s per GPU",
    "usd_per_million_output_tokens": "$ per M output tokens",
    "usd_per_million_input_tokens": "$ per M input tokens",
    "tpot_s": "TPOT",
    "ttft_s": "TTFT, no queue",
    "step_time_s": "Step time",
    "max_batch_per_gpu": "Requests per GPU that fit",
    "overlap_pct": "Communication hidden",
    "exposed_communication_s": "Exposed communication",
    "mfu": "MFU",
    "mbu": "MBU",
}
"""Key of an answer -> name for people."""

TRUST: dict[str, str] = {
    "suite": "A set of published figures that is compared with predictions in one way.",
    "role": "Whose judge a row is. " + " ".join(f"{role}: {text}." for role, text in ROLES.items()),
    "quantity": "What was measured.",
    "rows": "Rows with a prediction, of all rows; why the others have none is listed below.",
    "median": "Half of the errors are smaller: the median of |predicted - measured| in % of the measured figure.",
    "mean": "Mean of |predicted - measured| in % of the measured figure: a few large errors lift it over the median.",
    "bias": "Mean of the signed errors: + predictions are too large, - too small. For a time, - is too fast.",
    "coverage": "How many of the rows with an interval have the measured figure inside it. Honest 80 % intervals "
    "come near 80; above, they are wider than they need to be.",
    "width": "Mean width of the 80 % interval in % of the prediction: wide intervals cover easily.",
    "peer": "Median error of another tool (aiconfigurator 0.12.0) on the rows that both answer.",
    "ours": "perfmodel's median error on the same rows.",
    "signed": "Predicted minus measured, in % of the measured figure.",
    "si": "In SI units; the column unit says which.",
    "repeat": "How far two timings of the same thing lie apart, in the median: nothing can be predicted better.",
    "published": "Published figures with their sources, set beside what perfmodel says of the same set-up: those that "
    "it misses as well as those that it hits.",
    "scatter": "On the diagonal a prediction is exact; bands are ±10 and ±25 %. Bars, where rows are few: the 80 % "
    "interval.",
    "errors": "Signed, right of zero predictions are too large. A box holds the middle half of the rows, the line in "
    "it is their median. Grey: another tool, on the same rows.",
    "alike": "What these measurements share with the scenario. Rows that set no constant (role check) alone.",
    "timed": "Shapes that were timed on the device for this kernel.",
    "left_out": "Shapes were left out of the fit in turn and predicted: half of them were off by less than this.",
    "p90": "Nine of ten left-out shapes were off by less than this.",
    "ops": "Ops of this step that take their time from it.",
    "age": "Days since the calibration was fitted. Kernels change with every release of an engine or a driver.",
    "covered": "Share of the time of all ops, each alone, that comes from the calibration's timings. The rest is "
    "estimated from FLOPs and bytes at fractions of the peaks that similar kernels reach (roofline).",
    "kernels": "Median over the calibration's kernels that this step uses, of the median error on shapes that their "
    "fits never saw.",
    "nearest": "Median error on the published measurements that are most like this scenario: same model, GPU and "
    "engine if there are any.",
}
"""Term of the page on trust -> tooltip."""

TRAFFIC: dict[str, str] = {
    "traffic": "Which requests come when. A trace is a recording of real users' traffic; drawn requests come at random "
    "(Poisson) with lengths drawn around a mean (geometric).",
    "num_requests": "Requests that are simulated, from the first one's arrival to the last one's last token. A trace "
    "that has fewer gives all it has.",
    "time_scale": "How many times faster than in the recording requests come: 2 halves every gap between them.",
    "request_rate": "Requests that come per second, in the mean.",
    "max_concurrency": "Closed loop: so many requests are in flight, and when one ends the next one comes.",
    "input_tokens": "Mean length of prompts, tokens.",
    "output_tokens": "Mean length of outputs, tokens.",
    "ttft_ms": "Service level objective (SLO) for the time to first token, milliseconds: a request that waits longer "
    "is not good. Empty: no limit.",
    "tpot_ms": "Service level objective (SLO) for the time per output token after the first, milliseconds. Empty: no "
    "limit. A fluent reader takes about 100 ms per token.",
    "seed": "Of all random draws (arrivals, lengths, accepted drafts). The same seed gives the same run.",
    "ttft_s": "Time to first token: from a request's arrival until its first token is out. Waiting for the batch, and "
    "the prompt's computation, are in it.",
    "queue_s": "Part of TTFT: until a step works on the request for the first time.",
    "transfer_s": "Part of TTFT: from the prompt's end until its KV cache has arrived where it is decoded.",
    "tpot_s": "Time per output token after the first, the mean over one request: (E2E - TTFT) / (tokens - 1).",
    "itl_s": "Inter-token latency: the gap between two outputs of a request, of all requests together. With drafts a "
    "step puts out several tokens at once, so it is longer than TPOT.",
    "e2e_s": "End to end: from a request's arrival to its last token.",
    "percentiles": "p50: half of the requests are at or below it (median). p90: nine of ten. p99: 99 of 100.",
    "requests_per_s": "Requests over the whole span, from the first arrival to the last token.",
    "goodput_requests_per_s": "Requests per second that keep every stated objective (SLO). Others are served and paid "
    "for too, but count for nothing here.",
    "output_tokens_per_s_per_gpu": "Output tokens per second, all GPUs of all replicas counted over the whole span.",
    "usd_per_million_output_tokens": "Cost of all GPUs over the whole span, idle time and prompts included, per "
    "million output tokens. Little traffic makes it high: GPUs are paid for while they wait.",
    "usd_per_million_total_tokens": "The same cost, spread over prompt and output tokens alike.",
    "energy_j_per_output_token": "Energy of all GPU boards (not servers, network or cooling) over the whole span, per "
    "output token, by a coarse model.",
    "power_w_per_gpu": "Mean power of one GPU board over the whole span, by a coarse model.",
    "busy_pct": "Share of the span in which the engine takes a step.",
    "cache_hit_pct": "Prompt tokens that were found in a prefix cache and not computed again.",
    "preemptions": "Requests that lost their KV cache for a while because memory was short.",
    "latency": "A point says which share of the requests took at most so long. Dashed: the objective.",
    "load": "Of all replicas together. Requests that wait are at a replica which has no room or no time for them yet.",
    "batch": "Requests that decode together on the rank that has most of them: the slowest rank sets every step.",
    "goodput": "The same traffic at other speeds: how many good requests per second there are. It rises with the rate "
    "until requests miss their objectives. Hollow: the queue grows, which can't go on.",
    "held": "Whether replicas keep up: no queue grows, little is left after the last arrival.",
    "good_pct": "Share of requests that keep every objective.",
}
"""Term of the page on traffic -> tooltip."""

EXPERTS: dict[str, str] = {
    "active": "Parameters that one token is multiplied with: everything but the experts it does not wake. A router "
    "picks the same number of experts for every token, but zero-computation experts return their input and cost "
    "nothing.",
    "mean": "Mean over tokens.",
    "range": "From a token all of whose picks compute nothing to one all of whose picks are real experts.",
    "std": "Standard deviation of a token's active parameters over all layers: layers choose independently unless "
    "routing.layer_correlation says otherwise, so they average out.",
    "load": "Pairs of a token and a real expert that a rank computes, over the mean rank's, in one drawn step. All "
    "ranks wait for the busiest one.",
    "rank": "Expert-parallel (EP) rank: a GPU, or a few under expert TP, that holds some of the experts.",
    "busiest": "Expected load of the busiest rank over the mean, averaged over layers and steps.",
    "unexplained": "What measured runs of this engine leave unexplained multiplies the busiest rank's load.",
    "layer": "Experts are popular in another order in every layer.",
    "zero": "Experts that return their input and compute nothing. All are taken as alike in the router's eyes: with "
    "more of them fewer picks are real. This states cost; what it does to quality is not known here.",
    "skew": "Popularity of the i-th expert falls as i to the minus this exponent; 0: all alike. 0.53 is what SGLang's "
    "published gain from EPLB implies for DeepSeek-V3.",
    "eplb": "Expert parallel load balancer (DeepSeek's): copies popular experts and spreads heavy ones over ranks.",
    "redundant": "Slots for copies of experts, beside the experts themselves.",
    "step": "Time of one step of the batch.",
}
"""Term of the page on experts -> tooltip."""
