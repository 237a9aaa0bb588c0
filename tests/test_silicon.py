"""Suite ``silicon``: layouts, rules of how rows were run, and which rows get an answer."""

import math
from collections import Counter
from itertools import product

import pytest

from perfmodel.engines import profile as engines
from perfmodel.errors import DataError, PerfModelError
from perfmodel.load import build_scenario
from perfmodel.overlap.launch import launches_of
from perfmodel.serving.closed_loop import loop_of, steps_of
from perfmodel.serving.serve import serve
from perfmodel.spec.documents import read_document
from perfmodel.step import step_segments
from perfmodel.validation import duplicates, roles, runs, setups, silicon, silicon_2026, silicon_field
from perfmodel.validation.runs import Layout, corrected, document_of, overrides_of, parse_layout, scenario_of
from perfmodel.validation.setups import Setup, setup_of

RECORDS = roles.read_published(silicon.FILE)
EVERY = [record for file in roles.SILICON for record in roles.read_published(file)]
RULES = read_document(setups.RULES)["rules"]
R1 = "deepseek-ai/DeepSeek-R1"


def record(**changes):
    """An aggregated row of DeepSeek-R1 in SGLang on 8 H200."""
    cells = dict.fromkeys(RECORDS[0], "") | {
        "id": "own", "model": R1, "system": "h200_sxm", "backend": "sglang", "backend_version": "0.5.9",
        "precision": "fp8", "mode": "agg", "isl": "1024", "osl": "512", "concurrency": "32", "gpus": "8",
        "parallel_or_prefill": "tp8 dp1 moe_tp8 ep1", "tpot_ms": "20", "ttft_ms": "200",
    }  # fmt: skip
    return cells | changes


# --- layouts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("tp8 dp1 moe_tp8 ep1", Layout(8, 1, 8, 1)),
        ("tp8 dp moe_tp1 ep8", Layout(8, 1, 1, 8)),
        ("tp1 dp8 moe_tp2 ep4", Layout(1, 8, 2, 4)),
        ("P 2x(tp1 dp8 ep8)", Layout(1, 8, 1, 8, 2)),
        ("D 10x(tp4 dp1 ep1)", Layout(4, 1, 4, 1, 10)),
        ("D 1x(tp1 dp32 ep32)", Layout(1, 32, 1, 32, 1)),
    ],
)
def test_layouts_are_read(text, layout):
    assert parse_layout(text) == layout
    assert layout.gpus == layout.attention_tp * layout.attention_dp == layout.moe_tp * layout.ep


@pytest.mark.parametrize(
    "text", ["", "tp8", "tp8 ep8", "dp8 tp8 ep8", "tp8 dp1 ep", "X 2x(tp1 dp8 ep8)", "P x(tp1 dp8 ep8)",
             "tp8 dp1 moe_tp8 ep1 more", "tp-8 dp1 ep1", "tpnone dp1 ep1"],
)  # fmt: skip
def test_what_is_no_layout_is_refused(text):
    with pytest.raises(PerfModelError, match="must be like"):
        parse_layout(text)


def test_every_published_layout_is_read_and_has_the_rows_gpus():
    checked = 0
    for own in RECORDS:
        if not own["concurrency"]:
            continue  # two rows state neither load nor layout
        parts = [parse_layout(own[name]) for name in ("parallel_or_prefill", "decode") if own[name]]
        assert sum(part.gpus * part.instances for part in parts) == int(own["gpus"]), own["id"]
        checked += 1
    assert checked > 390


LAYOUTS = ("tp8 dp1 moe_tp8 ep1", "tp8 dp1 moe_tp1 ep8", "tp1 dp8 moe_tp1 ep8", "tp4 dp1 moe_tp2 ep2")


@pytest.mark.parametrize(
    ("text", "expert_parallel", "attention_dp"), list(product(LAYOUTS, (None, True, False), (True, False)))
)
def test_corrections_keep_the_gpus_and_give_a_scenario(text, expert_parallel, attention_dp):
    printed = parse_layout(text)
    setup = Setup(expert_parallel=expert_parallel, attention_dp=attention_dp)
    layout = corrected(printed, setup)
    assert layout.gpus == printed.gpus == layout.moe_tp * layout.ep
    assert layout.attention_dp == (printed.gpus if attention_dp else printed.attention_dp)
    if expert_parallel is None:
        assert (layout.moe_tp, layout.ep) == (printed.moe_tp, printed.ep)
    else:
        assert layout.ep == (printed.gpus if expert_parallel else 1)
    own = record(parallel_or_prefill=text, gpus=str(printed.gpus))
    d = build_scenario(document_of(own, setup)).deployment
    assert (d.attention_tp, d.attention_dp, d.moe_tp, d.ep) == (
        layout.attention_tp, layout.attention_dp, layout.moe_tp, layout.ep
    )  # fmt: skip
    assert d.stage_gpus == printed.gpus
    assert d.engine == "sglang"


