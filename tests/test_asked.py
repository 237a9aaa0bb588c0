"""A scenario as a link: what was asked comes back, and what somebody made up is refused in words."""

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.adapt import cluster_changes, engine_changes, layout_changes, model_changes
from dashboard.asked import (
    MOST_TEXT,
    Asked,
    from_query,
    link_warning,
    packed,
    parsed_sets,
    unpacked,
    uploaded,
    yaml_of,
)
from dashboard.presets import presets
from perfmodel.engines.profile import names, profile
from perfmodel.errors import PerfModelError
from perfmodel.load import load_scenario, scenario_of_text
from perfmodel.spec import catalogue


def as_query(asked):
    return {key: [value] if isinstance(value, str) else value for key, value in asked.query().items()}


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.title)
def test_every_preset_has_a_citation_and_survives_its_link(preset):
    assert len(preset.citation) > 20
    assert from_query(as_query(preset.asked)) == preset.asked


@given(
    st.integers(1, 160), st.integers(1, 100_000), st.sampled_from(["sbo", "tbo", "sequential", "sbo-engine"])
)
def test_a_link_asks_what_was_asked(batch, context, overlap):
    asked = Asked().changed(
        {
            "deployment.batch_per_gpu": str(batch),
            "deployment.context_tokens": str(context),
            "deployment.overlap": overlap,
        }
    )
    again = from_query(as_query(asked))
    assert again == asked
    assert again.scenario() == asked.scenario()
    assert asked.scenario().deployment.batch_per_gpu == batch


def test_the_link_is_the_command_line():
    asked = Asked().changed({"deployment.batch_per_gpu": "64", "prices.usd_per_gpu_hour": "2.5"})
    sets = asked.query()["set"]
    assert load_scenario(asked.name, sets).hash == asked.scenario().hash


@given(st.text(max_size=400))
def test_text_survives_a_link(text):
    assert unpacked(packed(text)) == text


def test_an_upload_survives_its_link_and_its_download():
    text = "base: longcat-flash-h800\ndeployment: {batch_per_gpu: 24}\n"
    asked = uploaded(text.encode(), "mine").changed({"deployment.context_tokens": "777"})
    again = from_query(as_query(asked))
    assert again == asked
    downloaded = yaml_of(asked)
    assert scenario_of_text(downloaded).hash == asked.scenario().hash
    assert asked.scenario().deployment.batch_per_gpu == 24
    assert asked.scenario().deployment.context_tokens == 777


def test_a_download_is_a_file_for_the_command_line(tmp_path):
    asked = Asked("deepseek-v3-h800").changed({"deployment.batch_per_gpu": "64"})
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml_of(asked))
    assert load_scenario(path).hash == asked.scenario().hash


