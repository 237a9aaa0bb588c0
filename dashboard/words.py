"""What terms mean, in a sentence each: the tooltips of all pages."""

from perfmodel.output.validation.page import ROLES

HELP = {
    "model": "Architecture, from the model's Hugging Face config.json.",
    "cluster": "GPU, node and network. Choosing one brings its GPU's calibration and price along.",
    "calibration": "Kernel times measured on a GPU: every op that it covers takes its time from there.",
    "engine": "Serving engine whose kernels and documented defaults count, with constants fitted on published runs.",
    "phase": "decode: one step makes one token (and drafts) per request. prefill: a step computes prompts.",
    "gpus": "GPUs of one replica that work on one step together.",
    "ffn_gpus": "GPUs that compute FFNs and experts alone, where attention has GPUs of its own.",
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
    "seed": "Of every random draw: loads, arrivals, lengths, accepted drafts. The same seed gives the same figures.",
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
    "max_batch_per_gpu": "Requests per GPU at this context: the least of memory, dispatch buffers and scheduler.",
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
    "nine": "Nine of ten errors are smaller than this.",
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
    "timed_share": "Share of the step's time (critical path) whose kernels were timed on this GPU, at such shapes and "
    "with such an engine. What the rest is, the line below says.",
    "kernels": "Median over the calibration's kernels that this step uses, of the median error on shapes that their "
    "fits never saw.",
    "nearest": "Median error on the published measurements that are most like this scenario: same model, GPU and "
    "engine if there are any.",
}
"""Term of the page on trust -> tooltip."""

TRAFFIC: dict[str, str] = {
    "requests": "How many requests are simulated, in the order in which they arrive. More take longer and settle more: "
    "a queue needs time to grow. The command line serves as many as you like.",
    "time_scale": "How many times faster than in the trace requests arrive: 2 halves every gap.",
    "request_rate": "Requests that arrive per second (with sessions: sessions). Empty: all at once.",
    "slo_ttft": "Service level objective: a request is good if its first token comes within so many milliseconds. "
    "Empty: no limit.",
    "slo_tpot": "A request is good if it takes at most so many milliseconds per output token after the first. "
    "Empty: no limit.",
    "ttft": "Time to first token: from a request's arrival, its time in the queue included. p50: half of the requests "
    "are faster; p99: all but one in a hundred.",
    "tpot": "Time per output token of a request after the first: (E2E - TTFT) / (tokens - 1).",
    "e2e": "End to end: from a request's arrival to its last token.",
    "queue": "Part of TTFT before a step works on the request.",
    "per_s": "Requests over the span from the first arrival to the last end.",
    "goodput": "Requests per second that keep every objective (SLO); below, their share.",
    "output_per_gpu": "Output tokens per second over the whole span and all GPUs, idle ones included.",
    "usd_output": "GPU cost of the whole span over the output tokens: prompts and idle time are paid with it.",
    "usd_total": "GPU cost of the whole span over prompt and output tokens together.",
    "gpus": "GPUs of all replicas, those for prefill included.",
    "energy": "Of all GPU boards over the whole span (not of servers, network or cooling), by a coarse model that is "
    "3 to 27 % too low on most measured runs. Below: mean power of a board.",
    "busy": "Share of the span in which replicas run some step, full or nearly empty (mean over those that decode).",
    "bridge": "What a million output tokens cost in full decode steps (the batch per GPU of the sidebar), what the "
    "prompts add in full prefill steps, what steps add that are not full, and the time in which GPUs wait for work. "
    "The parts add up.",
    "fill": "Share of the GPUs' time that this work would take in full steps: the batch per GPU of the sidebar, and "
    "prompts as a prefill step takes them.",
    "cached": "Prompt tokens that were found in a prefix cache and not computed again.",
    "preemptions": "How often a request lost its KV cache blocks because memory ran out, and was computed again.",
    "latency": "How many of the requests that are judged took at most so long. Markers: p50, p90, p99; vertical lines: "
    "objectives. All but one in a hundred keep an objective that is right of the p99 marker.",
    "load": "Above: requests that wait at replicas and requests that are being prefilled or decoded, all replicas "
    "together. Below: requests that the fullest rank decodes in a step. Least and most are kept where points are "
    "left out.",
    "served": "Requests that begin to be answered per second, up to the last first token, so that a short run's tail "
    "does not make it look low.",
    "curve": "The same requests, arriving faster and slower. Goodput is the share of good requests (all objectives "
    "kept) of those that are served per second, up to the last first token, so that a short run's tail does not make "
    "it look low; without an SLO there is none. The search looks for the rate at which fewer than 99 % are good, or "
    "replicas fall behind. Every point stays when you stop.",
    "trace": "Every step and every request as spans, for ui.perfetto.dev; at most 200,000 events.",
}
"""Term of the page on traffic -> tooltip."""

