"""``validate --data``: a user's row is answered as the scenario that it states, and nothing else sets anything."""

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from perfmodel.answers.serve import answer_serve
from perfmodel.engines import profile
from perfmodel.errors import DataError, PerfModelError
from perfmodel.ops.limits import check_layout
from perfmodel.serving.serve import kv_tokens_of, serve
from perfmodel.spec import catalogue
from perfmodel.validation import deepseek, names, roles, runs, serving, silicon, user_data
from perfmodel.validation.figures import FIGURES
from perfmodel.validation.runs import scenario_of, unknown
from perfmodel.validation.setups import setup_of
from perfmodel.validation.suites import run_suites
from perfmodel.validation.user_data import LAYOUTS, own_records, read_measurements

ROOT = Path(__file__).resolve().parent.parent
RUN = {
    "id": "mine-1", "model": "deepseek-ai/DeepSeek-R1", "system": "h200_sxm", "backend": "sglang", "precision": "fp8",
    "mode": "agg", "isl": "1024", "osl": "64", "concurrency": "4", "gpus": "8",
    "parallel_or_prefill": "tp8 dp1 moe_tp8 ep1", "ttft_ms": "312.5", "tpot_ms": "21.4",
}  # fmt: skip
STEP = {
    "id": "mine-1", "model": "DeepSeek-V3", "system": "H800-SXM IB", "framework": "SGLang 0.5.9", "phase": "decode",
    "isl_or_kv": "4096", "batch_per_gpu": "64", "attn_parallel": "DP128", "moe_parallel": "EP128",
    "metric": "output_tok_s_per_gpu", "value": "1850", "unit": "tok/s/GPU",
}  # fmt: skip


def csv_text(*records):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for record in records for key in record)))
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


@pytest.fixture
def file(tmp_path):
    def write(*records):
        path = tmp_path / "mine.csv"
        path.write_text(csv_text(*records), encoding="utf-8")
        return path

    return write


@pytest.fixture
def answers(file):
    """(id, quantity) -> row, of a file of these records."""

    def ask(*records):
        return {(row.id, row.quantity): row for row in run_suites(data=file(*records)).rows}

    return ask


def read(path):
    return own_records(path, read_measurements(path))


# --- nothing but what is stated --------------------------------------------------------------------------------

TOLD = [
    {"measured": "2026-03-25", "origin": "2026-03-25.csv", "source": "https://example.org", "note": "ours"},
    {"measured": "2025-11-02", "origin": "2026-04-06.csv"},
    {"origin": "sgl-cookbook", "note": "suspected speculative decoding"},
    {"origin": "gpustack-lab"},
    {"measured": "2025-11-02"},
]
RULED = [
    {},
    {"system": "b200_sxm", "precision": "fp4", "parallel_or_prefill": "tp4 dp1 moe_tp1 ep4", "gpus": "4"},
    {"system": "b200_sxm", "backend": "trtllm", "precision": "fp4", "concurrency": "300"},
    {"model": "moonshotai/Kimi-K2.5", "system": "b200_sxm", "backend": "vllm", "precision": "fp4"},
    {"model": "openai/gpt-oss-120b", "system": "h200_sxm", "backend": "vllm", "precision": "fp4"},
    {"model": "openai/gpt-oss-120b", "system": "b200_sxm", "backend": "trtllm", "precision": "fp4"},
]  # fmt: skip
"""Set-ups to which InferenceX's launch flags apply."""


@pytest.mark.parametrize("ruled", RULED)
@pytest.mark.parametrize("told", TOLD)
def test_where_a_row_comes_from_sets_nothing(ruled, told, file):
    bare, dated = (scenario_of(read(file(RUN | ruled | more))[0]) for more in ({}, told))
    assert bare.hash == dated.hash


def test_where_a_row_comes_from_changes_no_figure(answers):
    """The date alone changed a TTFT from 1.568 to 0.233 s."""
    more = [{**RUN, "id": f"mine-{number}", **told} for number, told in enumerate(TOLD)]
    found = answers({**RUN, "id": "bare"}, *more)
    for quantity in ("ttft_s", "tpot_s"):
        bare = found["bare", quantity]
        assert bare.predicted
        for record in more:
            row = found[record["id"], quantity]
            assert (row.predicted, row.low, row.high) == (bare.predicted, bare.low, bare.high)
            assert (row.settings, row.reason) == (bare.settings, None)
            assert row.source == record.get("source", "")


