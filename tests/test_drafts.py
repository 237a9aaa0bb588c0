"""Drafts: how often each is accepted, by what they are drafted, and what that costs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.errors import PerfModelError, SpecError
from perfmodel.explore.plan.question import Kind, Question, Traffic
from perfmodel.load import load_scenario, scenario_of_text
from perfmodel.ops.memory import cached_token_bytes, drafter_bytes, weight_bytes
from perfmodel.ops.work import tokens_per_step
from perfmodel.serving.drafts import acceptance_for, decode_steps
from perfmodel.spec import catalogue
from perfmodel.spec.drafts import MtpDeployment
from perfmodel.spec.published_drafts import acceptance_of
from perfmodel.step import step_segments

GOLDEN = [1.79, 2.27, 2.49, 2.54, 2.55]
"""Tokens per step with 1 to 5 drafts: InferenceX's lengths for DeepSeek-V4-Pro."""
CONDITIONAL = [0.79, 0.48 / 0.79, 0.22 / 0.48, 0.05 / 0.22, 0.01 / 0.05]
BASE = "deepseek-v3-h200-sglang"
QWEN = "qwen3-235b-h100-vllm"


def drafting(mtp, base=BASE, *more):
    return load_scenario(base, [f"deployment.mtp={json.dumps(mtp)}", *more])


@pytest.mark.parametrize(
    "stated",
    [
        {"base": "deepseek-v4-pro-inferencex"},
        {"accepted_lengths": GOLDEN},
        {"acceptance_by_position": CONDITIONAL},
    ],
)
@pytest.mark.parametrize("drafts", [1, 2, 3, 4, 5])
def test_measured_lengths_are_reproduced(stated, drafts):
    scenario = drafting({**stated, "draft_tokens": drafts})
    assert tokens_per_step(scenario.deployment) == pytest.approx(GOLDEN[drafts - 1], abs=1e-9)
    wanted = np.full(4000, 50)
    steps = decode_steps(wanted + 1, drafts, acceptance_for(scenario.deployment.mtp), seed=3)
    surplus = 0.5 * (GOLDEN[drafts - 1] - 1.0)  # of a request's last step, about
    assert (wanted.sum() + surplus * len(wanted)) / steps.sum() == pytest.approx(GOLDEN[drafts - 1], rel=0.01)


@given(st.floats(0.0, 1.0), st.integers(1, 8))
def test_one_acceptance_is_that_of_every_position(acceptance, drafts):
    one = MtpDeployment(draft_tokens=drafts, acceptance=acceptance)
    each = MtpDeployment(draft_tokens=drafts, acceptance_by_position=(acceptance,) * drafts)
    assert one.survival(drafts) == each.survival(drafts)
    assert sum(one.survival(drafts)) == pytest.approx(sum(acceptance**i for i in range(1, drafts + 1)))
    assert acceptance_for(one) == acceptance


def test_listed_and_single_acceptance_draw_the_same_distribution():
    wanted = np.full(3000, 40)
    one = decode_steps(wanted, 3, 0.7, seed=1)
    each = decode_steps(wanted, 3, MtpDeployment(acceptance_by_position=(0.7,) * 3).survival(3), seed=1)
    assert one.mean() == pytest.approx(each.mean(), rel=0.01)
    assert one.std() == pytest.approx(each.std(), rel=0.06)


@pytest.mark.parametrize(("shares", "steps"), [((0.0, 0.0), 100), ((1.0, 1.0), 34), ((1.0, 0.0), 50)])
def test_certain_drafts_need_no_luck(shares, steps):
    assert (decode_steps(np.full(5, 101), 2, shares, seed=7) == steps).all()


def test_what_is_not_used_changes_no_hash():
    plain = load_scenario(BASE, ["deployment.mtp.draft_tokens=1", "deployment.mtp.acceptance=0.8"])
    with_defaults = json.loads(plain.model_dump_json())
    assert "drafter" in with_defaults["deployment"]["mtp"]
    stated = load_scenario(
        BASE, ["deployment.mtp={draft_tokens: 1, acceptance: 0.8, accepted_lengths: null, drafter: null}"]
    )
    assert plain.hash == stated.hash
    assert plain.hash != drafting({"draft_tokens": 1, "accepted_lengths": [1.8]}).hash


