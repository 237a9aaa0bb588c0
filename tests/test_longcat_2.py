"""LongCat-2.0's page, and every public variant of its family."""

import json
import re
from pathlib import Path

import pytest
from command import run_here
from test_families import read

from perfmodel.ops.parameters import active, parameter_counts

PAGE = Path(__file__).parent.parent / "docs" / "longcat_2.md"
CLUSTERS = {"H200": "h200-ib", "B200": "b200-ib"}
ROWS = [(gpu, context) for gpu in CLUSTERS for context in (8192, 32_768, 131_072)]
VARIANTS = {
    "longcat_flash": (560.7, 27.1),
    "LongCat-Flash-Thinking": (560.7, 27.1),
    "LongCat-Flash-Omni(stub)": (560.7, 27.1),
    "LongCat-Next(stub)": (68.5, 3.98),
}
"""Recorded config -> parameters of its language model and of a token at the mean number of real experts, 10^9."""


def row(gpu, context):
    """One line of the page's table of costs."""
    sets = [f"cluster={CLUSTERS[gpu]}", f"deployment.context_tokens={context}"]
    done = run_here(
        "perfmodel", "step", "longcat-2.0-h200", "--json", *(x for s in sets for x in ("--set", s))
    )
    found = json.loads(done.stdout)
    step, indexer = found["step_time_s"], found["breakdown_s"]["indexer"]
    low, high = (1e3 * bound for bound in found["intervals"]["step_time_s"])
    return (
        f"| {gpu} | {context:,} | {1e3 * step:.1f} ({low:.1f} to {high:.1f}) | {1e3 * found['tpot_s']:.1f} | "
        f"{1e3 * indexer:.2f} | {100 * indexer / step:.0f} % | {found['max_batch_per_gpu']} |"
    )


@pytest.mark.parametrize(("gpu", "context"), ROWS)
def test_the_pages_costs_are_the_programs(gpu, context):
    assert row(gpu, context) in PAGE.read_text()


def test_the_indexers_share_grows_on_the_page():
    shares = [int(one) for one in re.findall(r"\| (\d+) % \| \d+ \|", PAGE.read_text())]
    assert len(shares) == len(ROWS)
    assert shares[:3] == sorted(shares[:3])
    assert shares[3:] == sorted(shares[3:])


def test_step_shows_the_indexer_as_a_class_of_its_own():
    done = run_here("perfmodel", "step", "longcat-2.0-h200")
    assert re.search(r"^indexer +4\.\d+ +17\.\d %", done.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_public_variant_is_read(name):
    model = read(name)
    total, at_mean = VARIANTS[name]
    assert parameter_counts(model).total / 1e9 == pytest.approx(total, rel=0.01)
    assert active(model, model.moe.mean_real_experts) / 1e9 == pytest.approx(at_mean, rel=0.02)