def test_the_rules_would_have_applied():
    """The same row as InferenceX's own does get its flags: the test above is not about a set-up without rules."""
    theirs = {**dict.fromkeys(LAYOUTS["silicon"].checks, ""), **RUN, **TOLD[0], "note": ""}
    assert setup_of(theirs).client == "inferencex"
    assert scenario_of(theirs).hash != scenario_of(theirs | {"origin": "", "measured": ""}).hash


def flags(record):
    """A published run as its user would write it: every flag of its script and its client, in columns."""
    setup = setup_of(record)
    cells = {
        key: value for key, value in record.items() if key in RUN or key in ("backend_version", "decode")
    }
    if runs.stated_version(record) == "":
        cells["backend_version"] = ""
    if record["mode"] == "agg":
        layout = runs.corrected(runs.parse_layout(record["parallel_or_prefill"]), setup)
        sizes = (layout.attention_tp, layout.attention_dp, layout.moe_tp, layout.ep)
        cells["parallel_or_prefill"] = "tp{} dp{} moe_tp{} ep{}".format(*sizes)
        cells["gpus"] = cells["gpus"] and str(layout.gpus * layout.instances)
    workload = runs.workload_of(record, setup)
    for name, key in (("isl", "input_tokens"), ("osl", "output_tokens")):
        lengths = workload[key]
        spread = lengths if isinstance(lengths, dict) else {"min": lengths, "max": lengths}
        cells |= {name: "", f"{name}_min": str(spread["min"]), f"{name}_max": str(spread["max"])}
    cells["num_prompts"] = str(workload["num_requests"])
    cells["set"] = "; ".join(f"{path}={value}" for path, value in runs.overrides_of(record, setup).items())
    return cells


def published():
    """One run of every engine, mode and GPU, small ones."""
    found = {}
    for file in roles.SILICON:
        for record in roles.read_published(file):
            if setup_of(record).not_predicted or unknown(record) or float(record["concurrency"]) > 64:
                continue
            found.setdefault(
                (record["backend"], record["mode"], record["system"], record["precision"]), record
            )
    return list(found.values())


@pytest.mark.parametrize("record", published(), ids=lambda record: record["id"][:50])
def test_a_users_row_with_the_flags_of_a_published_one_is_that_run(record, file):
    (own,) = read(file(flags(record)))
    assert setup_of(own).client == ""
    assert scenario_of(own).hash == scenario_of({**record, "id": own["id"]}).hash


def test_and_it_gets_the_suites_figures(answers):
    records = [record for record in published() if float(record["osl"]) <= 1100][:3]
    found = answers(*map(flags, records))
    for record in records:
        predicted, _ = silicon.predict(record)
        row = found[record["id"], "tpot_s"]
        assert (row.predicted, row.low) == pytest.approx((predicted.tpot_s, predicted.low_s), rel=1e-9)
        assert found[record["id"], "ttft_s"].predicted == pytest.approx(predicted.ttft_s, rel=1e-9)
        assert (row.role, row.suite) == ("user", "data")


def test_published_runs_are_loaded():
    """What ran can run; of cfg253 the CSV's layout (ep1 on 32 GPUs) is not what did, its recipe divides the experts."""
    refused_ = {}
    for file in roles.SILICON:
        for record in roles.read_published(file):
            if setup_of(record).not_predicted or unknown(record):
                continue
            scenario = scenario_of(record)
            try:
                check_layout(scenario)
                for side in filter(None, (scenario, scenario.prefill_side)):
                    kv_tokens_of(side)
            except PerfModelError as error:
                refused_[record["id"]] = str(error)
    (text,) = refused_.values()
    assert "cfg253" in next(iter(refused_))
    assert "deployment.moe_tp = 32 slices an expert's FFN of width 2048 to 64" in text


# --- every model, GPU and engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", catalogue.names("models"))
def test_every_model_of_the_catalogue_is_served(model, file):
    cells = {"model": model, "parallel_or_prefill": "tp8 dp1 ep1", "precision": "bf16", "gpus": ""}
    (own,) = read(file(RUN | cells))
    assert unknown(own) == ""
    assert scenario_of(own).model.name == model


