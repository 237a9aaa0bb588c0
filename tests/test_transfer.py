"""MiniMax-M2.5 and Qwen3.5-397B, which no fit sees: every row is answered as it was run, and reported apart."""

import statistics
from collections import Counter

import pytest

from perfmodel.validation import roles, silicon, silicon_2026
from perfmodel.validation.duplicates import repeated
from perfmodel.validation.recorded import recorded_results
from perfmodel.validation.runs import scenario_of, unknown
from perfmodel.validation.setups import setup_of

EVERY = roles.read_published(silicon_2026.FILE)
OWN = [record for record in EVERY if roles.is_transfer(record)]
MINIMAX, QWEN = roles.TRANSFER
TWO_GPUS = ("tp2 dp2 moe_tp1 ep4", "tp4 dp1 moe_tp2 ep2")


def only(**cells):
    return next(r for r in OWN if all(r[name] == value for name, value in cells.items()))


def test_every_row_is_a_scenario_that_loads():
    """One of each set-up; the record below has them all."""
    assert len(OWN) == 357
    assert all(unknown(record) == setup_of(record).not_predicted == "" for record in OWN)
    columns = ("model", "system", "backend_version", "precision", "parallel_or_prefill", "measured", "isl")
    for record in {tuple(own[name] for name in columns): own for own in OWN}.values():
        found = scenario_of(record)
        assert found.deployment.engine == record["backend"]
        d = found.deployment
        ranks = d.attention_tp * d.attention_dp
        assert ranks == d.moe_tp * d.ep
        if record["parallel_or_prefill"] in TWO_GPUS:
            assert ranks == 2
        else:
            assert ranks == int(record["gpus"])


def test_they_are_reported_apart_whatever_their_role():
    suites = Counter()
    for record in OWN:
        kind = silicon._kind(record, silicon_2026.FILE)
        suites[kind] += 1
        if (silicon_2026.FILE, record["id"]) in repeated():
            assert kind == "-repeated"
        else:
            drafts = setup_of(record).settings.get("deployment.mtp.draft_tokens")
            assert kind == ("-noted" if drafts else "-transfer")
    assert suites["-transfer"] > 250
    assert {roles.committed()[silicon_2026.FILE, r["id"]] for r in OWN} == {"fit", "check"}


def test_precision_is_that_of_the_checkpoint():
    """Elements of nvidia/MiniMax-M2.5-NVFP4 by format, https://huggingface.co/nvidia/MiniMax-M2.5-NVFP4: all that is
    four bits wide is experts. Qwen3.5's leaves shared experts and linear attention as they were trained.
    """
    minimax = scenario_of(only(model=MINIMAX, precision="fp4", system="b300_sxm"))
    layer = minimax.model.layers[0]
    experts = (
        minimax.model.num_layers * 3 * layer.moe.num_experts * layer.moe.ffn_size * minimax.model.hidden_size
    )
    assert experts == 2 * 112_340_238_336
    p = minimax.deployment.precision
    assert (p.linear, p.experts, p.kv_cache, p.router) == ("bf16", "fp4", "fp8", "fp32")
    p = scenario_of(only(model=QWEN, precision="fp4")).deployment.precision
    assert (p.linear, p.experts, p.shared_dtype, p.kv_cache, p.state) == (
        "bf16",
        "fp4",
        "bf16",
        "fp8",
        "bf16",
    )
    p = scenario_of(only(model=QWEN, precision="bf16")).deployment.precision
    assert (p.linear, p.experts, p.kv_cache, p.state) == ("bf16", "bf16", "bf16", "fp32")
    p = scenario_of(only(model=QWEN, precision="fp8")).deployment.precision
    assert (p.linear, p.experts, p.kv_cache, p.state) == ("fp8", "fp8", "fp8", "bf16")


@pytest.mark.parametrize(
    ("cells", "layout"),
    [
        ({"system": "b200_sxm", "measured": "2026-04-22", "isl": "1024", "concurrency": "128"}, (2, 1)),
        ({"system": "b200_sxm", "measured": "2026-04-22", "isl": "1024", "concurrency": "256"}, (1, 2)),
        ({"system": "b200_sxm", "measured": "2026-04-22", "isl": "8192", "concurrency": "512"}, (2, 1)),
        ({"system": "b300_sxm", "measured": "2026-04-17", "isl": "8192", "concurrency": "512"}, (2, 1)),
        ({"system": "b300_sxm", "measured": "2026-04-21", "isl": "8192", "concurrency": "512"}, (1, 2)),
    ],
)
def test_two_gpus_are_as_the_search_space_of_that_day_has_them(cells, layout):
    d = scenario_of(only(model=MINIMAX, parallel_or_prefill=TWO_GPUS[0], **cells)).deployment
    assert (d.attention_tp, d.attention_dp) == layout
    assert (d.moe_tp, d.ep) == (1, 2)


def test_drafts_are_answered_and_put_with_the_noted_rows():
    drafted = [r for r in OWN if setup_of(r).remark]
    assert {(r["model"], r["backend_version"], r["parallel_or_prefill"]) for r in drafted} == {
        (QWEN, "0.5.9", "tp4 dp1 moe_tp4 ep1")
    }
    own = next(r for r in drafted if r["concurrency"] == "4" and r["osl"] == "1024" and r["measured"])
    rows = silicon.predict_rows([own], suite="s", role=lambda _: "check", file=silicon_2026.FILE)
    assert {row.suite for row in rows} == {"s-noted"}
    assert all("ran with MTP" in row.reason and row.predicted for row in rows)
    assert "deployment.mtp.draft_tokens=3" in rows[0].settings


# --- what is on record ------------------------------------------------------------------------------------------------

ROWS = [row for row in recorded_results().rows if row.suite.startswith("silicon-2026")]


def test_95_percent_of_the_file_are_answered():
    """Every figure of every row, repeated and noted ones too."""
    assert len({row.id for row in ROWS}) == len(EVERY) == 596
    answered = sum(row.predicted is not None for row in ROWS)
    assert answered >= 0.95 * len(ROWS)
    assert {row.id for row in ROWS if row.predicted is None} <= {
        r["id"] for r in EVERY if not roles.is_transfer(r)
    }


@pytest.mark.parametrize("model", [None, *roles.TRANSFER])
def test_tpot_of_transfer_models_is_within_12_percent_in_the_median(model):
    errors = [
        abs(row.error_pct)
        for row in ROWS
        if row.suite == "silicon-2026-transfer" and row.quantity == "tpot_s" and model in (None, row.model)
    ]
    assert len(errors) > 50
    assert statistics.median(errors) < 12.0