PLAN: dict[str, str] = {
    "mode": "From traffic to GPUs and dollars, or from dollars (or GPUs) to the traffic that they carry.",
    "models": "One line in the chart for each model on each kind of GPU.",
    "clusters": "Kinds of GPU with the network between them. All figures are of so many of one kind.",
    "amount": "At the busiest time. Users at once: requests in flight, each that ends is followed by another. Requests "
    "per second: as they come. Output tokens per day: spread over the day, times the peak.",
    "unit": "How the traffic is stated.",
    "peak": "The busiest time's traffic over the day's mean: what is bought is for the peak. 2 is a guess, not a "
    "measurement: take your own day's.",
    "isl": "Tokens of a prompt, on average; lengths are uniform within half of it.",
    "osl": "Tokens of an answer, on average; lengths are uniform within half of it.",
    "speed": "What nearly every user is to get while an answer is written: 20 tokens/s is about twice as fast as "
    "people read.",
    "ttft_s": "Seconds to the first token, the wait in the queue included.",
    "percentile": "Share of requests that must keep both limits, each by itself.",
    "have": "What is given: money per month, or GPUs.",
    "budget": "For rented GPUs around the clock, at the prices below. A month is 365 / 12 days.",
    "gpus": "Of each kind.",
    "engine": "Whose defaults, limits and flags deployments have.",
    "weights": "Number format of linear layers and experts; where a GPU or the engine has no kernels for it, the "
    "nearest that it has. The KV cache stays in bf16. any format: whatever is cheapest, the KV cache in fp8 too. What "
    "a format does to answers is not modelled.",
    "acceptance": "How often a draft token of the model's own draft layer (MTP) is accepted; 0: nothing is drafted.",
    "prices": "The catalogue's unless you state another; perfmodel show prices has their sources.",
}
"""Control of the planner's page -> tooltip."""

TRAINING: dict[str, str] = {
    "start": "Training runs of the catalogue; choosing one replaces all settings below.",
    "model": "Another model keeps the layout; layers are spread evenly over the stages then.",
    "cluster": "Another kind of GPU brings its calibration and price.",
    "tokens": "Of the whole run.",
    "global_batch_sequences": "Over all GPUs; a multiple of data parallelism.",
    "usd_per_gpu_hour": "Spare nodes are paid for, too.",
    "precision": "Number format of the products of attention, dense FFNs and experts; the core of attention, head and "
    "router stay in BF16.",
    "dp": "Ranks that hold the same layers and see other sequences.",
    "pp": "Ranks that the layers are divided among.",
    "tp": "Ranks that share attention's heads and the dense products.",
    "cp": "Ranks that share a sequence.",
    "ep": "Ranks that the experts are divided among; they lie inside tensor x context x data.",
    "schedule": "In which order a rank does the forwards and backwards of micro-batches. zb: weight gradients fill the "
    "gaps; dualpipe: from both ends.",
    "virtual_stages": "Parts of the model per rank that do not follow each other: less waiting, more transfers.",
    "moe_overlap": "What hides dispatch and combine.",
    "recompute": "What is computed again in the backward instead of being kept.",
    "zero": "What is divided over data-parallel ranks: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights "
    "too (FSDP).",
    "per_gpu_day": "Llama 3 had 0.474: 419 in 54 days of 16,384 GPUs.",
    "spare_nodes": "Empty: as many as are needed, and none is paid for.",
    "pipeline": "A lane per pipeline rank, a bar per forward or backward of a micro-batch. Of long steps the first and "
    "last micro-batches are drawn.",
    "step time": "One optimizer step of all GPUs.",
    "tokens/s per GPU": "Tokens of a step over its time and GPUs.",
    "MFU": "Model FLOPs (causal mask, recomputation left out) over the BF16 peak, whatever the format.",
    "bubble": "Share of a step in which a rank waits for others; mean over pipeline ranks.",
    "exposed communication": "Share of a step in which something travels and nothing computes.",
    "days": "With failures, restarts and checkpoints; mean of simulated runs.",
    "$": "GPU hours of the whole run, spare nodes included, at the price above.",
    "availability": "Share of the run's time that goes into steps that count.",
}
"""Term of the page on training -> tooltip."""

CALIBRATION: dict[str, str] = {
    "which": "The scenario's own at first. Timings of kernels on one GPU, from which steps are put together.",
    "beside": "Another one, to see which is nearer, or newer.",
    "upload": "What perfmodel-calibrate writes into its folder; raw timings may stay at home. It is looked at, not "
    "kept: to use it, name its folder on the command line (--set calibration=FOLDER).",
    "classes": "Shapes were left out of the fits in turn and predicted. Mean over a class's kernels, weighted by timed "
    "shapes; the classes with most shapes.",
    "covers": "Share of the time of the sidebar's step whose kernels this calibration timed on this GPU, at such "
    "shapes and with such an engine; what the rest comes from is in the table.",
    "median": "Of the kernel classes' median errors the middle one.",
}
"""Term of the calibration page -> tooltip."""
