"""Suite ``deepseek-fleet``: what a node of DeepSeek's H800 fleet could do, simulated request by request.

The published figures are averages over a day of production (2025-02-27/28), nights and half-empty batches included;
predictions are what nodes do that are never without work. Their ratio is the fleet's headroom, not an error that a
constant should make up for: no row here sets one. Fixed before the first comparison (2026-11-28): prompts and outputs
in the day's proportion (608 to 168 B tokens) and as long as the published mean KV length of 4,989 tokens per output
token implies, uniform over half to one and a half times their mean; prefill steps of 16,384 tokens per GPU, as in
DeepSeek's profile; batches of 84 and 128 requests per decoding GPU, the ends of what is read from the published speeds.
How many prompts wait (STEPS_WAITING) was set after a first run whose prefill steps were not full; twice as many change
the rates by 0.2 %. Batches are taken as run; by the memory model 145 requests at that length fit on an H800 (126 with
the share of SGLang's large recipe).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from perfmodel.economics.fleet import DailyTraffic, Fleet, least_fleet
from perfmodel.serving.serve import serve
from perfmodel.spec.serving import Serving
from perfmodel.spec.workload import Workload
from perfmodel.validation import roles
from perfmodel.validation.full_batches import Lengths, full_batches, lengths_with, middle, uniform
from perfmodel.validation.measured import identities
from perfmodel.validation.names import SYSTEMS, gpu_in
from perfmodel.validation.rows import Row
from perfmodel.validation.serving import engine_of, scenario_of
from perfmodel.validation.suites import Progress

NAME = "deepseek-fleet"
FILE = "serving.csv"
GPUS_PER_NODE = 8
BATCHES = (84, 128)
PREFILL_TOKENS = 16384
"""Prompt tokens of one step and GPU (row ds_profile_prefill)."""
STEPS_WAITING = 4
"""Steps' worth of prompts that wait at every prefill rank."""
PREFILL_WAVES = 4
"""Prompts per slot of a prefill rank."""


def calibrations() -> tuple[str, ...]:
    """Id of the calibration that predictions rest on."""
    return identities([gpu_in(SYSTEMS["H800-SXM IB"])])


def rows(progress: Progress | None = None) -> list[Row]:
    """Tokens/s per GPU of prefill, with and without cache hits, and of decode at the ends of its batch."""
    published = {record["id"]: record for record in roles.read_published(FILE)}
    lengths, hits = lengths_of(published), float(published["ds_prod_cache_hit_fraction"]["value"])
    prefill, decode = (
        published["ds_prod_prefill"],
        published["ds_prod_decode"],
    )  # the other leaves its layout out
    inputs, outputs = "input_tokens_per_s_per_gpu", "output_tokens_per_s_per_gpu"
    asked: list[tuple[str, str, str, Callable[[], float]]] = [
        ("ds_prod_prefill", inputs, "", partial(prefill_rate, prefill, lengths, hits)),
        ("ds_prod_prefill_nohit", inputs, "", partial(prefill_rate, prefill, lengths, 0.0)),
        *(("ds_prod_decode", outputs, f"_{b}", partial(decode_rate, decode, lengths, b)) for b in BATCHES),
    ]
    committed, found = roles.committed(), []
    for number, (name, quantity, ending, predict) in enumerate(asked):
        if progress is not None:
            progress(NAME, number, len(asked))
        record = published[name]
        found.append(
            Row(
                suite=NAME,
                id=name + ending,
                model=record["model"],
                quantity=quantity,
                unit="tokens/s",
                measured=float(record["value"]) / GPUS_PER_NODE,
                predicted=predict(),
                role="check" if committed[FILE, name] == "check" else "comparison",  # nothing is fitted here
                reason=None if ending else HEADROOM,
                source=record["source"],
                system=gpu_in(SYSTEMS[record["system"]]),
                engine=engine_of(record["framework"]),
            )
        )
    return [_with_fleet(row, found, published) for row in found]


HEADROOM = "production's average over a day; the ratio is its headroom, no error"


