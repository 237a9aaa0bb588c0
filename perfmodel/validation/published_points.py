"""Published points of the trade-off between a user's speed and a GPU's throughput, to stand beside a curve."""

from functools import cache
from typing import TYPE_CHECKING

from perfmodel.economics.rates import usd_per_million
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd

MODELS = {
    "LongCat-Flash": "longcat-flash",
    "DeepSeek-V3-profile": "deepseek-v3",
    "DeepSeek-V3-blog": "deepseek-v3",
}
"""Name in the LongCat-Flash report's Table 6 -> the catalogue's. All its rows were measured on H800."""
GPU = "h800-sxm"


def published_points(scenario: Scenario) -> "pd.DataFrame":
    """Rows of the report's Table 6 for this model on this GPU, whatever their batch, context and format; maybe none.

    Columns ``label``, ``tokens_per_s_per_user`` (middle of the printed range), ``output_tokens_per_s_per_gpu``,
    ``usd_per_million_output_tokens`` (at the scenario's price) and ``source``.
    """
    decodes = scenario.cluster.gpu.name == GPU and scenario.deployment.phase != "prefill"
    rows = _of_model(scenario.model.name if decodes else "")
    usd = usd_per_million(scenario.prices.usd_per_gpu_hour, rows["output_tokens_per_s_per_gpu"])
    return rows.assign(usd_per_million_output_tokens=usd)


@cache
def _of_model(model: str) -> "pd.DataFrame":
    """The report's rows of a model of the catalogue, without a price."""
    import pandas as pd

    rows = pd.read_csv(DATA / "published" / "longcat_table6_measured.csv")
    rows = rows[rows.model.map(MODELS) == model]
    per_gpu = rows.output_tokens_per_s_per_gpu.astype(float)
    return pd.DataFrame(
        {
            "label": [
                f"{row.attention_dtype} attention, context {row.avg_context_tokens:,}, {row.hopper_gpus} GPUs"
                for row in rows.itertuples()
            ],
            "tokens_per_s_per_user": (rows.tokens_per_s_per_user_low + rows.tokens_per_s_per_user_high) / 2,
            "output_tokens_per_s_per_gpu": per_gpu,
            "usd_per_million_output_tokens": 0.0,
            "source": rows.source,
        }
    ).reset_index(drop=True)