def flops(segments, word="draft"):
    return sum(
        float(np.sum(task.op.flops)) * one.repeat
        for one in segments
        if one.name.startswith(word)
        for task in one.tasks
    )


def gemms(segments, word="draft"):
    """(m, n, k) of every product, so often as it is run."""
    return sorted(
        tuple(float(task.op.shape[name]) for name in ("m", "n", "k"))
        for one in segments
        if one.name.startswith(word)
        for task in one.tasks * one.repeat
        if task.op.kernel == "gemm"
    )


def test_an_eagle3_layer_has_its_products_and_no_others():
    """TP8, batch 8 per GPU: 64 requests; hidden 4096, 64 heads and 4 KV heads of 128, FFN of 24,576, 32,000 rows of
    the head, three states."""
    scenario = drafting(
        {"draft_tokens": 2, "acceptance": 0.7, "drafter": "qwen3-235b-a22b-eagle3"},
        QWEN,
        "deployment.batch_per_gpu=8",
    )
    found = gemms(step_segments(scenario))
    expected = []
    for rows, first in ((3 * 64, True), (64, False)):
        expected += [(rows, (8 + 2) * 128, 2 * 4096), (rows, 4096, 8 * 128)]
        expected += [(rows, 2 * 24576 / 8, 4096), (rows, 4096, 24576 / 8), (64, 32000 / 8, 4096)]
        expected += [(rows, 4096, 3 * 4096)] if first else []
    assert found == sorted(tuple(map(float, one)) for one in expected)


def test_an_eagle3_layer_weighs_and_keeps_what_its_shape_says():
    mtp = {"draft_tokens": 2, "acceptance": 0.7, "drafter": "qwen3-235b-a22b-eagle3"}
    scenario, without = drafting(mtp, QWEN), load_scenario(QWEN)
    heads, kv, width = 64 * 128, 4 * 128, 4096
    divided = 2 * width * (heads + 2 * kv) + heads * width + 3 * width * 24576 + 32000 * width
    own = drafter_bytes(scenario.deployment.mtp.drafter, scenario.model, scenario.deployment)
    assert own == pytest.approx(2 * (divided / 8 + 3 * width * width), rel=1e-3)  # norms beside them
    more = weight_bytes(scenario.model, scenario.deployment) - weight_bytes(without.model, without.deployment)
    assert more == pytest.approx(own)
    assert cached_token_bytes(scenario) - cached_token_bytes(without) == pytest.approx(
        2 * 128 * 2
    )  # one KV head


def test_a_small_model_is_run_as_it_would_be_alone():
    """Its passes after the first have the products of a step of that model by itself on the same GPUs."""
    mtp = {"draft_tokens": 3, "acceptance": 0.7, "drafter": {"model": "qwen3-30b-a3b"}}
    scenario = drafting(mtp, QWEN, "deployment.precision.linear=bf16", "deployment.precision.experts=bf16")
    alone = [one for one in step_segments(scenario.drafting) if one.name != "host"]
    segments = step_segments(scenario)
    assert flops(segments, "draft 1") == pytest.approx(flops(alone, ""), rel=1e-9)
    assert flops(segments, "draft 1") == pytest.approx(flops(segments, "draft 2"))
    assert flops(segments, "draft 0") > 2.0 * flops(
        segments, "draft 1"
    )  # four tokens of every request, few of the head
    assert weight_bytes(scenario.model, scenario.deployment) - weight_bytes(
        scenario.model,
        load_scenario(
            QWEN, ["deployment.precision.linear=bf16", "deployment.precision.experts=bf16"]
        ).deployment,
    ) == pytest.approx(weight_bytes(scenario.drafting.model, scenario.drafting.deployment))


def test_a_block_is_drafted_in_one_pass_and_corrected_token_by_token():
    base = ("glm-4.6-b200", "deployment.batch_per_gpu=4")
    three, six = (
        step_segments(drafting({"draft_tokens": n, "acceptance": 0.7, "drafter": "glm-5.2-dspark"}, *base))
        for n in (3, 6)
    )
    for drafts, segments in ((3, three), (6, six)):
        runs = {one.name: one.repeat for one in segments if one.name.startswith("draft")}
        assert runs["draft block"] == 5
        assert runs["draft block, corrected"] == drafts
        heads = gemms(segments, "draft block, head")
        assert len(heads) == 1