def test_a_scripts_layout_reaches_the_steps():
    """SGLang's scripts of November 2025 divided the experts that the CSV calls ep1."""
    own = next(
        r for r in RECORDS if (r["backend"], r["backend_version"], r["precision"]) == ("sglang", "", "fp4")
    )
    assert parse_layout(own["parallel_or_prefill"]).gpus > 1
    found = scenario_of(own)
    assert found.deployment.ep == int(own["gpus"])
    assert (found.deployment.moe_tp, found.prefill) == (1, None)


def test_disaggregated_rows_have_both_layouts():
    own = record(
        gpus="32", mode="disagg", parallel_or_prefill="P 2x(tp1 dp4 ep4)", decode="D 3x(tp8 dp1 ep8)"
    )
    found = scenario_of(own)
    assert (found.prefill.serving.replicas, found.serving.replicas) == (2, 3)
    assert (found.prefill.deployment.attention_dp, found.prefill.deployment.phase) == (4, "prefill")
    assert (found.deployment.attention_tp, found.deployment.phase) == (8, "decode")
    assert loop_of(found).policy == "disaggregated"
    limited = scenario_of(own | {"set": "serving.max_running=100"})
    assert (limited.serving.max_running, limited.prefill.serving.max_running) == (100, 100)
    assert loop_of(limited).max_running == 300  # each decode instance has its own limit


# --- rules ---------------------------------------------------------------------------------------------------


def matches(when, own):
    """Whether a rule's conditions hold; its client is the one that all rules together give the row."""
    client = {"client": setup_of(own).client}
    return all(setups._holds(*item, own, client) for item in when.items())


def at(document, path):
    for key in path.split("."):
        document = document[key]
    return document


@pytest.mark.parametrize("number", range(len(RULES)))
def test_a_rule_has_a_source_known_keys_and_rows(number):
    rule = RULES[number]
    assert set(rule) == {"when", "set", "source"}
    assert rule["source"].startswith("https://")
    assert rule["set"]
    settings = {key: value for key, value in rule["set"].items() if "." in key}
    own = {key: value for key, value in rule["set"].items() if "." not in key}
    assert set(own) <= set(Setup.model_fields) - {"settings"}
    Setup.model_validate(own)
    row = next((own for own in EVERY if matches(rule["when"], own)), None)
    if row is None:  # formats that a user's rows may state
        assert set(rule["when"]) == {"precision", "architecture"}
        return
    flags = "; ".join(f"{path}={value}" for path, value in settings.items())
    if settings and row["concurrency"] and not runs.unknown(row):
        found = scenario_of(row | {"set": flags}).model_dump(mode="json")
        assert all(at(found, path) == value for path, value in settings.items())  # keys that a user can state
    assert set(rule["when"]) <= {*RECORDS[0], "client", "architecture", *setups.DATES}
    measured = {"tpot_ms", "ttft_ms", "derived_output_tok_s_gpu", "id", "note"}
    assert not measured & set(rule["when"])  # a rule is about how a row was run, not about its result
    for name in setups.RANGES:
        if name in rule["when"]:
            low, high = rule["when"][name]
            assert 0 < low <= high
    assert any(matches(rule["when"], own) for own in EVERY), rule["when"]