def test_an_empty_link_asks_nothing_and_page_addresses_of_streamlit_are_left_alone():
    assert from_query({}) is None
    assert from_query({"embed": ["true"]}) is None


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"scenario": ["longcat-flash-h800"]}, "links of version 1"),
        ({"v": ["2"], "scenario": ["longcat-flash-h800"]}, "links of version 1"),
        ({"v": ["1"], "scenario": ["longcat"]}, "not in the catalogue"),
        ({"v": ["1"], "scenario": ["/etc/passwd"]}, "a file can't be named here"),
        ({"v": ["1"], "scenario": ["x.yaml"]}, "a file can't be named here"),
        ({"v": ["1"], "set": ["deployment.batch_per_gpu"]}, "must be key.path=value"),
        ({"v": ["1"], "set": ["deployment.batch_per_gpu=-3"]}, "batch_per_gpu"),
        ({"v": ["1"], "set": ["deployment.batch_per_gpu=.nan"]}, "batch_per_gpu"),
        ({"v": ["1"], "set": ["deployment.colour=blue"]}, "unknown key"),
        ({"v": ["1"], "set": ["workload.trace=/etc/passwd"]}, "a file can't be named here"),
        ({"v": ["1"], "set": ["workload.trace=secret.csv"]}, "a file can't be named here"),
        ({"v": ["1"], "set": ["calibration=../../x"]}, "a file can't be named here"),
        ({"v": ["1"], "set": ["model=/etc"]}, "a file can't be named here"),
        ({"v": ["1"], "set": ["model={base: /etc/x.json}"]}, "a file can't be named here"),
        ({"v": ["1"], "set": ["routing.histogram=/etc/passwd"]}, "a file can't be named here"),
        ({"v": ["1"], "set": ["workload.trace=Makefile"]}, "not in the catalogue"),  # there, if it runs here
        ({"v": ["1"], "set": ["calibration=.."]}, "not in the catalogue"),
        ({"v": ["1"], "set": ["deployment.ranks=all"]}, "busiest rank"),
        ({"v": ["1"], "set": ["model.n_routed_experts=999936"]}, "experts per token: the dashboard answers"),
        ({"v": ["1"], "set": ["model.moe_topk=768"]}, "experts per token: the dashboard answers"),
        (
            {"v": ["1"], "set": ["deployment={attention_dp: 8192, ep: 512, moe_tp: 16}"]},
            "use the command line",
        ),
        ({"v": ["1"], "set": ["serving.replicas=1000"]}, "in all replicas"),
        ({"v": ["1"], "set": ["seed=" + "1" * 3000]}, "longer than"),
        ({"v": ["1"], "set": [f"a{i}.b=1" for i in range(300)]}, "at most"),
        ({"v": ["1"], "yaml": ["not base64!"]}, "damaged"),
        ({"v": ["1"], "yaml": [packed("base: longcat-flash-h800\n")[:-6]]}, "damaged"),
        ({"v": ["1"], "yaml": [packed("- a list\n")]}, "must hold a mapping"),
        ({"v": ["1"], "yaml": [packed("base: longcat-flash-h800\nbase: x\n")]}, "not valid YAML"),
        ({"v": ["1"], "yaml": [packed("a: &x 1\nb: *x\n")]}, "anchors and aliases"),
        (
            {"v": ["1"], "yaml": [base64.urlsafe_b64encode(zlib.compress(b"a" * 10**7)).decode()]},
            "longer than",
        ),
    ],
)
def test_a_made_up_link_is_refused_in_one_line(query, said):
    with pytest.raises(PerfModelError) as error:
        from_query(query)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"  \n", b"\xff\xfe", b"a: [", b"base: nobody\n", b"x" * (MOST_TEXT + 1), b"calibration: /etc\n"],
)
def test_a_bad_upload_is_refused(data):
    with pytest.raises(PerfModelError):
        uploaded(data, "mine")


def test_a_link_whose_scenario_has_changed_says_so():
    query = as_query(Asked())
    assert link_warning(Asked(), query) == ""
    assert "has changed since" in link_warning(Asked(), {**query, "hash": ["0123456789abcdef"]})


def test_sets_are_pairs_and_the_last_of_two_counts():
    assert parsed_sets(["a.b=1", "a.b=2", "c={x: 1}"]) == (("a.b", "2"), ("c", "{x: 1}"))


def test_a_sections_new_name_drops_what_was_changed_inside():
    asked = Asked().changed({"cluster.network.gb_per_s_per_gpu": "25"}).changed({"cluster": "h200-ib"})
    assert asked.sets == (("cluster", "h200-ib"),)


@pytest.mark.parametrize("name", [n for n in catalogue.names("models") if not catalogue.model(n).unmodelled])
def test_any_model_of_the_catalogue_can_be_chosen(name):
    changes, said = model_changes(Asked(), name)
    found = Asked().changed(changes).scenario()
    assert found.model.name == name
    if name == "deepseek-v3":
        assert "overlap is tbo" in said


