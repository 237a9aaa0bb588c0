"""docs/train_longcat.md says what the code gives."""

import re
from pathlib import Path

import pytest

from perfmodel.answers.train import answer_train
from perfmodel.load import load_scenario

PAGE = (Path(__file__).parents[1] / "docs" / "train_longcat.md").read_text()


def run(*changes):
    return answer_train(load_scenario("longcat-flash-train-h800", list(changes))).values


def exposed_pct(*changes):
    """Exposed dispatch and combine, % of the time in which a pipeline rank is busy: without bubble and gradients."""
    values = run(*changes)
    exposed = values["exposed_s"]
    busy_s = values["step_time_s"] * (1.0 - values["bubble_fraction"]) - exposed["dp"]
    return 100.0 * (exposed["dispatch"] + exposed["combine"]) / busy_s


@pytest.mark.parametrize(
    "row", re.findall(r"\| \**([\d.]+) GB/s.*?\| \**([\d.]+) % *\**.*?\| \**([\d.]+) %", PAGE)
)
def test_exposed_exchanges_by_network(row):
    network, sequential, chunks = map(float, row)
    own = f"cluster.network.gb_per_s_per_gpu={network}"
    assert exposed_pct(own, "training.moe_overlap=none") == pytest.approx(sequential, abs=0.051)
    assert exposed_pct(own) == pytest.approx(chunks, abs=0.051)


def test_the_published_pair_is_within_two_points_at_half_the_stated_rate():
    own = "cluster.network.gb_per_s_per_gpu=12.5"
    assert exposed_pct(own, "training.moe_overlap=none") == pytest.approx(25.3, abs=2.0)
    assert exposed_pct(own) == pytest.approx(8.4, abs=2.0)


@pytest.mark.parametrize("row", re.findall(r"\| (\d,\d{3}) \| ([\d.]+) \| (\d+) to (\d+) \|", PAGE))
def test_days_by_number_of_gpus(row):
    gpus, days, low, high = (float(cell.replace(",", "")) for cell in row)
    ranks = int(gpus) // 64  # CP8 x PP8
    values = run(f"training.dp={ranks}", f"training.global_batch_sequences={56 * ranks}")
    assert values["num_gpus"] == gpus
    assert values["days"] == pytest.approx(days, abs=0.051)
    assert [round(one) for one in values["intervals"]["days"]] == [low, high]