def test_later_rules_win(monkeypatch):
    rules = [
        {
            "when": {"backend": "sglang"},
            "set": {"serving.max_batched_tokens": 100, "serving.scheduler_steps": 2},
        },
        {
            "when": {"system": ["h100_sxm", "h200_sxm"], "concurrency": [32, 64]},
            "set": {"serving.max_batched_tokens": 200},
        },
        {"when": {"origin": "x"}, "set": {"client": "inferencex", "lowest_length_ratio": 0.5}},
        {"when": {"client": "inferencex", "measured_before": "2026-01-21"}, "set": {"cold": True}},
        {"when": {"measured_from": "2026-01-21"}, "set": {"serving.scheduler_steps": 7}},
    ]
    monkeypatch.setattr(setups, "_rules", lambda: tuple(rules))

    def chosen(**changes):
        found = setup_of(record(**changes))
        chunk, polls = (
            found.settings.get(f"serving.{key}") for key in ("max_batched_tokens", "scheduler_steps")
        )
        return chunk, polls, found.length_ratio, found.cold

    assert chosen() == (200, 2, 1.0, False)
    assert chosen(concurrency="64") == (200, 2, 1.0, False)
    assert chosen(concurrency="65") == (100, 2, 1.0, False)
    assert chosen(concurrency="31") == (100, 2, 1.0, False)
    assert chosen(concurrency="") == (100, 2, 1.0, False)
    assert chosen(system="b200_sxm") == (100, 2, 1.0, False)
    assert chosen(backend="vllm") == (200, None, 1.0, False)
    assert chosen(measured="2026-01-20") == (200, 2, 1.0, False)  # of another client
    assert chosen(origin="x") == (200, 2, 0.75, False)  # without a day
    assert chosen(origin="x", measured="2026-01-20") == (200, 2, 0.75, True)
    assert chosen(origin="x", measured="2026-01-21") == (200, 7, 0.75, False)


def test_rules_that_are_none_are_refused(monkeypatch, tmp_path):
    path = tmp_path / "rules.yaml"
    monkeypatch.setattr(setups, "RULES", path)
    setups._rules.cache_clear()
    try:
        path.write_text("rules: {when: 1}\n")
        with pytest.raises(DataError, match="must hold a list"):
            setup_of(record())
    finally:
        setups._rules.cache_clear()


def test_trtllms_scripts_size_the_budget_for_one_prompt_and_all_decodes():
    """DeepSeek-R1: the least multiple of 64 that holds concurrency + isl + 64, and 8192 at least in later scripts."""
    checked = Counter()
    for own in RECORDS:
        if (own["backend"], own["model"], own["mode"]) != ("trtllm", R1, "agg") or not own["concurrency"]:
            continue
        concurrency, isl = float(own["concurrency"]), float(own["isl"])
        needed = concurrency + isl + 64.0
        floor = 0.0 if own["measured"] == "2025-11-02" else 8192.0
        budget = overrides_of(own)["serving.max_batched_tokens"]
        assert budget % 64 == 0
        assert budget >= max(floor, needed)
        assert budget == floor or budget < needed + 64.0
        checked[floor] += 1
    assert checked[0.0] >= 10
    assert checked[8192.0] >= 10


def test_a_users_row_is_no_benchmarks_run_whatever_its_date():
    """Launch flags and lengths of InferenceX are its own: stating the day of a run changes nothing."""
    base = record(system="b200_sxm", concurrency="16")
    dated = record(system="b200_sxm", concurrency="16", measured="2026-03-25")
    assert setup_of(base) == setup_of(dated)
    assert setup_of(dated).length_ratio == 1.0
    assert not any(path.startswith("serving.") for path in overrides_of(dated))
    assert scenario_of(dated).hash == scenario_of(base).hash
    theirs = setup_of(dated | {"origin": "2026-03-25.csv"})
    assert (theirs.client, theirs.length_ratio) == ("inferencex", 0.9)
    assert theirs.settings["serving.max_batched_tokens"] == 32768


def test_clients_of_the_published_rows():
    """Counted from the columns, without the rules."""
    seen = Counter()
    for own in EVERY:
        found = setup_of(own)
        bounds = (found.lowest_length_ratio, found.highest_length_ratio)
        if own["origin"].endswith("gap-analysis.csv"):  # undated, and InferenceX's
            assert not own["measured"]
            assert (found.client, bounds, found.cold) == ("inferencex", (0.8, 1.0), False)
        elif own["origin"] in ("2026-03-25.csv", "2026-04-06.csv", "2026-04-27", "db-dump/2026-04-27"):
            apart = own["mode"] == "disagg"
            assert found.client == ("srt-slurm" if apart else "inferencex")
            assert (found.prompts_per_slot, bounds) == (10, (0.8, 1.0))
            assert found.cold == (not apart and own["measured"] < "2026-01-21"), own["id"]
            assert found.warm_up_per_slot == (0 if found.cold else 2)
            seen["cold"] += found.cold
        elif own["origin"] == "sgl-cookbook" and own["model"] != "gpt-oss-120b":
            assert (found.client, bounds) == ("sglang-bench", (0.0, 2.0))
            assert found.prompts_per_slot == (10 if own["concurrency"] == "1" else 5)
        elif own["origin"] in ("Qwen_Qwen3-235B-A22B-FP8.csv", "nvidia_DeepSeek-R1-NVFP4.csv"):
            assert (found.client, found.prompts_per_slot, bounds) == ("aiperf", 50, (1.0, 1.0))
            seen["aiperf"] += 1
        seen["all"] += 1
    assert seen["cold"] == 159
    assert seen["aiperf"] == 94
    assert seen["all"] == 399 + 55 + 596