@pytest.mark.parametrize("name", ["config.json", ".", "sub/../config.json"])
def test_a_config_beside_the_file_is_a_model(name, tmp_path, answers):
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text((catalogue.DATA / "models" / "qwen3-30b-a3b.json").read_text())
    cells = {"parallel_or_prefill": "tp2 dp1 moe_tp2 ep1", "gpus": "2", "precision": "bf16"}
    found = answers(RUN | cells | {"model": name}, RUN | cells | {"id": "named", "model": "qwen3-30b-a3b"})
    assert found["mine-1", "tpot_s"].predicted == pytest.approx(found["named", "tpot_s"].predicted)
    assert found["mine-1", "tpot_s"].model == name


def test_a_model_that_is_nowhere_is_named(answers):
    for name in ("no-such-model", "there/config.json", "../none", "/", "x" * 1999):
        row = answers(RUN | {"model": name})["mine-1", "tpot_s"]
        assert row.predicted is None
        assert "is not in the catalogue, and no config.json is there" in row.reason


def test_every_system_is_answered_and_a_roofline_says_so(file):
    calibrated = catalogue.names("calibrations")
    for system in (*catalogue.names("clusters"), *catalogue.names("gpus"), *calibrated, *names.SYSTEMS):
        (own,) = read(
            file(RUN | {"system": system, "model": "qwen3-30b-a3b", "precision": "bf16", "backend": ""})
        )
        scenario = scenario_of(own)
        assert unknown(own) == ""
        gpu = names.gpu_named(system)
        assert scenario.calibration == (gpu if gpu in calibrated else "")
        assert ("by roofline" in runs.remarks(own)) == (gpu not in calibrated)


def test_gpus_are_those_of_the_layout(answers):
    apart = {"mode": "disagg", "parallel_or_prefill": "P 2x(tp8 dp1 ep8)", "decode": "D 1x(tp1 dp8 ep8)"}
    for cells, gpus in (({"gpus": "4"}, 8), (apart | {"gpus": "16"}, 24)):
        row = answers(RUN | cells)["mine-1", "tpot_s"]
        assert row.predicted is None
        assert f"gpus = {cells['gpus']}: the layout" in row.reason
        assert row.reason.endswith(f"has {gpus}")


def test_a_gpu_stands_for_its_usual_cluster(file):
    for gpu, cluster in (("h800-sxm", "h800-ib"), ("h100-sxm", "h100-ib"), ("gb200-nvl72", "gb200-nvl72")):
        assert scenario_of(read(file(RUN | {"system": gpu}))[0]).cluster.name == cluster


@pytest.mark.parametrize("engine", ["", *profile.names()])
def test_every_engine_or_none(engine, answers):
    row = answers(RUN | {"backend": engine})["mine-1", "tpot_s"]
    assert row.predicted
    assert row.engine == engine
    assert row.reason is None


def test_a_version_counts_and_one_that_is_none_is_named(answers, file):
    for version in ("0.15.0", "0.17.0"):
        own = RUN | {"backend": "vllm", "backend_version": version}
        assert scenario_of(read(file(own))[0]).deployment.engine_version == version
    own = RUN | {
        "backend": "trtllm",
        "backend_version": "0.20.0",
    }  # of a published row it would be Dynamo's image
    assert scenario_of(read(file(own))[0]).deployment.engine_version == "0.20.0"
    row = answers(RUN | {"backend_version": "nightly-abc"})["mine-1", "tpot_s"]
    assert "nightly-abc names no release: answered as SGLang" in row.reason


def test_a_number_format_of_experts_is_theirs_alone(file):
    cells = {"model": "gpt-oss-120b", "precision": "mxfp4", "parallel_or_prefill": "tp8 dp1 moe_tp8 ep1"}
    for system in ("h800-sxm", "h100-ib", "b200-ib", "gb200"):
        (own,) = read(file(RUN | cells | {"system": system}))
        precision = scenario_of(own).deployment.precision
        assert (precision.linear, precision.experts) == ("bf16", "mxfp4")


def test_without_a_precision_the_scenarios_formats_count(file):
    (own,) = read(file({key: value for key, value in RUN.items() if key != "precision"}))
    assert runs.overrides_of(own) == {}
    assert scenario_of(own).deployment.precision.linear == "fp8"


