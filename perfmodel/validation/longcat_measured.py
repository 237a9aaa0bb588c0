"""Suite ``longcat-measured``: the report's Table 6, LongCat-Flash on 128 H800.

The set-up is in ``data/published/longcat_table6_setup.yaml``, fixed before the first prediction. No row of it ever sets
a constant: the suite measures how well the model transfers.
"""

from typing import Any

import numpy as np

from perfmodel.economics.rates import usd_per_million
from perfmodel.load import load_scenario
from perfmodel.ops.work import tokens_per_step
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document
from perfmodel.special import normal_quantile
from perfmodel.validation import roles
from perfmodel.validation.full_batches import full_batches, lengths_with
from perfmodel.validation.measured import identities
from perfmodel.validation.rows import Row
from perfmodel.validation.steps import bounds, predict_step
from perfmodel.validation.suites import Progress

NAME = "longcat-measured"
FILE = "longcat_table6_measured.csv"
NORMAL_90 = 1.2816
"""90th percentile of the standard normal distribution."""


def calibrations() -> tuple[str, ...]:
    """Id of the calibration that predictions rest on."""
    return identities([_setup()["calibration"]])


def _setup() -> dict[str, Any]:
    return read_document(DATA / "published" / "longcat_table6_setup.yaml")


def rows(progress: Progress | None = None) -> list[Row]:
    """Three rows per measurement: TPOT (the target), throughput and cost; two more with the batch simulated."""
    setup = _setup()
    published = {roles.row_id(record): record for record in roles.read_published(FILE)}
    found: list[Row] = []
    for number, (name, own) in enumerate(setup["rows"].items()):
        if progress is not None:
            progress(NAME, number, len(setup["rows"]))
        found += _rows_of(name, published[name], own, setup)
    return found


def _rows_of(name: str, record: dict[str, str], own: dict[str, Any], setup: dict[str, Any]) -> list[Row]:
    fp8 = record["attention_dtype"] == "fp8"
    overrides = {
        "calibration": setup["calibration"],
        "deployment.engine": setup["engine"],
        "deployment.batch_per_gpu": own["batch_per_gpu"],
        "deployment.context_tokens": record["avg_context_tokens"],
        "deployment.mtp.acceptance": setup["acceptance"],
        "deployment.precision.kv_cache": "fp8" if fp8 else "bf16",
        "deployment.precision.attention": "fp8" if fp8 else "bf16",
    }
    scenario = load_scenario(setup["scenario"], [f"{key}={value}" for key, value in overrides.items()])
    step = predict_step(scenario)
    tokens = tokens_per_step(scenario.deployment)
    tpot = step.seconds / tokens
    low, high = (None, None)
    if step.draws is not None:
        low, high = bounds(step.draws / (1.0 + _acceptance(setup, len(step.draws))))
    batch, price = float(own["batch_per_gpu"]), scenario.prices.usd_per_gpu_hour
    common: dict[str, Any] = {
        "suite": NAME,
        "id": name,
        "model": record["model"],
        "role": "check",
        "source": record["source"],
        "system": scenario.cluster.gpu.name,
        "engine": setup["engine"],
    }
    user = (float(record["tokens_per_s_per_user_low"]) + float(record["tokens_per_s_per_user_high"])) / 2.0
    rate = float(record["output_tokens_per_s_per_gpu"])
    simulated = full_batches(
        scenario, lengths_with(setup["input_over_output"], float(record["avg_context_tokens"])), round(batch)
    )
    served = {**common, "suite": f"{NAME}-serving"}
    return [
        Row(
            quantity="tpot_s",
            unit="s",
            measured=1.0 / user,
            predicted=simulated.tpot_s,
            **served,
        ),
        Row(
            quantity="output_tokens_per_s_per_gpu",
            unit="tokens/s",
            measured=rate,
            predicted=simulated.output_tokens_per_s_per_gpu,
            **served,
        ),
        Row(
            quantity="tpot_s",
            unit="s",
            measured=1.0 / user,
            predicted=tpot,
            low=low,
            high=high,
            reason=HEADLINE if name == setup["headline"] else None,
            **common,
        ),
        Row(
            quantity="output_tokens_per_s_per_gpu",
            unit="tokens/s",
            measured=rate,
            predicted=batch / tpot,
            low=batch / high if high else None,
            high=batch / low if low else None,
            **common,
        ),
        Row(
            quantity="usd_per_million_output_tokens",
            unit="USD",
            measured=usd_per_million(price, rate),
            predicted=usd_per_million(price, batch / tpot),
            low=usd_per_million(price, batch / low) if low else None,
            high=usd_per_million(price, batch / high) if high else None,
            **common,
        ),
    ]


HEADLINE = "the report's headline: over 100 tokens/s per user at $0.70 per million output tokens"


def _acceptance(setup: dict[str, Any], count: int) -> Any:
    """Draws of the acceptance: its 80 % interval on either side of the median, as half normals."""
    middle, (low, high) = setup["acceptance"], setup["acceptance_interval"]
    shares = (np.random.default_rng(0).permutation(count) + 0.5) / count
    normal = normal_quantile(shares)
    spread = np.where(normal < 0.0, (middle - low) / NORMAL_90, (high - middle) / NORMAL_90)
    return np.clip(middle + spread * normal, 0.0, 1.0)