def test_a_limit_of_running_requests_is_that_of_long_prompts():
    """B200, FP8, TP8: the flag says 128, and at 1k prompts and 512 in flight three times as many ran."""
    common = {"system": "b200_sxm", "origin": "2026-03-25.csv", "measured": "2026-03-25"}
    assert scenario_of(record(**common, isl="8192")).serving.max_running == 128
    assert scenario_of(record(**common)).serving.max_running > 512


def test_budgets_by_hand():
    def budget(setup, concurrency, isl):
        return setup.overrides(concurrency, isl).get("serving.max_batched_tokens")

    script = Setup(budget_per_prompt=True, budget_floor=8192)
    assert budget(script, 128.0, 8192.0) == 8384  # 131 x 64, exactly what is needed
    assert budget(script, 129.0, 8192.0) == 8448
    assert budget(script, 4.0, 1024.0) == 8192
    assert budget(Setup(budget_per_prompt=True), 4.0, 1024.0) == 1152
    stated = {"serving.max_batched_tokens": 8192}
    assert budget(Setup(settings=stated), 64.0, 10000.0) == 8192
    assert budget(Setup(), 64.0, 10000.0) is None  # the engine's own


@pytest.mark.parametrize(("isl", "whole"), [(10000, 10000), (100, 8192)])
def test_a_prompt_that_is_never_cut_has_a_step_of_its_own(isl, whole):
    own = record(backend="trtllm", backend_version="1.2.0rc6", isl=str(isl))
    found = scenario_of(own)
    assert (found.serving.whole_prompts, found.serving.max_batched_tokens) == (True, 8192)
    assert loop_of(found).chunk_tokens == whole


def test_budgets_of_published_rows_reach_the_load():
    own = next(
        r for r in RECORDS
        if r["backend"] == "trtllm" and r["model"] == R1 and r["mode"] == "agg" and not r["note"]
        and r["measured"] != "2025-11-02" and r["isl"] == "8192"
    )  # fmt: skip
    load = loop_of(scenario_of(own))
    needed = float(own["concurrency"]) + 8192 + 64
    assert load.chunk_tokens == 64 * math.ceil(needed / 64)
    assert load.input_tokens == pytest.approx(0.9 * 8192, rel=1e-4)  # lengths uniform between 0.8 and 1
    assert load.output_tokens == pytest.approx(0.9 * float(own["osl"]), rel=1e-3)


# --- the loop ------------------------------------------------------------------------------------------------


def served(setup, **changes):
    own = record(isl="100", osl="10", concurrency="8") | changes
    return serve(build_scenario(document_of(own, setup))).records


def test_the_loop_sends_what_the_client_sends():
    alike = served(Setup(prompts_per_slot=3))
    assert len(alike.arrival_s) == 24
    assert set(alike.input_tokens) == {100}
    assert set(alike.output_tokens) == {10}
    drawn = served(Setup(prompts_per_slot=50, lowest_length_ratio=0.8))
    assert len(drawn.arrival_s) == 400
    assert (min(drawn.input_tokens), max(drawn.input_tokens)) == (80, 100)
    assert (min(drawn.output_tokens), max(drawn.output_tokens)) == (8, 10)
    assert drawn.input_tokens.mean() == pytest.approx(90, rel=0.02)
    wide = served(Setup(prompts_per_slot=50, lowest_length_ratio=0.0, highest_length_ratio=2.0))
    assert min(wide.input_tokens) >= 1
    assert max(wide.input_tokens) > 190
    assert wide.input_tokens.mean() == pytest.approx(100, rel=0.1)


def test_lengths_that_differ_break_the_lockstep_of_equal_ones():
    """Equal requests end together and wait for each other's prompts; with the same mean, spread ones do not."""

    def ttft(low, high):
        setup = Setup(lowest_length_ratio=low, highest_length_ratio=high)
        found = served(setup, isl="4000", osl="400", concurrency="32")
        return (found.first_token_s - found.arrival_s)[64:].mean()

    assert ttft(0.0, 2.0) < 0.6 * ttft(1.0, 1.0)


# --- published rows ------------------------------------------------------------------------------------------