def _with_fleet(row: Row, found: list[Row], published: Mapping[str, Mapping[str, str]]) -> Row:
    """A decode row that says what its batch means for the day's nodes: arithmetic, so no row of its own."""
    name, _, batch = row.id.rpartition("_")
    if name != "ds_prod_decode":
        return row
    least, ran = fleet(found, int(batch)), float(published["ds_prod_nodes_mean"]["value"])
    prefill, decode = least.prefill_gpus / GPUS_PER_NODE, least.decode_gpus / GPUS_PER_NODE
    text = (
        f"{batch} requests per GPU: the day takes at least {prefill + decode:.1f} nodes ({prefill:.1f} prefill, "
        f"{decode:.1f} decode), ${least.usd_per_day:,.0f}; production's {ran:g} are "
        f"{ran / (prefill + decode):.2f} of that"
    )
    return replace(row, reason=text)


def lengths_of(published: Mapping[str, Mapping[str, str]]) -> Lengths:
    """Mean prompt and output of the day, which publishes totals and the mean KV length per output token, no counts."""
    inputs, outputs, kv = (
        float(published[f"ds_prod_{name}"]["value"])
        for name in ("input_tokens_per_day", "output_tokens_per_day", "mean_kv_len_per_output_token")
    )
    return lengths_with(inputs / outputs, kv)


def prefill_rate(record: Mapping[str, str], lengths: Lengths, hits: float) -> float:
    """Prompt tokens per second and GPU, those found in the cache included, of nodes that are never without prompts."""
    cells = {
        "batch_per_gpu": f"{PREFILL_TOKENS} tok",
        "isl_or_kv": str(round(lengths.inputs)),
        "phase": "prefill",
    }
    scenario = scenario_of({**record, **cells})
    ranks = scenario.deployment.attention_dp
    slots = round(STEPS_WAITING * PREFILL_TOKENS / (lengths.inputs * (1.0 - hits))) * ranks
    found = serve(
        scenario.model_copy(
            update={
                "workload": Workload(
                    num_requests=PREFILL_WAVES * slots,
                    max_concurrency=slots,
                    input_tokens=uniform(lengths.inputs * (1.0 - hits)),
                    prefix_tokens=round(lengths.inputs * hits),
                    output_tokens={"value": 1},
                ),
                "serving": Serving(policy="prefill-first", max_batched_tokens=PREFILL_TOKENS),
            }
        )
    ).records
    runs, (low, high) = found.load.runs, middle(found.load.runs)
    ends, firsts = runs.start_s + runs.seconds, found.first_token_s
    own, then = (ends > low) & (ends <= high), (firsts > low) & (firsts <= high)
    tokens, busy = float((runs.even * runs.prompt)[own].sum()), float(runs.seconds[own].sum())
    cached = float(found.cached_tokens[then].sum()) / float(
        found.input_tokens[then].sum()
    )  # first ones find none
    return tokens * ranks / (1.0 - cached) / busy / scenario.deployment.num_gpus


def decode_rate(record: Mapping[str, str], lengths: Lengths, batch: int) -> float:
    """Output tokens per second and GPU with ``batch`` requests on each, always: there are prefill nodes enough, and
    what they have computed waits.
    """
    scenario = scenario_of({**record, "batch_per_gpu": str(batch)})
    return full_batches(scenario, lengths, batch).output_tokens_per_s_per_gpu


def fleet(found: list[Row], batch: int) -> Fleet:
    """The least fleet for the published day, by the suite's rows."""
    published = {record["id"]: record for record in roles.read_published(FILE)}
    rates = {row.id: row.predicted for row in found}
    prefill, decode = rates["ds_prod_prefill"], rates[f"ds_prod_decode_{batch}"]
    assert prefill is not None, "every row of the suite has a prediction"
    assert decode is not None, "every row of the suite has a prediction"
    return least_fleet(
        DailyTraffic(
            float(published["ds_prod_input_tokens_per_day"]["value"]),
            float(published["ds_prod_output_tokens_per_day"]["value"]),
        ),
        input_tokens_per_s_per_gpu=prefill,
        output_tokens_per_s_per_gpu=decode,
        usd_per_gpu_hour=float(published["ds_prod_assumed_price"]["value"]),
    )
