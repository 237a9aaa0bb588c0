"""The command line as a user meets it: results, JSON contract, bad input, exit codes."""

import contextlib
import json
import math
import re
import subprocess
import sys

import pytest
from command import run_here
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfmodel.engines.profile import leaves
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.load import build_scenario, load_scenario
from perfmodel.spec.catalogue import entry, names
from perfmodel.spec.documents import parse_json, parse_yaml
from perfmodel.spec.keys import key_paths

STEP_KEYS = {
    "step_time_s", "tokens_per_step", "tpot_s", "itl_s", "ttft_s", "tokens_per_s_per_user",
    "output_tokens_per_s_per_gpu", "input_tokens_per_s_per_gpu", "usd_per_million_output_tokens",
    "usd_per_million_input_tokens", "phase", "num_gpus", "batch_per_gpu", "context_tokens", "max_batch_per_gpu",
    "memory_bytes", "mfu", "mbu", "breakdown_s", "exposed_communication_s", "overlap_pct", "ops", "warnings",
    "provenance",
}  # fmt: skip


def run(*args):
    """Most commands run here; what a process of its own adds is tested by ``run_apart`` and the README's commands."""
    return run_here("perfmodel", *args)


def run_apart(*args):
    return subprocess.run(
        [sys.executable, "-m", "perfmodel", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def step_json(*args):
    done = run("step", *args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))


@pytest.fixture(scope="module")
def main_job():
    return step_json("longcat-flash-h800")


def test_json_has_the_contract_and_adds_up(main_job):
    assert main_job.keys() >= STEP_KEYS
    assert main_job["num_gpus"] == 128
    assert main_job["batch_per_gpu"] == 96
    assert math.isclose(sum(main_job["breakdown_s"].values()), main_job["step_time_s"], rel_tol=1e-9)
    assert math.isclose(main_job["tokens_per_step"], 1.9)
    assert math.isclose(main_job["tpot_s"], main_job["step_time_s"] / 1.9)
    per_gpu = 96 * 1.9 / main_job["step_time_s"]
    assert math.isclose(main_job["output_tokens_per_s_per_gpu"], per_gpu)
    assert math.isclose(main_job["usd_per_million_output_tokens"], 2 / 3600 / per_gpu * 1e6)
    assert 0 < main_job["mfu"] < 1
    assert 0 < main_job["mbu"] < 1
    assert main_job["ttft_s"] is None


def test_fp8_cache_keeps_rope_in_bf16(main_job):
    fp8 = step_json("longcat-flash-h800", "--set", "deployment.precision.kv_cache=fp8")
    ratio = fp8["memory_bytes"]["kv_cache"] / main_job["memory_bytes"]["kv_cache"]
    assert math.isclose(ratio, 35840 / 64512, rel_tol=1e-9)


def test_phases_give_their_own_quantities():
    prefill = step_json("longcat-flash-h800", "--set", "deployment.phase=prefill")
    assert prefill["tpot_s"] is None
    assert prefill["ttft_s"] == prefill["step_time_s"]
    assert prefill["usd_per_million_input_tokens"] > 0
    mixed = step_json(
        "longcat-flash-h800", "--set", "deployment.phase=mixed", "--set", "deployment.prefill_tokens=512"
    )
    decode = step_json("longcat-flash-h800", "--set", "deployment.all_to_all=deepep-normal")
    assert mixed["itl_s"] > decode["itl_s"]
    assert mixed["input_tokens_per_s_per_gpu"] > 0


@pytest.mark.parametrize("model", names("models"))
def test_every_model_steps(model):
    set_ = ["--set", f"model={model}", "--set", "deployment.overlap=sequential", "--set", "cluster=h200-ib"]
    set_ += ["--set", "deployment.mtp.draft_tokens=0", "--set", "deployment.batch_per_gpu=4"]
    if model in ("mixtral-8x22b", "llama-3.1-70b"):
        layout = {"attention_dp": 1, "attention_tp": 8, "dense_tp": 8, "ep": 1, "moe_tp": 8}
        set_ += [part for key, value in layout.items() for part in ("--set", f"deployment.{key}={value}")]
    elif model in ("glm-4.5", "gpt-oss-20b", "llama-4-scout", "qwen3-coder-480b-a35b"):
        set_ += ["--set", "deployment.ep=16", "--set", "deployment.attention_dp=16"]
    done = run("step", "longcat-flash-h800", *set_, "--json")
    assert done.returncode == 0, done.stderr


BAD = [
    ("deployment.batch_per_gpu=-3", 2, "batch_per_gpu"),
    ("deployment.batch_per_gpu=.nan", 2, "batch_per_gpu"),
    ("deployment.batch_per_gpu=many", 2, "batch_per_gpu"),
    ("deployment.batch_per_gpu=1e30", 2, "batch_per_gpu"),
    ("deployment.batch_per_gpu=100000", 3, "largest batch that fits"),
    ("deployment.low_latency_max_tokens_per_gpu=100", 3, "low_latency_max_tokens_per_gpu"),
    ("deployment.ep=96", 2, "moe_tp x ep"),
    ("deployment.dense_tp=3", 2, "dense_tp"),
    ("deployment.redundant_experts=3", 2, "redundant"),
    ("deployment.overlap=magic", 2, "overlap"),
    ("deployment.overlap=tbo-report", 2, "tbo-report"),
    ("deployment.bogus=1", 2, "bogus"),
    ("bogus=1", 2, "bogus"),
    ("model=longcat-flsh", 2, "longcat-flash"),
    ("model.zero_expert_num=-1", 2, "zero_expert_num"),
    ("model.moe_topk=0", 2, "moe_topk"),
    ("cluster=h900", 2, "h900"),
    ("cluster.gpu.hbm_gb_per_s=0", 2, "hbm_gb_per_s"),
    ("cluster.num_gpus=64", 2, "128 GPUs"),
    ("prices.usd_per_gpu_hour=-1", 2, "usd_per_gpu_hour"),
    ("routing.rank_loads=[1, 1]", 2, "rank_loads"),
    ("routing.mean_real_experts=13", 2, "mean_real_experts"),
    ("nonsense", 2, "key.path=value"),
]


NEAR = {
    "deployment.batch_per_gp=3": "did you mean deployment.batch_per_gpu?",
    "batch_per_gpu=3": "did you mean deployment.batch_per_gpu?",
    "deployment.mtp.draft_tokns=1": "did you mean deployment.mtp.draft_tokens?",
    "deployment.tp=8": "deployment.attention_tp",
    "cluster.gpu.hbm_gb=3": "did you mean cluster.gpu.hbm_gb_per_s?",
    "engine.verson=1": "did you mean deployment.engine_version?",
    "enigne=vllm": "did you mean engine?",
    "prefill.deployment.ept=8": "prefill.deployment.ep?",
    "deployment.xyzzy=1": "allowed: phase, attention_dp",
    "xyzzy=1": "allowed: name",
}


@pytest.mark.parametrize(("override", "hint"), NEAR.items())
def test_an_unknown_key_says_which_may_be_meant(override, hint, tmp_path):
    """As an override and in a file."""
    with pytest.raises(SpecError, match=re.escape(hint)):
        load_scenario("longcat-flash-h800-pd", [override])
    path, _, value = override.partition("=")
    *sections, key = path.split(".")
    document = {key: value}
    for section in reversed(sections):
        document = {section: document}
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps({"base": "longcat-flash-h800-pd", **document}))
    if sections[:1] != ["engine"]:  # in a file it has a form of its own, and says so
        with pytest.raises(SpecError, match=re.escape(hint)):
            load_scenario(file)