def published(record):
    return silicon.predict_rows([record], suite="s", role=lambda _: "check", file=silicon.FILE)


def test_ttft_without_a_warm_up_is_judged_apart_with_the_start_up_it_implies():
    own = next(r for r in RECORDS if setup_of(r).cold and not r["note"] and float(r["concurrency"]) <= 8)
    tpot, ttft = sorted(published(own), key=lambda row: row.quantity)
    assert (tpot.suite, tpot.quantity) == ("s", "tpot_s")
    assert (ttft.suite, ttft.quantity) == ("s-cold", "ttft_s")
    implied = (ttft.measured - ttft.predicted) * 10
    assert ttft.reason == f"no warm-up: start-up of {implied:.1f} s implied"
    warm = next(r for r in RECORDS if r["measured"] >= "2026-01-21" and not r["note"] and r["mode"] == "agg")
    assert [row.suite for row in published(warm)] == ["s", "s"]


def test_a_repeated_measurement_is_named_and_apart():
    dropped = next(name for file, name in duplicates.repeated() if file == silicon.FILE)
    own = next(r for r in RECORDS if r["id"] == dropped)
    for row in published(own):
        assert (row.suite, row.reason) == ("s-repeated", silicon.REPEATED)
        assert row.predicted
    assert own_rows(own)[0].predicted is not None  # to a user it is a row like any other


FIELD = roles.read_published(silicon_field.FILE)
NEWER = roles.read_published(silicon_2026.FILE)


def rows_of(own, file, suite):
    return silicon.predict_rows([own], suite=suite, role=lambda _: "check", file=file)


def test_gpt_oss_is_predicted_by_mxfp4_tables_of_its_own():
    for system in ("h200_sxm", "b200_sxm"):
        own = next(r for r in NEWER if r["model"] == "openai/gpt-oss-120b" and r["system"] == system)
        tpot = rows_of(own, silicon_2026.FILE, "silicon-2026")[0]
        assert (tpot.suite, tpot.predicted is not None) == ("silicon-2026", True)
        found = scenario_of(own)
        assert found.deployment.precision.experts == "mxfp4"
        timed = [
            (task.op, timing)
            for segment in step_segments(steps_of(found).decode)
            for task, timing in zip(segment.tasks, segment.timings, strict=True)
            if task.op.kernel == "grouped_gemm"
        ]
        assert {op.dtype for op, _ in timed} == {"mxfp4"}
        assert all("/formats (" in timing.source and "stand in" not in timing.flag for _, timing in timed)


def test_models_and_gpus_that_lack_stay_with_the_reason():
    other = next(r for r in NEWER if r["model"].startswith("MiniMax") and r["system"] == "h200_sxm")
    for row in rows_of(other | {"model": "MiniMaxAI/MiniMax-M9"}, silicon_2026.FILE, "silicon-2026"):
        assert (row.suite, row.predicted) == ("silicon-2026", None)
        assert row.reason == "model MiniMaxAI/MiniMax-M9 is not in the catalogue"
    elsewhere = next(r for r in NEWER if r["system"] == "b300_sxm") | {"model": R1, "system": "mi999x"}
    assert (
        rows_of(elsewhere, silicon_2026.FILE, "s")[0].reason
        == "system mi999x: no calibration, and not in the catalogue (perfmodel show clusters)"
    )


def test_field_rows_with_a_remark_are_apart_and_every_clean_one_is_answered():
    old = next(r for r in FIELD if r["note"].startswith("OLD"))
    assert {row.suite for row in rows_of(old, silicon_field.FILE, "silicon-field")} == {"silicon-field-noted"}
    for own in FIELD:
        if not own["note"]:
            mean, why = silicon.predict(own)
            assert mean is not None, (own["id"], why)
            found = scenario_of(own).deployment.precision
            assert (found.experts == "bf16") is (own["precision"] == "bf16"), own["id"]


# --- a user's own rows ---------------------------------------------------------------------------------------


def own_rows(*records):
    return silicon.predict_rows(records, suite="data", role=lambda _: "user")


def test_a_users_rows_touch_no_constant_and_are_not_compared_with_a_peer():
    files = [file for file in engines.FOLDER.iterdir() if file.is_file()]
    before = {file: file.read_bytes() for file in files}
    published = next(
        r for r in RECORDS if roles.committed()[silicon.FILE, r["id"]] == "fit" and not r["note"]
    )
    found = own_rows(published)
    assert {(row.suite, row.role, row.peer_predicted) for row in found} == {("data", "user", None)}
    assert {file: file.read_bytes() for file in engines.FOLDER.iterdir() if file.is_file()} == before