# --- traffic ------------------------------------------------------------------------------------------------------


def workload(file, **cells):
    return scenario_of(read(file(RUN | cells))[0]).workload


def test_a_closed_loop_a_rate_and_a_burst(file):
    loop = workload(file)
    assert (loop.max_concurrency, loop.rate, loop.num_requests) == (4, float("inf"), 40)
    rate = workload(file, concurrency="", request_rate="2.5", burstiness="0.5", num_prompts="30")
    assert (rate.max_concurrency, rate.rate, rate.burstiness, rate.num_requests) == (None, 2.5, 0.5, 30)
    both = workload(file, concurrency="8", request_rate="2.5", warm_up_requests="5", num_prompts="20")
    assert (both.max_concurrency, both.rate) == (8, 2.5)
    assert (both.num_requests, both.warm_up_requests) == (25, 5)
    burst = scenario_of(read(file(RUN | {"concurrency": "", "request_rate": "inf", "num_prompts": "12"}))[0])
    assert set(serve(burst).records.arrival_s) == {0.0}
    assert workload(file, concurrency="", request_rate="3").num_requests == 1000


def test_lengths_with_their_spread(file):
    found = workload(file, isl="", isl_min="10", isl_max="30", osl_min="64", osl_max="64")
    assert (found.input_tokens.min, found.input_tokens.max, found.output_tokens.value) == (10, 30, 64)
    drawn = workload(file, set="workload.input_tokens={mean: 900, std: 300}")
    assert (drawn.input_tokens.mean, drawn.input_tokens.std) == (900, 300)


def test_drafts_as_stated(file, answers):
    mtp = {"model": "deepseek-v3", "mtp": "1"}
    by_acceptance = scenario_of(read(file(RUN | mtp | {"acceptance": "0.8"}))[0]).deployment.mtp
    by_length = scenario_of(read(file(RUN | mtp | {"accepted_length": "1.8"}))[0]).deployment.mtp
    assert by_acceptance == by_length
    assert (by_acceptance.draft_tokens, by_acceptance.acceptance) == (1, 0.8)
    tiny = scenario_of(read(file(RUN | mtp | {"acceptance": "1e-5"}))[0]).deployment.mtp
    assert tiny.acceptance == 1e-5
    # long outputs: drafts bring requests out of step, and then prompts come one by one between their tokens
    long = RUN | {"osl": "1024"}
    found = answers(long | {"id": "off"}, long | mtp | {"id": "on", "acceptance": "0.8"})
    assert found["on", "tpot_s"].predicted < found["off", "tpot_s"].predicted
    assert "deployment.mtp.draft_tokens=1; deployment.mtp.acceptance=0.8" in found["on", "tpot_s"].settings


def test_what_is_set_is_set_on_both_sides_and_listed(file, answers):
    apart = {
        "mode": "disagg",
        "parallel_or_prefill": "P 1x(tp8 dp1 ep1)",
        "decode": "D 1x(tp8 dp1 ep1)",
        "gpus": "16",
    }
    own = RUN | apart | {"set": "serving.max_running=77; deployment.overlap=sequential"}
    scenario = scenario_of(read(file(own))[0])
    assert (scenario.serving.max_running, scenario.prefill.serving.max_running) == (77, 77)
    assert (
        "serving.max_running=77; deployment.overlap=sequential" in answers(own)["mine-1", "tpot_s"].settings
    )
    row = answers(RUN | {"set": "nonsense.key=1"})["mine-1", "tpot_s"]
    assert row.predicted is None
    assert "nonsense: unknown key" in row.reason


# --- figures ------------------------------------------------------------------------------------------------------


def test_every_figure_is_that_of_serve(file, answers):
    own = RUN | dict.fromkeys(FIGURES, "100")
    found = answers(own)
    values = answer_serve(scenario_of(read(file(own))[0])).values
    assert len(found) == len(FIGURES)
    for figure in FIGURES.values():
        row, value = found["mine-1", figure.quantity], values[figure.key]
        assert row.predicted == pytest.approx(
            value[figure.statistic] if figure.statistic else value, rel=1e-9
        )
        assert row.measured == (0.1 if figure.unit == "s" else 100 / 8)
    assert found["mine-1", "ttft_p99_s"].predicted >= found["mine-1", "ttft_median_s"].predicted