def test_every_key_path_is_one_that_a_scenario_takes():
    """What is proposed exists: each path leads to a field of the scenario's descriptions."""
    document = json.loads(load_scenario("longcat-flash-h800-pd").model_dump_json())
    flat = [
        path for path, _ in leaves({key: document[key] for key in ("deployment", "serving", "slo", "prices")})
    ]
    assert set(flat) <= set(key_paths())
    assert len(set(key_paths())) == len(key_paths())


@pytest.mark.parametrize(("override", "code", "named"), BAD)
def test_bad_values_name_the_field_without_a_traceback(override, code, named):
    done = run("step", "longcat-flash-h800", "--set", override)
    assert done.returncode == code, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) <= 2


def test_sbo_without_a_shortcut_is_refused_by_name():
    done = run("step", "deepseek-v3-h800", "--set", "deployment.overlap=sbo")
    assert done.returncode == 2
    assert "deepseek-v3" in done.stderr
    assert "sbo" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "a: &x 1\nb: *x\n",
        "a: 1\na: 2\n",
        "a: !!python/object:os.system 1\n",
        "a: [1\n",
        "{" * 200,
        "1: 2\n",
        "\x00",
    ],
)
def test_hostile_yaml_is_refused(text):
    with pytest.raises(PerfModelError):
        parse_yaml(text, "file.yaml")


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": NaN}', "[" * 2000, '{"a"', ""])
def test_hostile_json_is_refused(text):
    with pytest.raises(PerfModelError):
        parse_json(text, "file.json")


def test_a_missing_and_a_binary_file(tmp_path):
    assert run("step", tmp_path / "none.yaml").returncode == 2
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in run("step", tmp_path / "binary.yaml").stderr


def test_a_scenario_file_with_a_base_and_the_users_own_config(tmp_path):
    config = entry("models", "qwen3-30b-a3b")["file"]
    from perfmodel.spec.catalogue import DATA

    (tmp_path / "config.json").write_bytes((DATA / "models" / config).read_bytes())
    text = "base: deepseek-v3-h800\nmodel: ./config.json\ndeployment: {attention_dp: 8, ep: 8, batch_per_gpu: 16}\n"
    (tmp_path / "mine.yaml").write_text(text)
    values = step_json(tmp_path / "mine.yaml")
    assert values["num_gpus"] == 8
    assert values["batch_per_gpu"] == 16


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
PATHS = [
    "model", "cluster", "prices", "routing", "given", "costs", "seed", "deployment", "cluster.gpu", "cluster.node",
    "deployment.batch_per_gpu", "deployment.ep", "deployment.mtp", "deployment.precision", "deployment.mtp.acceptance",
    "cluster.gpu.num_sms", "model.base", "cluster.base", "cluster.gpu.base", "prices.base", "routing.rank_loads",
    "base",
]  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PATHS), JUNK)
def test_any_value_anywhere_is_accepted_or_refused_clearly(path, value):
    document = entry("scenarios", "longcat-flash-h800")
    *parents, last = path.split(".")
    place = document
    for key in parents:
        child = place.get(key)
        place[key] = {"base": child} if isinstance(child, str) else dict(child or {})
        place = place[key]
    place[last] = value
    with contextlib.suppress(PerfModelError):  # anything else is a defect
        build_scenario(document)