@pytest.mark.parametrize("name", ["deepseek-v3", "mixtral-8x22b", "llama-3.1-70b"])
def test_another_model_suits_prefill_replicas_too(name):
    apart = Asked("longcat-flash-h800-pd")
    found = apart.changed(model_changes(apart, name)[0]).scenario()
    assert found.model.name == name
    assert found.prefill.deployment.overlap in ("tbo", "sequential")


def test_another_model_leaves_out_what_was_stated_of_the_old_ones_experts():
    histogram = ", ".join(["2.0"] * 8 + ["1.0"] * 504)
    stated = Asked(sets=(("routing", f"{{popularity: histogram, histogram: [{histogram}]}}"),))
    changes, said = model_changes(stated, "deepseek-v3")
    assert stated.changed(changes).scenario().routing.histogram is None
    assert "histogram" in said


@pytest.mark.parametrize("name", catalogue.names("clusters"))
def test_any_cluster_can_be_chosen_and_brings_its_own_calibration(name):
    asked = Asked(sets=(("calibration", '""'), ("prices.usd_per_gpu_hour", "9")))
    changes, said = cluster_changes(asked, name)
    found = asked.changed(changes).scenario()
    gpu = found.cluster.gpu.name
    assert found.cluster.name == name
    assert found.calibration == (gpu if gpu in catalogue.names("calibrations") else "")
    assert found.prices.usd_per_gpu_hour != 9
    assert (f"calibrated on {gpu}" in said) == bool(found.calibration)
    written = load_scenario("longcat-flash-h800", [f"cluster={name}"])
    assert found.hash == written.hash  # as whoever changes the cluster on the command line


@pytest.mark.parametrize("name", ["", *names()])
@pytest.mark.parametrize("start", ["longcat-flash-h800", "longcat-flash-h800-pd"])
def test_another_engine_brings_its_defaults_for_both_sides(start, name):
    asked = Asked(start, sets=(("deployment.engine_version", "0.5.6"),))
    changes, said = engine_changes(asked, name)
    found = asked.changed(changes).scenario()
    version = profile(name).version if name else ""
    sides = [found, found.prefill_side] if found.prefill_side else [found]
    for side in sides:
        assert (side.deployment.engine, side.deployment.engine_version) == (name, version)
    assert found.hash == load_scenario(start, [f"deployment.engine={name or chr(39) * 2}"]).hash
    assert (version or "no engine") in said


def test_an_engine_that_an_upload_names_can_be_changed():
    asked = Asked("mine", text="{base: deepseek-v3-h800, engine: {name: sglang, version: 0.5.6}}")
    found = asked.changed(engine_changes(asked, "vllm")[0]).scenario()
    assert (found.deployment.engine, found.deployment.engine_version) == ("vllm", profile("vllm").version)


def test_dense_tp_follows_attention_until_it_is_stated():
    open_ = Asked(
        "mine",
        text="{model: deepseek-v3, cluster: h800-ib, deployment: {attention_tp: 8}}",
    )
    changes, _ = layout_changes(open_, gpus=16, attention_tp=4, moe_tp=1)
    assert "deployment.dense_tp" not in changes
    assert open_.changed(changes).scenario().deployment.dense_tp == 4
    stated = open_.changed(layout_changes(open_, gpus=16, attention_tp=4, moe_tp=1, dense_tp=2)[0])
    again = stated.changed(layout_changes(stated, gpus=16, attention_tp=8, moe_tp=1)[0])
    assert again.scenario().deployment.dense_tp == 2
    longcat = Asked().changed(layout_changes(Asked(), gpus=64, attention_tp=2, moe_tp=1)[0])
    assert longcat.scenario().deployment.dense_tp == 4  # stated by the scenario


def test_a_layout_brings_redundant_experts_where_ranks_do_not_divide():
    changes, said = layout_changes(Asked(), gpus=144, attention_tp=1, dense_tp=4, moe_tp=1)
    found = Asked().changed(changes).scenario()
    assert (found.deployment.num_gpus, found.deployment.ep, found.deployment.redundant_experts) == (
        144,
        144,
        64,
    )
    assert "64 redundant experts" in said
