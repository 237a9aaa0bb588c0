"""Engines as data: what a version does fills in a scenario, what is stated wins, and layouts follow."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step
from perfmodel.engines.profile import Circumstances, leaves, names, profile
from perfmodel.errors import SpecError
from perfmodel.load import build_scenario, load_scenario
from perfmodel.ops.memory import weight_bytes
from perfmodel.ops.parameters import parameter_counts
from perfmodel.spec.catalogue import entry as catalogue_entry
from perfmodel.spec.catalogue import names as catalogue_names
from perfmodel.stated import apply_override, with_overrides
from perfmodel.validation import roles, silicon
from perfmodel.validation.runs import document_of, overrides_of, scenario_of, stated_version
from perfmodel.validation.setups import setup_of


def scenario(engine=None, model="deepseek-v3", cluster="h200-ib", serving=None, **deployment):
    document = {"model": model, "cluster": cluster, "deployment": deployment, "serving": serving or {}}
    return build_scenario(document | ({"engine": engine} if engine else {}))


# --- the data -----------------------------------------------------------------------------------------------


def test_every_rule_has_a_source_and_sets_keys_that_exist():
    for name in names():
        for rule in profile(name).rules:
            assert rule["source"].startswith("https://") or "role fit" in rule["source"]
        at = Circumstances("hopper", "h200-sxm", 8, 1, 1, "deepseek_v3")
        for one in profile(name).settings(at):
            assert one.path.split(".")[0] in ("deployment", "serving", "prefill")
        scenario(name, attention_tp=8)  # unknown keys are refused


def test_versions_are_ordered_as_releases_are():
    def on(version):
        at = Circumstances("hopper", "h200-sxm", 8, 1, 1, "llama")
        found = profile("vllm", version).settings(at)
        return next(one.value for one in found if one.path == "deployment.host.asynchronous")

    before = (
        "0.9.1",
        "0.9",
        "0.10",
        "0.12.0",
        "0.13.9.post2",
        "0.14.0.dev7",
        "0.14.0a1",
        "0.14.0rc1",
        "0.14rc2.post1",
    )
    since = (
        "0.14.0",
        "v0.14",
        "0.14.0+cu128",
        "0.14.0.post1",
        "0.14.0.1",
        "0.19.0",
        "0.100.0",
        "1.0.0rc1",
        "1!0.1",
    )
    assert [on(v) for v in before + since] == [False] * len(before) + [True] * len(since)


def test_a_build_is_its_public_version():
    built = scenario({"name": "vllm", "version": "0.11.0+cu128"}, attention_tp=8)
    assert built.deployment.engine_version == "0.11.0"
    assert built.hash == scenario({"name": "vllm", "version": "0.11.0"}, attention_tp=8).hash
    row = {"backend": "vllm", "backend_version": "0.11.0+cu128", "folder": ""}
    assert stated_version(row) == "0.11.0+cu128"
    assert [
        stated_version({**row, "backend_version": v}) for v in ("1.2.0.rubbish", "main 2025-05", "?")
    ] == [""] * 3


def test_a_version_that_yaml_reads_as_a_number_is_never_another_one():
    """YAML reads 0.10 as 0.1: an override is taken as it is written, a file must quote it."""
    sets = ["engine=vllm", "deployment.engine_version=0.10"]
    assert load_scenario("deepseek-v3-h800", sets).deployment.engine_version == "0.10"
    assert (
        load_scenario("deepseek-v3-h800", ["engine=vllm", "engine.version=0.10"]).deployment.engine_version
        == "0.10"
    )
    with pytest.raises(SpecError, match=r"version of vllm = 0\.1: a number .* put it in quotes"):
        scenario({"name": "vllm", "version": 0.10}, attention_tp=8)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("tgi", "must be one of atom, deepseek, sglang, trtllm, vllm"),
        (
            {"name": "vllm", "version": "latest"},
            "version of vllm = 'latest': no version; must be like 0.17.0",
        ),
        ({"name": "vllm", "version": "0.17.0-beta-nine"}, "must be like 0.17.0"),
        ({"name": "vllm", "version": "1.2/1.3"}, "must be like 0.17.0"),
        ({"name": "vllm", "version": ["0.17.0"]}, "must be like 0.17.0"),
        ({"name": "vllm", "version": "0" * 5000}, "must be like 0.17.0"),
        ({"name": "vllm", "version": "1" * 5000}, "must be like 0.17.0"),
        ({"version": "0.17.0"}, "must be a name"),
        (3, "must be a name"),
    ],
)
def test_an_engine_that_is_not_known_is_refused_in_a_line(engine, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        scenario(engine, attention_tp=8)


def test_two_engines_in_one_scenario_are_refused():
    with pytest.raises(SpecError, match="differ: state one of them"):
        build_scenario(
            {
                "model": "deepseek-v3",
                "cluster": "h200-ib",
                "engine": "vllm",
                "deployment": {"engine": "sglang"},
            }
        )


# --- filling in -----------------------------------------------------------------------------------------------


def test_an_engine_fills_in_what_its_documents_say():
    sglang, vllm = scenario("sglang", attention_tp=8), scenario("vllm", attention_tp=8)
    assert (sglang.serving.policy, vllm.serving.policy) == ("prefill-first", "mixed")
    assert (sglang.deployment.shared_experts, vllm.deployment.shared_experts) == ("in-line", "own-stream")
    assert sglang.deployment.fused_norms
    assert vllm.deployment.fused_norms
    assert scenario("sglang", cluster="b200-ib", attention_tp=8).serving.max_batched_tokens == 16384
    assert sglang.deployment.engine_version == profile("sglang").version


@pytest.mark.parametrize(
    ("engine", "version", "place", "fused"),
    [
        ("vllm", "0.16.0", {}, False),
        ("vllm", "0.17.0", {}, True),
        ("vllm", "0.17.0", {"attention_dp": 2}, False),
        ("vllm", "0.17.0", {"cluster": "b300-ib"}, False),
        ("vllm", "0.19.0", {"cluster": "b300-ib"}, True),
        ("vllm", "0.19.0", {"cluster": "l40s-pcie"}, False),
        ("sglang", "0.5.9", {}, True),
        ("sglang", "0.5.9", {"model": "qwen3.5-397b-a17b"}, False),
        ("sglang", "0.5.10.post1", {"model": "qwen3.5-397b-a17b"}, True),
        ("sglang", "0.5.10.post1", {"model": "minimax-m2.5"}, False),
    ],
)
def test_an_all_reduce_normalises_by_version_model_and_gpu(engine, version, place, fused):
    """vLLM: enable_allreduce_rms_fusion of vllm/config/vllm.py; SGLang: the list of models in server_args.py."""
    shape = {"attention_tp": 4, "attention_dp": place.get("attention_dp", 1)}
    document = {
        "engine": {"name": engine, "version": version},
        "prices": {"usd_per_gpu_hour": 1.0},
        "deployment": shape,
    }
    named = {"model": place.get("model", "qwen3-235b-a22b"), "cluster": place.get("cluster", "h100-ib")}
    own = build_scenario(document | named)
    assert own.deployment.fused_norms is fused


def test_what_is_stated_wins():
    own = scenario(
        "sglang", attention_tp=8, serving={"policy": "mixed"}, fused_norms=False, host={"decode": "eager"}
    )
    assert (own.serving.policy, own.deployment.fused_norms, own.deployment.host.decode) == (
        "mixed",
        False,
        "eager",
    )
    assert own.deployment.host.asynchronous  # what was not stated is still the engine's


def test_one_engine_is_said_in_either_place():
    one = scenario({"name": "vllm", "version": "0.12.0"}, attention_tp=8)
    other = scenario(attention_tp=8, engine="vllm", engine_version="0.12.0")
    assert one.deployment == other.deployment
    assert not one.deployment.host.asynchronous


@pytest.mark.parametrize(
    ("sets", "found"),
    [
        (["engine=vllm"], ("vllm", "")),
        (["deployment.engine=vllm"], ("vllm", "")),
        (["engine={name: vllm, version: 0.12.0}"], ("vllm", "0.12.0")),
        (["engine.name=trtllm"], ("trtllm", "")),
        (["engine.version=0.5.6"], ("sglang", "0.5.6")),
        (["deployment.engine_version=0.12.0", "deployment.engine=vllm"], ("vllm", "0.12.0")),
        (["deployment.batch_per_gpu=4"], ("sglang", "0.5.8.post1")),
        (["engine={name: vllm, version: 0.5.8.post1}"], ("vllm", "0.5.8.post1")),
        (["deployment={engine: vllm, engine_version: 0.5.8.post1}"], ("vllm", "0.5.8.post1")),
    ],
)
def test_an_engine_named_later_replaces_the_one_before_and_its_version(sets, found, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: deepseek-v3-h800\nengine: {name: sglang, version: 0.5.8.post1}\n")
    d = load_scenario(file, sets).deployment
    assert (d.engine, d.engine_version) == (found[0], found[1] or profile(found[0]).version)
    top = tmp_path / "top.yaml"
    top.write_text("base: mine.yaml\nengine: vllm\n")
    d = load_scenario(top).deployment
    assert (d.engine, d.engine_version) == ("vllm", profile("vllm").version)


def test_the_same_gpu_again_moves_nothing():
    own = load_scenario("longcat-flash-h800", ["cluster=h800-ib"])
    assert (own.notes, own.hash) == ((), load_scenario("longcat-flash-h800").hash)


def test_prefill_replicas_have_the_engine_and_formats_of_those_that_decode():
    document = {
        "model": "deepseek-v3",
        "cluster": "gb200-nvl72",
        "engine": "trtllm",
        "deployment": {"attention_dp": 16, "ep": 16, "precision": {"experts": "fp4"}},
        "prefill": {"deployment": {"attention_tp": 4}},
    }
    own = build_scenario(document)
    side = own.prefill.deployment
    assert (side.engine, side.precision.experts, side.dense_tp, side.moe_tp) == ("trtllm", "fp4", 4, 4)
    assert own.prefill.transfer == "whole"
    assert own.prefill.serving.whole_prompts
    document["engine"] = "sglang"
    assert build_scenario(document).prefill.transfer == "layer-wise"


def apart(prefill, routing=None, engine="sglang", model="deepseek-v3", cluster="h200-ib", **deployment):
    return build_scenario(
        {
            "model": model,
            "cluster": cluster,
            "engine": engine,
            "deployment": {"attention_dp": 16, "ep": 16, **deployment},
            "prefill": prefill,
            "routing": routing or {},
        }
    )


def test_prefill_replicas_have_their_own_layout_and_scheduler_by_the_engines_rules():
    own = apart({"deployment": {"attention_tp": 8}}, engine={"name": "sglang", "version": "0.5.6"})
    alone = scenario({"name": "sglang", "version": "0.5.6"}, attention_tp=8, phase="prefill")
    assert own.prefill.deployment == alone.deployment
    assert own.prefill.serving == alone.serving
    side = own.prefill.deployment
    assert (side.engine_version, side.moe_tp, side.ep, side.all_to_all) == ("0.5.6", 8, 1, "all-gather")
    assert own.deployment.all_to_all == "auto"  # 16 GPUs: DeepEP


def test_what_is_stated_for_prefill_wins_key_by_key():
    own = apart(
        {
            "deployment": {"attention_tp": 8, "ep": 8, "precision": {"kv_cache": "fp8"}},
            "serving": {"max_batched_tokens": 4096},
        },
        precision={"experts": "bf16", "linear": "bf16"},
        memory_utilization=0.7,
    )
    side = own.prefill
    assert (side.deployment.ep, side.deployment.moe_tp) == (8, 1)
    assert side.deployment.precision.model_dump() == {
        **own.deployment.precision.model_dump(),
        "kv_cache": "fp8",
    }
    assert (side.serving.max_batched_tokens, side.serving.policy) == (4096, "prefill-first")
    assert side.deployment.memory_utilization == 0.7


def test_another_engine_for_prefill_has_its_own_version_and_settings():
    side = apart(
        {"deployment": {"attention_tp": 8, "engine": "vllm"}},
        engine={"name": "sglang", "version": "0.5.6"},
        memory_utilization=0.7,
    ).prefill
    assert (side.deployment.engine, side.deployment.engine_version) == ("vllm", profile("vllm").version)
    assert (side.deployment.memory_utilization, side.serving.policy, side.transfer) == (
        None,
        "mixed",
        "whole",
    )


def test_a_prefill_version_goes_with_its_engine(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "base: longcat-flash-h800-pd\nprefill: {deployment: {engine: sglang, engine_version: 0.5.6}}\n"
    )
    same = load_scenario(tmp_path / "mine.yaml", ["deployment.engine=vllm"])
    assert (same.deployment.engine, same.prefill.deployment.engine_version) == ("vllm", "0.5.6")
    other = load_scenario(tmp_path / "mine.yaml", ["prefill.deployment.engine=vllm"])
    assert other.prefill.deployment.engine_version == profile("vllm").version
    stated = ["prefill.deployment.engine=vllm", "prefill.deployment.engine_version=0.10"]
    assert load_scenario(tmp_path / "mine.yaml", stated).prefill.deployment.engine_version == "0.10"


def test_experts_are_placed_on_either_side_by_its_own_layout():
    """EPLB where redundant experts are, the known router where an EP divides experts, nothing where each has all."""
    plain = {"deployment": {"attention_dp": 16, "ep": 16}}
    assert apart(plain).prefill.routing is None  # as the scenario's
    wide = apart(plain, attention_dp=32, ep=32, redundant_experts=32)
    assert (wide.routing.placement, wide.prefill_side.routing.placement) == ("eplb", "contiguous")
    only = apart({"deployment": {"attention_tp": 8}})
    assert (only.routing.popularity, only.prefill_side.routing.popularity) == ("power-law", "")
    sliced = apart(plain, attention_dp=1, ep=1, attention_tp=8)
    assert (sliced.routing.popularity, sliced.prefill_side.routing.popularity) == ("", "power-law")
    loads = {"rank_loads": [1.5, 0.5] * 8}
    uneven = apart({"deployment": {"attention_dp": 8, "ep": 8}}, routing=loads)
    assert uneven.routing.rank_loads is not None
    assert uneven.prefill_side.routing.rank_loads is None
    assert apart(plain, routing=loads).prefill_side.routing.rank_loads == uneven.routing.rank_loads
    own = apart({**plain, "routing": {"imbalance": 1.5}}, routing={"mean_real_experts": 8})
    assert (own.prefill_side.routing.imbalance, own.routing.imbalance) == (1.5, None)
    assert own.prefill_side.routing.mean_real_experts == 8
    placed = apart({"deployment": {"attention_tp": 8}}, routing={"placement": "eplb"})
    assert (placed.routing.placement, placed.prefill_side.routing.placement) == ("eplb", "contiguous")
    with pytest.raises(SpecError, match=r"prefill.routing.rank_loads has 2 values, deployment.ep = 16"):
        apart({**plain, "routing": {"rank_loads": [1.5, 0.5]}})
    with pytest.raises(SpecError, match=r"prefill.routing"):
        apart({**plain, "routing": "counts.csv"})


def test_a_routing_of_prefills_own_makes_prompts_slower():
    name = "longcat-flash-h800-pd"
    few = ["workload={num_requests: 60, request_rate: 2, input_tokens: 16000, output_tokens: 200}"]
    even = answer_serve(load_scenario(name, few)).values
    busy = answer_serve(load_scenario(name, [*few, "prefill.routing.imbalance=6"])).values
    assert busy["ttft_s"]["p50"] > 1.1 * even["ttft_s"]["p50"]
    assert busy["tpot_s"]["p50"] == pytest.approx(even["tpot_s"]["p50"], rel=0.05)


def test_a_cluster_brings_calibration_and_price_along_and_says_so():
    own = load_scenario("longcat-flash-h800", ["cluster=h200-ib"])
    assert (own.calibration, own.prices.name) == ("h200-sxm", "h200-on-demand")
    assert any("h200-sxm" in text for text in own.notes)
    stated = load_scenario(
        "longcat-flash-h800", ["cluster=h200-ib", "calibration=h800-sxm", "prices.usd_per_gpu_hour=3"]
    )
    assert (stated.calibration, stated.prices.usd_per_gpu_hour) == ("h800-sxm", 3)
    missing = load_scenario("longcat-flash-h800", ["cluster=b300-ib"])
    assert missing.calibration == "b300-sxm"
    assert missing.prices.name == "h800-deepseek-lease"
    assert not load_scenario("longcat-flash-h800").notes
    assert (
        load_scenario("longcat-flash-h800", ["cluster=h200-ib"]).hash
        != own.model_copy(update={"seed": 1}).hash
    )


SETS = st.lists(
    st.sampled_from(
        [
            "cluster=b200-ib",
            "cluster=h200-ib",
            "cluster=b300-ib",
            "cluster.gpu=h200-sxm",
            "cluster.gpu.hbm_gb_per_s=3000",
            "prices.usd_per_gpu_hour=3",
            "prices.term=reserved",
            "prices=b200-on-demand",
            "calibration=h800-sxm",
            "engine=vllm",
            "deployment.engine=trtllm",
            "deployment.engine_version=0.10",
            "engine={name: vllm, version: 0.12.0}",
        ]
    ),
    unique_by=lambda text: text.partition("=")[0],
    max_size=4,
)


@settings(max_examples=40, deadline=None)
@given(sets=SETS)
def test_overrides_and_a_file_over_the_same_base_mean_the_same(sets):
    """What goes with a cluster or an engine goes whichever way another one is named."""
    text = "base: longcat-flash-h800\nengine: {name: sglang, version: 0.5.8.post1}\ncalibration: h800-sxm\n"
    over = {"base": "BASE"}
    for one in sets:
        over = apply_override(over, one)
    with TemporaryDirectory() as folder:
        base, file = Path(folder, "base.yaml"), Path(folder, "over.json")
        base.write_text(text)
        file.write_text(json.dumps(over | {"base": "base.yaml"}))
        by_sets, by_file = load_scenario(base, sets), load_scenario(file)
    assert by_file.model_copy(update={"name": by_sets.name}) == by_sets
    d, prices = by_sets.deployment, by_sets.prices
    if not any("version" in one for one in sets):
        assert d.engine_version == ("0.5.8.post1" if d.engine == "sglang" else profile(d.engine).version)
    if prices.name:
        entry = catalogue_entry("prices", prices.name)
        assert prices.usd_per_gpu_hour == entry["usd_per_gpu_hour"]
        moved = by_sets.cluster.gpu.name in ("b200-sxm", "h200-sxm")
        assert not moved or prices.name != "h800-deepseek-lease"


def test_an_amount_of_ones_own_has_no_catalogue_name():
    own = load_scenario("longcat-flash-h800", ["cluster=b200-ib", "prices.usd_per_gpu_hour=3"])
    assert (own.prices.usd_per_gpu_hour, own.prices.name, own.prices.source) == (3, "", "")
    values = answer_step(own).values["provenance"]
    assert (values["price"], values["price_source"]) == (None, None)
    assert values["calibration"].startswith("b200-sxm")
    termed = load_scenario("longcat-flash-h800", ["cluster=b200-ib", "prices.term=reserved"]).prices
    assert (termed.name, termed.term) == (
        load_scenario("longcat-flash-h800", ["cluster=b200-ib"]).prices.name,
        "reserved",
    )
    labelled = {"base": "h800-deepseek-lease", "usd_per_gpu_hour": 3, "name": "ours", "source": "contract"}
    document = {"model": "longcat-flash", "cluster": "h800-ib", "prices": labelled}
    assert build_scenario(document).prices.model_dump(exclude_defaults=True) == {
        "usd_per_gpu_hour": 3, "name": "ours", "source": "contract",
    }  # fmt: skip


def test_a_template_without_a_cluster_keeps_its_price(tmp_path):
    (tmp_path / "ours.yaml").write_text("prices: {usd_per_gpu_hour: 1.5, name: ours}\nmodel: deepseek-v3\n")
    (tmp_path / "run.yaml").write_text("base: ours.yaml\ncluster: h200-ib\n")
    assert load_scenario(tmp_path / "run.yaml").prices.name == "ours"
    assert load_scenario(tmp_path / "ours.yaml", ["cluster=h200-ib"]).prices.name == "ours"


def test_a_price_survives_two_moves_where_the_catalogue_has_none(tmp_path):
    (tmp_path / "one.yaml").write_text("base: longcat-flash-h800\ncluster: b300-ib\n")
    (tmp_path / "two.yaml").write_text("base: one.yaml\ncluster: gb300-nvl72\n")
    assert load_scenario(tmp_path / "two.yaml").prices.name == "h800-deepseek-lease"
    assert load_scenario(tmp_path / "two.yaml", ["cluster=h200-ib"]).prices.name == "h200-on-demand"


def test_what_is_known_of_a_router_is_every_scenarios():
    parallel = scenario("sglang", attention_dp=8, ep=8)
    assert (parallel.routing.popularity, parallel.routing.placement) == ("power-law", "contiguous")
    balanced = scenario("sglang", attention_dp=8, ep=8, redundant_experts=8)
    assert balanced.routing.placement == "eplb"
    assert scenario("sglang", attention_tp=8).routing.popularity == ""  # every rank holds every expert
    unknown = scenario("sglang", model="kimi-k2", attention_dp=8, ep=8).routing
    assert unknown.popularity == "uniform"  # nothing is known: used evenly, and wider intervals
    assert unknown.prior_imbalance > 1.0
    stated = build_scenario(
        {
            "model": "deepseek-v3",
            "cluster": "h200-ib",
            "deployment": {"attention_dp": 8, "ep": 8},
            "routing": {"popularity": "uniform"},
        }
    )
    assert stated.routing.popularity == "uniform"


# --- layouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ({"attention_tp": 8}, (8, 1, 8, 1, 8)),
        ({"attention_tp": 8, "ep": 8}, (8, 1, 1, 8, 8)),
        ({"attention_tp": 8, "moe_tp": 2}, (8, 1, 2, 4, 8)),
        ({"attention_dp": 8, "ep": 8}, (1, 8, 1, 8, 1)),
        ({"attention_tp": 4, "moe_tp": 1, "ep": 16}, (4, 4, 1, 16, 4)),
        ({"attention_tp": 2, "attention_dp": 4, "ep": 8, "dense_tp": 8}, (2, 4, 1, 8, 8)),
    ],
)
def test_sizes_that_are_left_out_follow(stated, found):
    d = scenario("sglang", **stated).deployment
    assert (d.attention_tp, d.attention_dp, d.moe_tp, d.ep, d.dense_tp) == found


def test_sizes_that_contradict_each_other_are_still_refused():
    with pytest.raises(SpecError, match=r"moe_tp x ep = 4 x 1 = 4 must equal"):
        scenario("sglang", attention_tp=8, moe_tp=4, ep=1)
    with pytest.raises(SpecError, match="attention_tp"):
        scenario("sglang", attention_tp="eight")


TEN = ("deepseek-v3", "kimi-k2", "qwen3-235b-a22b", "qwen3-30b-a3b", "gpt-oss-120b", "glm-4.5", "mixtral-8x22b",
       "longcat-flash", "longcat-flash-lite", "llama-3.1-70b")  # fmt: skip


@pytest.mark.parametrize("model", TEN)
def test_a_scenario_of_five_words_has_its_weights_once(model):
    """Model, cluster, engine, tensor parallelism and batch: weights per GPU are all weights over the GPUs."""
    assert model in catalogue_names("models")
    tp = 4
    own = scenario("trtllm", model=model, attention_tp=tp, batch_per_gpu=1, precision={
        "linear": "bf16", "experts": "bf16", "attention": "bf16"})  # fmt: skip
    total = 2.0 * parameter_counts(own.model).total
    assert weight_bytes(own.model, own.deployment) == pytest.approx(total / tp, rel=0.02)


# --- what validate measures is what a user gets ------------------------------------------------------------------


def sample():
    rows = [r for r in roles.read_published(silicon.FILE) if not r["note"] and r["concurrency"]]
    found = {}
    for row in rows:
        if float(row["concurrency"]) <= 64 and not setup_of(row).not_predicted:
            found.setdefault((row["backend"], row["mode"], row["system"]), row)
    return list(found.values())


@pytest.mark.parametrize("record", sample(), ids=lambda record: record["id"][:40])
def test_the_scenario_that_a_user_would_write_gives_the_suites_figures(record, tmp_path):
    """From the row's columns alone, in a file, with what was set on the command line."""
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(document_of(record, setup_of(record))))
    sets = [f"{path}={value}" for path, value in overrides_of(record).items()]
    if record["mode"] == "disagg":
        sets += [f"prefill.{one}" for one in sets if one.startswith(("deployment.", "serving."))]
    mine = load_scenario(file, sets)
    assert mine.hash == scenario_of(record).hash
    values = answer_serve(mine).values
    predicted, _ = silicon.predict(record)
    assert values["tpot_s"]["mean"] == pytest.approx(predicted.tpot_s, rel=1e-6)
    assert values["ttft_s"]["mean"] == pytest.approx(predicted.ttft_s, rel=1e-6)