def test_same_scenario_same_bytes():
    first, second = (run_apart("step", "longcat-flash-h800", "--json").stdout for _ in range(2))
    assert json.loads(first)["step_time_s"] > 0
    assert first == second == run("step", "longcat-flash-h800", "--json").stdout


def test_a_users_mistake_ends_a_process_with_its_code_and_no_traceback():
    for override, code in (("bogus=1", 2), ("deployment.batch_per_gpu=100000", 3)):
        done = run_apart("step", "longcat-flash-h800", "--set", override)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.startswith("perfmodel: ")
        assert len(done.stderr.strip().splitlines()) <= 2


def test_scenario_hash_follows_the_numbers_only():
    base = load_scenario("longcat-flash-h800")
    assert load_scenario("longcat-flash-h800", ["title=other"]).hash == base.hash
    assert load_scenario("longcat-flash-h800", ["deployment.batch_per_gpu=95"]).hash != base.hash


@pytest.mark.parametrize("kind", ["models", "gpus", "clusters", "prices", "scenarios"])
def test_show_lists_and_shows_every_entry(kind):
    listed = json.loads(run("show", kind, "--json").stdout)[kind]
    assert [row["name"] for row in listed] == list(names(kind))
    assert run("show", kind).returncode == 0
    shown = json.loads(run("show", kind, listed[0]["name"], "--json").stdout)
    assert shown.get("source")


def test_show_model_has_the_contract():
    values = json.loads(run("show", "models", "longcat-flash", "--json").stdout)
    assert values["parameters_total"] == 560_664_958_976
    assert {key: round(value / 1e9, 2) for key, value in values["parameters_active"].items()} == {
        "0": 18.69, "8": 27.15, "12": 31.38,
    }  # fmt: skip
    assert values["kv_bytes_per_token"] == 64512


def test_help_lists_what_is_built_and_no_more():
    text = run("--help").stdout
    assert all(
        command in text
        for command in ("step", "serve", "report", "experts", "show", "validate", "dashboard", "train")
    )
    assert all(command in text for command in ("plan", "plan-train", "sweep", "init"))


def test_validate_checks():
    done = run("validate", "--suite", "longcat-theory", "--check", "--json")
    assert done.returncode == 0
    values = json.loads(done.stdout)
    assert len(values["rows"]) == 21
    assert {line["role"] for line in values["summary"]} == {"theory", "comparison"}


def test_a_bad_output_path_leaves_nothing_half_done(tmp_path):
    trace = tmp_path / "trace.json"
    done = run("step", "longcat-flash-h800", "--trace", trace, "--html", tmp_path / "none" / "x.html")
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert not trace.exists()


def test_the_title_follows_overrides():
    assert "LongCat-Flash decoding on 128 H800" in run("step", "longcat-flash-h800").stdout
    prefill = run("step", "longcat-flash-h800", "--set", "deployment.phase=prefill").stdout
    assert "decoding" not in prefill
    assert "longcat-flash: prefill on 128 x h800-sxm" in prefill