def test_prompts_pass_the_drafter_once():
    mtp = {"draft_tokens": 2, "acceptance": 0.7, "drafter": "qwen3-235b-a22b-eagle3"}
    mixed = drafting(
        mtp, QWEN, "deployment.phase=mixed", "deployment.prefill_tokens=1024", "deployment.batch_per_gpu=4"
    )
    prompt = drafting(mtp, QWEN, "deployment.phase=prefill", "deployment.prefill_tokens=1024")
    names = [one.name for one in step_segments(prompt) if one.name.startswith("draft")]
    assert names == ["draft prompts, before", "draft prompts"]
    assert flops(step_segments(mixed), "draft prompts") == pytest.approx(
        flops(step_segments(prompt), "draft prompts")
    )
    own_layer = [
        one for one in step_segments(load_scenario(BASE, ["deployment.phase=prefill"])) if "draft" in one.name
    ]
    assert not own_layer


@pytest.mark.parametrize("name", catalogue.names("drafters"))
def test_every_published_drafter_is_read(name):
    base = {"longcat-flash-eagle3": "longcat-flash-h800", "qwen3-235b-a22b-eagle3": QWEN}.get(name, BASE)
    found = drafting({"draft_tokens": 1, "acceptance": 0.5, "drafter": name}, base).deployment.mtp.drafter
    entry = catalogue.entry("drafters", name)
    assert found.kind == ("dspark" if "dspark" in name else "eagle3")
    assert (found.source, found.name) == (entry["source"], name)
    assert found.model.vocab_size == entry["model"].get("draft_vocab_size", entry["model"]["vocab_size"])
    assert found.fused_states == (5 if "dspark" in name else 3)
    assert found.markov_rank == (256 if "dspark" in name else 0)


@pytest.mark.parametrize("name", catalogue.names("acceptance"))
def test_every_published_acceptance_gives_its_length(name):
    entry = catalogue.entry("acceptance", name)
    lengths = entry.get("accepted_lengths")
    drafts, length = (len(lengths), lengths[-1]) if lengths else (entry["drafts"], entry["accepted_length"])
    found = drafting({"base": name, "draft_tokens": drafts})
    assert tokens_per_step(found.deployment) == pytest.approx(length)
    assert entry["source"] in found.deployment.mtp.acceptance_source
    if not lengths:
        assert found.deployment.mtp.acceptance == acceptance_of(drafts, length)


def test_plan_looks_at_every_draft_whose_acceptance_was_measured():
    question = Question(
        "qwen3-235b-a22b", (Kind("h200-ib", 8, "vllm"),), Traffic(1000, 200, users=8),
        overrides=('deployment.mtp={base: deepseek-v4-pro-inferencex, drafter: qwen3-235b-a22b-eagle3}',),
    )  # fmt: skip
    assert question.space_of(question.kinds[0]).keys["deployment.mtp.draft_tokens"] == (0, 1, 2, 3, 4, 5)
    none = replace(question, overrides=("deployment.mtp={base: deepseek-v4-pro-inferencex}",))
    assert none.space_of(none.kinds[0]).keys["deployment.mtp.draft_tokens"] == (0,)