def test_settings_of_a_row_are_listed_in_the_output():
    """Lengths and counts too: what is listed, set on a bare scenario, gives the row's own."""
    record = next(
        r
        for r in roles.read_published(silicon.FILE)
        if setup_of(r).client == "inferencex" and r["measured"] > "2026-02"
    )
    (row, *_) = silicon.predict_rows([record], suite="data", role=lambda _: "user")
    listed = row.settings.split("; ")
    own = scenario_of(record)
    judged = 10 * int(float(record["concurrency"]))
    assert f"workload.num_requests={judged}" in listed
    length = int(float(record["osl"]))
    assert f"workload.output_tokens={{min: {round(0.8 * length)}, max: {length}}}" in listed
    assert all(any(one.startswith(f"{path}=") for one in listed) for path, _ in leaves(overrides_of(record)))
    bare = {key: value for key, value in document_of(record, setup_of(record)).items() if key != "workload"}
    assert build_scenario(with_overrides(bare, listed)).hash == own.hash


@pytest.mark.parametrize("sets", [(), ("cluster=h100-ib",)])
def test_an_empty_calibration_is_none(sets):
    """As a shell writes it, whether another cluster would bring its own along or not."""
    assert load_scenario("longcat-flash-h800", [*sets, "calibration="]).calibration == ""
    assert load_scenario("longcat-flash-h800", sets).calibration == ("h100-sxm" if sets else "h800-sxm")
    apart = load_scenario("step-3-h800-afd", ["ffns.cluster=h100-ib", "ffns.calibration="])
    assert (apart.ffn_side.calibration, apart.calibration) == ("", "h800-sxm")
