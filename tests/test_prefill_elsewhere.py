"""Prefill on a cluster of its own: its kernels, its price, its engine's version, and caches over both networks."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_laws import TIMES, equal, keeps_the_laws

from perfmodel.answers.serve import answer_serve
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.kernels.communication import point_to_point
from perfmodel.load import build_scenario, scenario_of_text
from perfmodel.serving.serve import kv_path, serve
from perfmodel.spec import catalogue
from perfmodel.units import HOUR, MEGA

UNLIKE = {
    "title": "prefill on H100, decode on H20",
    "model": "deepseek-v3",
    "cluster": "h20-roce",
    "prices": "h200-on-demand-low",
    "deployment": {
        "engine": "sglang", "phase": "decode", "attention_dp": 16, "ep": 16, "batch_per_gpu": 16,
        "context_tokens": 4096,
    },
    "prefill": {
        "cluster": "h100-ib",
        "deployment": {"engine": "sglang", "phase": "prefill", "attention_dp": 16, "ep": 16},
    },
    "workload": {"num_requests": 150, "request_rate": 20, "input_tokens": 2000, "output_tokens": 60},
}  # fmt: skip


def scenario(**prefill):
    """The one above with other keys of ``prefill``; None takes one out."""
    keys = {**UNLIKE["prefill"], **prefill}
    kept = {key: value for key, value in keys.items() if value is not None}
    return build_scenario({**UNLIKE, "prefill": kept})


def test_each_side_has_its_gpu_its_calibration_and_its_price():
    found = scenario()
    side = found.prefill_side
    assert (found.cluster.gpu.name, found.calibration, found.prices.usd_per_gpu_hour) == (
        "h20-sxm", "h20-sxm", 2.5,
    )  # fmt: skip
    assert (side.cluster.gpu.name, side.calibration) == ("h100-sxm", "h100-sxm")
    assert (
        side.prices.usd_per_gpu_hour == catalogue.entry("prices", "h100-on-demand-median")["usd_per_gpu_hour"]
    )
    stated = scenario(calibration="h200-sxm", prices={"usd_per_gpu_hour": 1.25}).prefill_side
    assert (stated.calibration, stated.prices.usd_per_gpu_hour) == ("h200-sxm", 1.25)


def test_money_counts_both_prices():
    answer = answer_serve(scenario(prices={"usd_per_gpu_hour": 10.0}))
    values = answer.values
    hours = values["duration_s"] / HOUR
    usd = hours * (16 * 10.0 + 16 * 2.5)
    outputs = 150 * 60
    assert values["usd_per_million_output_tokens"] == pytest.approx(usd / outputs * MEGA, rel=1e-12)
    assert values["gpu_hours"] == pytest.approx(32 * hours, rel=1e-12)
    assert values["prefill"]["gpu"] == "h100-sxm"
    assert values["prefill"]["usd_per_gpu_hour"] == 10.0
    assert values["provenance"]["prefill"]["calibration"].startswith("h100-sxm-")
    assert "h100-sxm-" in values["basis"]["text"]
    assert "h20-sxm-" in values["basis"]["text"]


def test_prompts_take_what_their_own_gpu_takes():
    """The same prompts on H20 alone: a seventh of the arithmetic."""
    unlike, alike = (serve(one).records for one in (scenario(), scenario(cluster=None)))
    both = [(one.prefilled_s - one.scheduled_s).mean() for one in (unlike, alike)]
    assert both[1] > 2.0 * both[0]


def test_the_same_cluster_stated_twice_changes_nothing():
    one = serve(scenario(cluster=None))
    other = serve(scenario(cluster="h20-roce"))
    equal(one.records, other.records)
    assert one.path == other.path


def test_the_same_gpu_elsewhere_has_the_price_and_the_calibration_that_are_stated():
    found = build_scenario({**UNLIKE, "calibration": "h100-sxm", "prices": {"usd_per_gpu_hour": 7.0}, "prefill": {
        **UNLIKE["prefill"], "cluster": "h20-roce"}})  # fmt: skip
    side = found.prefill_side
    assert (side.calibration, side.prices.usd_per_gpu_hour) == ("h100-sxm", 7.0)


@pytest.mark.parametrize(("slow", "end"), [("h100-ib", "send"), ("h20-roce", "receive")])
def test_caches_go_over_both_networks(slow, end):
    """Each end moves what its own adapter achieves; a flow between them the lesser of the two."""
    cluster = {"base": slow, "network": {"gb_per_s_per_gpu": 1.0}}
    document = {**UNLIKE, "cluster": cluster} if end == "receive" else UNLIKE
    prefill = {**UNLIKE["prefill"], **({"cluster": cluster} if end == "send" else {})}
    found = build_scenario({**document, "prefill": prefill})
    path = kv_path(found, found.prefill_side, layer_wise=True)
    ends = {"send": path.send_bytes_per_s, "receive": path.receive_bytes_per_s}
    sides = {"send": found.prefill_side.cluster, "receive": found.cluster}
    for name, cluster in sides.items():
        assert ends[name] == point_to_point(cluster, same_domain=False).bytes_per_s
    assert min(ends, key=ends.get) == end
    # never over a link, however few they are
    assert path.latency_s == max(point_to_point(one, same_domain=False).latency_s for one in sides.values())


def test_engine_versions_of_each_side():
    """vLLM 0.8 and 0.20 differ in their defaults: each side has those of its own."""
    newer = {"engine": "vllm", "engine_version": "0.20.0", "phase": "prefill", "attention_tp": 8}
    document = {
        **UNLIKE,
        "deployment": {"engine": "vllm", "engine_version": "0.8.0", "attention_tp": 8, "dense_tp": 8},
        "prefill": {"cluster": "h100-ib", "deployment": newer},
    }
    found = build_scenario(document)
    assert found.deployment.engine_version == "0.8.0"
    assert found.prefill_side.deployment.engine_version == "0.20.0"


def test_both_cores_agree_and_the_law_of_little_holds():
    found = scenario()
    plain = keeps_the_laws(found, (*TIMES, "prefilled_s"))
    assert (plain.records.end_s > plain.records.first_token_s).all()


def test_gpus_are_counted_where_they_stand():
    few = {"base": "h100-ib", "num_gpus": 15}
    with pytest.raises(
        SpecError, match=r"^prefill\.the deployment needs 16 GPUs|^prefill: the deployment needs 16"
    ):
        scenario(cluster=few)
    with pytest.raises(SpecError, match=r"^prefill.serving.replicas: all replicas need 32 GPUs"):
        serve(scenario(cluster={"base": "h100-ib", "num_gpus": 16}, serving={"replicas": 2}))
    # 16 there and 16 here: 32 need not be in one place
    own = build_scenario({**UNLIKE, "cluster": {"base": "h20-roce", "num_gpus": 16}})
    assert serve(own).records.end_s.all()


@pytest.mark.parametrize(
    ("prefill", "said"),
    [
        ({"cluster": "h1000"}, r"clusters|h1000"),
        ({"cluster": "calibrated"}, r"^prefill.cluster = calibrated: stands for"),
        ({"calibration": 7}, r"^prefill.calibration = 7: must be a catalogue name"),
        ({"prices": 3}, r"^prefill.prices = 3: must be a catalogue name or a mapping"),
        ({"cluster": 3}, r"^prefill.cluster = 3: must be a catalogue name or a mapping"),
        ({"prices": {"usd_per_gpu_hour": -1.0}}, r"prefill.prices.usd_per_gpu_hour"),
        ({"cluster": {"base": "h100-ib", "gpu": {"base": "h100-sxm", "name": "mine"}}}, r"^prefill.prices: missing"),
    ],
)  # fmt: skip
def test_bad_values_are_named(prefill, said):
    with pytest.raises(SpecError, match=said):
        scenario(**prefill)


def test_a_link_names_no_file_there():
    text = "base: longcat-flash-h800-pd\nprefill: {calibration: ./mine}"
    with pytest.raises(SpecError, match=r"^prefill.calibration = './mine': a file can't be named here"):
        scenario_of_text(text)


WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8)
"""Line ends in names are told by whoever prints them (output/tell.py)."""
PIECES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(["cluster", "calibration", "prices", "power"]), PIECES, min_size=1),
)
def test_whatever_is_stated_is_read_or_told_in_one_line(pieces):
    try:
        found = scenario(**pieces)
    except PerfModelError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    assert found.prefill_side is not None