BAD = [
    ({"draft_tokens": 3, "accepted_lengths": [1.5]}, "accepted_lengths has 1 values, draft_tokens = 3"),
    ({"draft_tokens": 2, "accepted_lengths": [1.5, 2.4]}, "accepted_lengths.1 = 2.4: draft 2 must add from 0 to 0.5"),
    ({"draft_tokens": 2, "accepted_lengths": [1.5, 1.4]}, "accepted_lengths.1 = 1.4"),
    ({"draft_tokens": 1, "accepted_lengths": [2.5]}, "accepted_lengths.0 = 2.5: draft 1 must add from 0 to 1"),
    ({"draft_tokens": 1, "acceptance": 0.5, "accepted_lengths": [1.5]}, "acceptance and accepted_lengths: state one"),
    ({"accepted_lengths": [1.5], "acceptance_by_position": [0.5]}, "state one of them"),
    ({"acceptance_by_position": []}, "acceptance_by_position has 0 values"),
    ({"base": "nobody"}, "acceptance: 'nobody' is not in the catalogue"),
    ({"base": "longcat-flash-mt-bench", "acceptance": 0.9}, "leave one of the two out"),
    ({"base": 3}, "deployment.mtp.base = 3"),
    ({"drafter": "nobody"}, "drafters: 'nobody' is not in the catalogue"),
    ({"drafter": 3}, "deployment.mtp.drafter = 3"),
    ({"drafter": {"kind": "eagle3"}}, "deployment.mtp.drafter.model: missing"),
    ({"drafter": {"base": "kimi-k2-eagle3", "kind": "tree"}}, "deployment.mtp.drafter.kind"),
    ({"drafter": {"base": "kimi-k2-eagle3", "markov_rank": 8}}, "only kind dspark"),
    ({"drafter": {"base": "kimi-k2-eagle3", "fused_states": 0}}, "fused_states = 0"),
    ({"draft_tokens": 1, "drafter": {"base": "deepseek-v3-eagle3", "model": {"model_type": "llama"}}}, "missing"),
    ({"draft_tokens": 65, "acceptance": 0.5}, "draft_tokens = 65 must be at most 64"),
    (None, "deployment.mtp"),
    (3, "deployment.mtp"),
]  # fmt: skip


@pytest.mark.parametrize(("mtp", "message"), BAD)
def test_bad_drafts_are_refused_in_one_line(mtp, message):
    with pytest.raises(PerfModelError) as error:
        drafting(mtp)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_drafter_that_does_not_divide_is_refused():
    with pytest.raises(SpecError, match=r"deployment.mtp.drafter: deployment.attention_tp = 16 must divide"):
        drafting(
            {"draft_tokens": 1, "acceptance": 0.5, "drafter": {"base": "deepseek-v3-eagle3"}},
            "deepseek-v3-2x8-h100",
            "deployment.attention_tp=16",
        )


def test_a_model_without_drafts_is_told_how_to_get_some():
    with pytest.raises(SpecError, match=r"deployment.mtp.drafter \(perfmodel show drafters\)"):
        drafting({"draft_tokens": 1, "acceptance": 0.5}, QWEN)


@pytest.mark.parametrize("model", ["/etc/passwd.json", {"base": "a/b"}])
def test_nobody_unknown_names_a_file(model):
    text = json.dumps({"base": BASE, "deployment": {"mtp": {"draft_tokens": 1, "drafter": {"model": model}}}})
    with pytest.raises(SpecError, match=r"drafter.model.* a file can't be named here"):
        scenario_of_text(text)


def test_a_drafters_own_file_is_read(tmp_path):
    config = catalogue.entry("drafters", "kimi-k2-eagle3")["model"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.yaml").write_text(
        json.dumps(
            {
                "base": BASE,
                "deployment": {
                    "mtp": {"draft_tokens": 1, "acceptance": 0.6, "drafter": {"model": "./config.json"}}
                },
            }
        )
    )
    found = load_scenario(tmp_path / "mine.yaml").deployment.mtp.drafter
    assert (found.kind, found.fused_states, found.model.vocab_size) == ("eagle3", 3, 32000)


NAMES = [*catalogue.names("drafters"), *catalogue.names("acceptance")]
OF_A_DRAFTER = ["base", "kind", "model", "fused_states", "markov_rank", "precision"]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.floats(allow_nan=False),
    st.text(max_size=4),
    st.lists(st.floats(-1.0, 4.0), max_size=4),
    st.sampled_from(NAMES),
    st.dictionaries(
        st.sampled_from(OF_A_DRAFTER),
        st.one_of(st.integers(-2, 9), st.sampled_from(["eagle3", "dspark", "bf16", "kimi-k2-eagle3", "x"])),
        max_size=3,
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*MtpDeployment.model_fields, "base"]), VALUES, min_size=1, max_size=3)
)
def test_whatever_is_stated_is_answered_or_refused_in_one_line(mtp):
    scenario = told = None
    try:
        scenario = drafting(mtp)
    except PerfModelError as error:
        told = str(error)
    if scenario is None:
        assert len(told.splitlines()) == 1
    else:
        assert 1.0 <= tokens_per_step(scenario.deployment) <= 1.0 + scenario.deployment.mtp.draft_tokens