def test_what_was_measured_never_enters_the_prediction():
    first, second = (
        next(row for row in own_rows(record(tpot_ms=cell, ttft_ms="9")) if row.quantity == "tpot_s")
        for cell in ("20", "2000")
    )
    assert first.measured * 100 == pytest.approx(second.measured)
    assert first.predicted == second.predicted
    assert (first.low, first.high) == (second.low, second.high)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"concurrency": ""}, "states no concurrency"),
        ({"concurrency": "", "note": "load not recorded"}, "load not recorded"),
        ({"model": "other"}, "model other is not in the catalogue"),
        ({"system": "tpu"}, "system tpu: no calibration"),
        ({"parallel_or_prefill": "8 GPUs"}, "must be like"),
        ({"parallel_or_prefill": "tp3 dp1 moe_tp3 ep1", "gpus": "3"}, "attention_tp = 3 must divide"),
        ({"parallel_or_prefill": "tp4 dp1 moe_tp4 ep1"}, "the layout"),
        ({"parallel_or_prefill": "tp8 dp1 moe_tp8 ep0"}, "above 0"),
        ({"mode": "Disagg"}, "must be agg or disagg"),
        ({"precision": "fp6"}, "must be one of"),
    ],
)
def test_a_row_without_an_answer_says_why(changes, reason):
    found = own_rows(record(**changes))[0]
    assert found.predicted is None
    assert reason in found.reason


def test_constants_replace_the_engines():
    """In a graph's decode steps: what is prepared before each step, and a gap per kernel; on every output token."""
    none = {
        "deployment.host.asynchronous": "false",
        "deployment.host.prepare_us": 0,
        "deployment.host.node_us": 0,
        "deployment.host.uncounted_us": 0,
        "serving.front_end.latency_s": 0,
    }

    def run(**changes):
        found, reason = silicon.predict(
            record(), none | {key.replace("__", "."): v for key, v in changes.items()}
        )
        assert found is not None, reason
        return found

    base = run()
    gap = run(deployment__host__prepare_us=5000)
    assert gap.tpot_s - base.tpot_s == pytest.approx(
        5e-3, rel=0.05
    )  # prompts' steps among decodes have it, too
    nodes = run(deployment__host__node_us=1)
    kernels = sum(launched(scenario_of(record())))
    assert nodes.tpot_s - base.tpot_s == pytest.approx(kernels * 1e-6, rel=0.1)
    late = run(serving__front_end__latency_s=0.25)
    assert late.ttft_s - base.ttft_s == pytest.approx(0.25, rel=1e-3)
    assert late.tpot_s == pytest.approx(base.tpot_s, rel=0.02)


def launched(scenario):
    """Kernels of each segment of a decode step, all its repeats."""
    for segment in step_segments(steps_of(scenario).decode):
        yield segment.repeat * sum(launches_of(segment, scenario.deployment.engine))


@pytest.mark.parametrize(
    ("row", "share"),
    [
        ({"backend": "sglang", "system": "b200_sxm", "precision": "fp8", "gpus": "8"}, 0.82),
        ({"backend": "sglang", "system": "b200_sxm", "precision": "fp8", "gpus": "4"}, 0.95),
        ({"backend": "sglang", "system": "b200_sxm", "precision": "fp4", "gpus": "4"}, 0.85),
        ({"backend": "sglang", "system": "h200_sxm", "precision": "fp8", "gpus": "8"}, 0.82),
        ({"backend": "trtllm", "system": "b200_sxm", "precision": "fp4", "gpus": "4"}, 0.8),
        ({"backend": "trtllm", "system": "h200_sxm", "precision": "fp8", "gpus": "8"}, 0.75),
    ],
)
def test_a_launch_scripts_share_of_memory_is_its_own_rows(row, share):
    """--mem-fraction-static and free_gpu_memory_fraction in the scripts that silicon_setups.yaml names."""
    model = "deepseek-ai/DeepSeek-R1"
    found = [
        own
        for own in EVERY
        if own["model"] == model
        and setup_of(own).client == "inferencex"
        and (own.get("measured") or "") > "2025-11-02"
        and all(own[key] == value for key, value in row.items())
    ]
    assert found
    for own in found:
        assert setup_of(own).settings["deployment.memory_utilization"] == share
    users = {**found[0], "origin": "", "measured": ""}
    assert "deployment.memory_utilization" not in setup_of(users).settings