def test_outputs_of_one_token_have_no_tpot(answers):
    row = answers(RUN | {"osl": "1"})["mine-1", "tpot_s"]
    assert row.predicted is None
    assert "outputs of one token" in row.reason


# --- mistakes -----------------------------------------------------------------------------------------------------

WRONG = [
    ({"isl": ""}, "isl", "isl_min and isl_max"),
    ({"isl_min": "5"}, "isl_max", "as isl_min is stated"),
    ({"osl_min": "9", "osl_max": "8", "osl": ""}, "osl_min", "at most osl_max"),
    ({"isl_min": "5", "isl_max": "9"}, "isl", "from isl_min to isl_max"),
    ({"burstiness": "2"}, "burstiness", "finite request_rate"),
    ({"burstiness": "2", "request_rate": "inf"}, "burstiness", "finite request_rate"),
    ({"request_rate": "0"}, "request_rate", "or inf"),
    ({"request_rate": "infinite"}, "request_rate", "or inf"),
    ({"mtp": "1"}, "mtp", "acceptance and accepted_length"),
    ({"mtp": "1", "acceptance": "0.5", "accepted_length": "1.5"}, "mtp", "one of"),
    ({"mtp": "65"}, "mtp", "from 0 to 64"),
    ({"mtp": "1", "acceptance": "80"}, "acceptance", "from 0 to 1"),
    ({"acceptance": "0.8"}, "acceptance", "nothing without mtp"),
    ({"mtp": "1", "accepted_length": "2.5"}, "accepted_length", "from 1 to 2"),
    ({"warm_up_requests": "-1"}, "warm_up_requests", "from 0"),
    ({"set": "serving.max_running"}, "set", "key.path=value"),
    ({"set": "serving..x=1"}, "set", "key.path=value"),
    ({"set": "a=1; a=2"}, "set", "twice"),
    ({"set": "a={b"}, "set", "key.path=value"),
    ({"output_tok_s": "100", "gpus": ""}, "gpus", "divided"),
    ({"ttft_p99_ms": "0"}, "ttft_p99_ms", "above 0"),
]  # fmt: skip


@pytest.mark.parametrize(("cells", "column", "words"), WRONG)
def test_a_mistake_is_told_with_line_and_column(cells, column, words, file):
    with pytest.raises(DataError) as found:
        read_measurements(file(RUN | {"id": "right"}, RUN | cells))
    text = str(found.value)
    assert f"line 3, column {column}: " in text
    assert words in text
    assert len(text.splitlines()) == 1


hostile = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["inf", "nan", "-1", "0", "1e18", "1e400", "9" * 400, "\u0663", "a=1;;=", "x={[", "'", "=", "../../../", "/",
         "model=/dev/null", "deployment=1", "workload.trace=/etc/passwd", "deployment.ep=99999999999999999999",
         "\u202e", "tp0 dp0 ep0", "tp1 dp1 moe_tp1 ep1", "sglang", "1e-5", "serving.max_batched_tokens=0", "&a", "*a",
         "!!x y"]
    ),
)  # fmt: skip


def refused(ask):
    """What ``ask`` gives, or None where it refuses with an error of one line."""
    try:
        return ask()
    except PerfModelError as error:
        text = str(error)
    assert text
    assert len(text.splitlines()) == 1
    return None


def columns(layout, *left_out):
    return st.sampled_from(sorted(LAYOUTS[layout].checks.keys() - set(left_out)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(columns("silicon"), hostile, max_size=4))
@example({"set": "deployment.attention_tp=true"})
@example({"set": "notes=3"})
@example({"set": "(before)=1"})
def test_hostile_cells_give_a_reason_and_no_traceback(tmp_path, cells):
    """The file is refused in one line, or its row becomes a scenario, or a reason; what runs is not run here."""
    path = tmp_path / "mine.csv"
    path.write_text(csv_text(RUN | cells), encoding="utf-8", errors="replace", newline="")
    for own in refused(lambda: read(path)) or []:
        if not unknown(own):
            refused(lambda own=own: scenario_of(own))


def test_a_file_without_an_end_is_refused(answers):
    row = answers(RUN | {"set": "model.base=/dev/zero"})["mine-1", "tpot_s"]
    assert row.predicted is None
    assert "/dev/zero: larger than" in row.reason


LOADS = ("isl", "osl", "isl_max", "osl_max", "concurrency", "num_prompts", "warm_up_requests", "request_rate")
"""Columns by which a run may take long."""


@pytest.mark.parametrize(("kind", "base"), [("silicon", RUN), ("serving", STEP)])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_rows_that_run_are_answered_or_say_why(kind, base, tmp_path, data):
    cells = data.draw(st.dictionaries(columns(kind, *LOADS), hostile, min_size=1, max_size=3))
    path = tmp_path / "mine.csv"
    path.write_text(csv_text(base | cells), encoding="utf-8", errors="replace", newline="")
    found = refused(lambda: run_suites(data=path).rows) or []
    assert all(row.predicted is not None or row.reason for row in found)


# --- one step -----------------------------------------------------------------------------------------------------


def step(file, **cells):
    return serving.scenario_of(read(file(STEP | cells))[0])


def test_a_step_has_its_engines_defaults_and_what_it_states(file):
    d = step(file).deployment
    assert (d.engine, d.engine_version, d.attention_dp, d.ep) == ("sglang", "0.5.9", 128, 128)
    plain = step(file, attn_parallel="TP8", moe_parallel="", framework="trtllm", system="h200-sxm").deployment
    assert (plain.engine, plain.attention_tp, plain.moe_tp, plain.ep) == ("trtllm", 8, 8, 1)
    dense = step(
        file, model="llama-3.1-70b", attn_parallel="TP4", moe_parallel="", framework="", precision="bf16"
    )
    assert (dense.deployment.num_gpus, dense.deployment.dense_tp, dense.deployment.engine) == (4, 4, "")
    assert dense.deployment.precision.linear == "bf16"
    assert step(file, moe_parallel="EP128 TBO").deployment.overlap == "tbo"
    assert step(file, set="deployment.overlap=tbo").deployment.overlap == "tbo"


def test_drafts_of_a_step(file, answers):
    for words in ("1 draft tokens, accepted length 1.8", "1 draft token, acceptance 0.8"):
        mtp = step(file, mtp=words).deployment.mtp
        assert (mtp.draft_tokens, mtp.acceptance) == (1, pytest.approx(0.8))
    (row,) = answers(STEP | {"mtp": "two"}).values()
    assert row.predicted is None
    assert "mtp 'two': must be like '2 draft tokens, accepted length 1.8'" in row.reason


def test_a_step_with_the_formats_of_a_published_one_gets_its_figure(answers):
    """Published rows run sequentially with attention and cache in BF16, unless they say otherwise."""
    (row,) = [row for row in roles.read_published(deepseek.FILE) if row["id"] == "ds_prod_decode"]
    stated = {key: value for key, value in row.items() if key not in ("kind", "routing")}
    formats = (
        "deployment.precision.kv_cache=bf16; deployment.precision.attention=bf16; deployment.overlap=tbo"
    )
    own = stated | {
        "framework": "deepseek",
        "set": formats,
        "moe_parallel": "EP144 (+32 redundant)",
        "precision": "",
    }
    (mine,) = answers(own).values()
    (theirs,) = serving.predict_rows([row], suite="s", role=lambda _: "check")
    assert mine.predicted == pytest.approx(theirs.predicted, rel=1e-9)
    assert mine.settings == formats


# --- docs ---------------------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "validate.md").read_text(encoding="utf-8")


def test_the_pages_examples_are_answered(tmp_path):
    blocks = re.findall(r"```csv\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        path = tmp_path / "mine.csv"
        path.write_text(block)
        rows = run_suites(data=path).rows
        assert rows
        assert all(row.predicted for row in rows), [row.reason for row in rows]


def test_the_page_names_every_column():
    told = set(re.findall(r"`([a-z0-9_]+)`", PAGE))
    general = re.compile(r"(ttft|tpot|itl|e2e)_(p50|p90|p99)_ms")
    for layout in user_data.LAYOUTS.values():
        assert {column for column in layout.checks if not general.fullmatch(column)} <= told
    assert "_p50_ms`, `_p90_ms` or `_p99_ms`" in PAGE
