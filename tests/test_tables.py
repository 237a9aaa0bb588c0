"""Interpolated tables: what lies between, below and above the grid, how they are kept, and which one answers."""

import hashlib
import io
import json
import pickle
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

import perfmodel
from perfmodel.answers.step import answer_step
from perfmodel.errors import DataError
from perfmodel.kernels.calibration import INSIDE, MODULES, Calibration
from perfmodel.kernels.calibration_file import content_id, load_calibration, parse
from perfmodel.kernels.cost import cost
from perfmodel.kernels.table_file import FILE, Store, pack, table_curve_document, table_curve_from, unpack
from perfmodel.kernels.tables import Table, TableCurve
from perfmodel.load import build_scenario, load_scenario
from perfmodel.ops.build import gemm
from perfmodel.ops.moe import expert_ops
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.spec import catalogue
from perfmodel.step import step_segments

CLUSTER = load_scenario("longcat-flash-h800").cluster
GRIDS = (
    {"m": [1, 4, 64, 100]},
    {"m": [1, 2, 3, 50], "n": [128, 4096]},
    {"m": [1, 8, 64], "n": [7, 90, 2000], "k": [128, 1000]},
)


def grown(shape, seed=0):
    """Random values that never fall along any axis."""
    values = np.random.default_rng(seed).exponential(0.3, shape)
    for axis in range(values.ndim):
        values = np.cumsum(values, axis=axis)
    return values - 13.0


def made_table(axes, seed=0, match=None):
    points = {name: np.array(values, dtype=float) for name, values in axes.items()}
    return Table(points, grown(tuple(len(values) for values in points.values()), seed), match or {})


def power_table(axes, unit=1e-6, match=None, powers=None):
    """Time = unit x product of axes (to ``powers``): exact between the points too."""
    points = {name: np.array(values, dtype=float) for name, values in axes.items()}
    logs = [np.log(values) * (powers or {}).get(name, 1.0) for name, values in points.items()]
    total = np.log(unit) + sum(np.meshgrid(*logs, indexing="ij"))
    return Table(points, np.asarray(total), match or {})


def made_curve(*tables, **changes):
    values = {
        "kernel": "gemm", "dtype": "bf16", "backend": "", "engine": "", "scale_by": (), "exact": (), "includes": (),
        "log_std": 0.1, "num_rows": 50, "median_error_pct": 5.0, "p90_error_pct": 12.0, "source": "invented",
    }  # fmt: skip
    return TableCurve(tables=tables, **(values | changes))


# --- one table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", GRIDS)
def test_inside_it_is_linear_in_the_logs_as_scipy_says(axes):
    table = made_table(axes, seed=len(axes))
    logs = [np.log(np.array(points, dtype=float)) for points in axes.values()]
    oracle = RegularGridInterpolator(logs, table.log_seconds)
    asked = np.random.default_rng(1).uniform(
        [log[0] for log in logs], [log[-1] for log in logs], (200, len(logs))
    )
    corners = np.array(list(product(*logs)))  # the grid's own points, edges included
    for points in (asked, corners):
        variables = dict(zip(axes, np.exp(points).T, strict=True))
        clipped = np.clip(points, [log[0] for log in logs], [log[-1] for log in logs])
        assert np.allclose(np.log(table.seconds(variables)), oracle(clipped), rtol=0, atol=1e-12)


def linear_table(axes, fixed=5e-6, unit=1e-9):
    """Time = a fixed cost + work, the product of the axes (of a prompt's length: its square)."""
    points = {name: np.array(values, dtype=float) for name, values in axes.items()}
    powers = {"new_tokens": 2.0}
    each = [values ** powers.get(name, 1.0) for name, values in points.items()]
    product_ = np.prod(np.meshgrid(*each, indexing="ij"), axis=0)
    return Table(points, np.log(fixed + unit * product_))


def test_below_the_grid_the_edge_holds():
    axes = {"m": [4, 16, 64], "n": [100, 1000]}
    table = made_table(axes)

    def at(m, n):
        return table.seconds({"m": m, "n": n})

    assert at(1, 500) == at(4, 500)
    assert at(0, 500) == at(4, 500)  # nothing to do is not the logarithm of nothing
    assert at(2, 3) == pytest.approx(table.fixed_s)
    assert at(1, 5000) == at(4, 5000)


def test_fewer_experts_than_were_timed_take_less_and_are_flagged():
    """Measured tables without their first point: proportion meets it better than the point beside it does."""
    curve = next(
        one
        for one in load_calibration("a100-sxm", "sglang").whole()
        if one.kernel == "grouped_gemm" and one.dtype == "bf16"
    )
    launch = Table(
        {"rows_per_group": np.ones(1), "groups": np.ones(1)},
        np.full((1, 1), np.log(curve.fixed_s)),
        {"hidden": 1.0, "width": 1.0, "skew": 0.0},  # far from every model
    )
    errors, held = [], []
    for table in curve.tables:
        points, rows = table.axes["groups"], table.axes["rows_per_group"]
        if len(points) < 2:
            continue
        axis = list(table.axes).index("groups")
        left = np.delete(table.log_seconds, 0, axis=axis)
        cut = replace(curve, tables=(Table({**table.axes, "groups": points[1:]}, left, table.match), launch))
        for row in rows[::2]:
            asked = {**table.match, "rows_per_group": row, "groups": points[0]}
            truth, edge = table.seconds(asked), table.seconds({**asked, "groups": points[1]})
            if edge > 10.0 * curve.fixed_s:
                errors.append(abs(np.log(cut.seconds(asked) / truth)))
                held.append(abs(np.log(edge / truth)))
                assert "below the timed" in cut.outside(asked)
    assert len(errors) > 50
    assert np.median(errors) < 0.5 * np.median(held)


def test_one_wide_expert_reads_its_own_weights():
    """Mixtral's, 16,384 wide, were timed on A100 eight at a time; one reads an eighth of what they read."""
    document = {
        "name": "one-wide-expert-per-gpu",
        "model": "mixtral-8x22b",
        "cluster": "a100-ib",
        "engine": "sglang",
        "prices": {"usd_per_gpu_hour": 2.0},
        "deployment": {"attention_dp": 8, "ep": 8, "batch_per_gpu": 8, "context_tokens": 1536},
    }
    answer = answer_step(build_scenario(document))
    runs = [run for segment in answer.step.segments for run in segment.tasks if "experts." in run.op.name]
    calibration, cluster = answer.step.places[0].calibration, answer.step.places[0].cluster
    for op in {run.op.name: run.op for run in runs if run.op.kernel == "grouped_gemm"}.values():
        least = op.hbm_bytes / (cluster.gpu.hbm_gb_per_s * 1e9)
        assert least < calibration.cost(op, cluster).seconds < 2.0 * least
    assert any("experts' GEMMs (groups 1; timed from 8)" in text for text in answer.values["dangers"])


@pytest.mark.parametrize("shape", [(256, 4096), (64, 99999), (2000, 1024), (2000, 99999), (16, 99999)])
def test_above_the_grid_what_is_fixed_stays_fixed(shape):
    m, n = shape
    table = linear_table({"m": [1, 16, 32, 64], "n": [128, 512, 1024, 2048, 4096]})
    truth = 5e-6 + 1e-9 * m * n
    inside = m in (1, 16, 32, 64) or n in (128, 512, 1024, 2048, 4096)
    assert table.seconds({"m": m, "n": n}) == pytest.approx(truth, rel=1e-9 if inside else 0.06)


def test_a_prompt_beyond_the_grid_grows_with_its_square():
    table = linear_table({"new_tokens": [1024, 2048, 4096], "requests": [1, 2, 4]}, unit=1e-13)
    assert table.seconds({"new_tokens": 16384, "requests": 2}) == pytest.approx(5e-6 + 1e-13 * 16384**2 * 2)


def test_a_single_point_says_nothing_of_a_fixed_cost():
    table = made_table({"m": [64], "n": [100, 1000]})
    assert table.seconds({"m": 128, "n": 300}) == pytest.approx(
        2 * table.seconds({"m": 64, "n": 300}), rel=0.2
    )
    assert table.seconds({"m": 128, "n": 100}) == pytest.approx(2 * table.seconds({"m": 64, "n": 100}))


def test_steeper_than_proportional_at_the_edge_is_a_step_not_a_slope():
    table = Table({"m": np.array([1.0, 2.0, 4.0])}, np.log([1e-6, 1.1e-6, 9e-6]))
    assert table.seconds({"m": 8}) == pytest.approx(18e-6)
    flat = Table({"m": np.array([1.0, 2.0, 4.0, 8.0])}, np.log([1e-6, 2e-6, 4e-6, 4e-6]))
    assert flat.seconds({"m": 16}) > 5e-6  # its last point repeats its neighbour


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    point=st.lists(st.floats(-2.0, 12.0), min_size=3, max_size=3),
    more=st.lists(st.floats(0.0, 3.0), min_size=3, max_size=3),
)
def test_more_work_is_never_faster(seed, sizes, point, more):
    random = np.random.default_rng(seed)
    axes = {f"x{i}": np.exp(np.cumsum(random.uniform(0.1, 2.0, size))) for i, size in enumerate(sizes)}
    table = made_table(axes, seed)
    less = {name: float(np.exp(log)) for name, log in zip(axes, point, strict=False)}
    grown_ = {name: less[name] * float(np.exp(step)) for name, step in zip(axes, more, strict=False)}
    assert table.seconds(grown_) >= table.seconds(less) * (1 - 1e-12)


def test_scalars_and_arrays_agree():
    table = made_table(GRIDS[2])
    random = np.random.default_rng(2)
    shape = {name: np.exp(random.uniform(-1, 9, 40)) for name in table.axes}
    together = table.seconds(shape)
    for i in range(40):
        alone = table.seconds({name: float(values[i]) for name, values in shape.items()})
        assert isinstance(alone, float)
        assert alone == pytest.approx(together[i], rel=1e-13)
    mixed = table.seconds({**shape, "n": 90.0})  # an array beside a plain number
    assert mixed[3] == pytest.approx(table.seconds({"m": shape["m"][3], "n": 90.0, "k": shape["k"][3]}))


@pytest.mark.parametrize(
    ("axes", "values", "message"),
    [
        ({"m": [1, 2, 4]}, [0.0, 1.0, 0.9], "falls along m"),
        ({"m": [1, 2], "n": [1, 2]}, [[0.0, 0.5], [0.6, 0.4]], "falls along"),
        ({"m": [1, 2], "n": [1, 2]}, [[0.0, -0.1], [0.6, 0.7]], "falls along n"),
        ({"m": [1, 2, 4]}, [0.0, 1.0], "values for axes"),
        ({"m": [1, 2, 4]}, [[0.0, 1.0, 2.0]], "values for axes"),
        ({"m": [1, 2]}, [0.0, np.nan], "finite"),
        ({"m": [1, 2]}, [0.0, np.inf], "finite"),
        ({"m": [2, 1]}, [0.0, 1.0], "increasing"),
        ({"m": [1, 1]}, [0.0, 1.0], "increasing"),
        ({"m": [0, 1]}, [0.0, 1.0], "above 0"),
        ({"m": []}, [], "axis m"),
    ],
)
def test_a_grid_that_is_none_is_refused(axes, values, message):
    points = {name: np.array(own, dtype=float) for name, own in axes.items()}
    with pytest.raises(DataError, match=message):
        Table(points, np.array(values))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-20.0, 12.0), min_size=1, max_size=20))
def test_packing_keeps_a_time_within_half_a_thousandth(logs):
    values = np.array(logs)
    packed = pack(values)
    assert packed.dtype == np.int16
    assert np.abs(unpack(packed) - values).max() < 0.5001e-3


@pytest.mark.parametrize("seconds", [0.9e-9 / 2, 3e5])
def test_times_that_do_not_fit_are_refused(seconds):
    with pytest.raises(DataError, match="between 1 ns"):
        pack(np.log([seconds]))


# --- several tables ------------------------------------------------------------------------------------------

WIDTHS = tuple(
    power_table({"rows": [1, 10, 1000]}, unit=width * 1e-8, match={"width": width})
    for width in (100.0, 800.0)
)


def test_the_nearest_table_answers_scaled_beyond_its_fixed_part():
    curve = made_curve(*WIDTHS, scale_by=("width",))
    for width, own in ((100.0, 0), (800.0, 1), (150.0, 0), (2000.0, 1)):
        table = WIDTHS[own]
        whole, fixed = table.seconds({"rows": 500.0}), table.fixed_s
        expected = fixed + (whole - fixed) * width / table.match["width"]
        assert curve.seconds({"rows": 500.0, "width": width}) == pytest.approx(expected)
        assert curve.seconds({"rows": 1.0, "width": width}) == pytest.approx(fixed)  # a launch is not wider
    unscaled = made_curve(*WIDTHS)
    assert unscaled.seconds({"rows": 500.0, "width": 150.0}) == WIDTHS[0].seconds({"rows": 500.0})
    rows = np.array([1.0, 20.0, 3000.0])
    together = curve.seconds({"rows": rows, "width": 150.0})
    assert together == pytest.approx([curve.seconds({"rows": row, "width": 150.0}) for row in rows])


def test_scaling_is_by_the_product_of_the_dimensions():
    match = {"hidden": 10.0, "width": 20.0}
    curve = made_curve(power_table({"rows": [1, 100]}, match=match), scale_by=("hidden", "width"))
    whole, fixed = curve.seconds({"rows": 50.0} | match), curve.fixed_s
    assert curve.seconds({"rows": 50.0, "hidden": 30.0, "width": 40.0}) == pytest.approx(
        fixed + 6 * (whole - fixed)
    )


def test_an_exact_dimension_must_be_a_tables_own():
    tables = [
        power_table({"bytes": [1, 1e6]}, unit=ranks * 1e-6, match={"ranks": ranks, "other": other})
        for ranks, other in ((2.0, 5.0), (8.0, 900.0))
    ]
    curve = made_curve(*tables, kernel="all_gather", dtype="any", backend="nccl", exact=("ranks",))
    assert curve.covers({"bytes": 10.0, "ranks": 8.0, "other": 5.0})
    assert not curve.covers({"bytes": 10.0, "ranks": 4.0, "other": 5.0})
    # the exact one decides, however far the rest is
    assert curve.seconds({"bytes": 10.0, "ranks": 8.0, "other": 5.0}) == pytest.approx(8e-5)
    calibration = loaded(curve)
    op = Op("x", OpClass.TP_COMMUNICATION, "all_gather", Stream.LINK, backend="nccl", dtype="bf16")
    for ranks, answered in ((8.0, True), (4.0, False)):
        shaped = replace(op, shape={"bytes": 10.0, "ranks": ranks, "other": 5.0})
        assert (calibration.cost(shaped, CLUSTER) is not None) == answered
        assert cost(shaped, CLUSTER, calibration=calibration).calibrated == answered


def test_outside_names_what_was_not_measured():
    curve = made_curve(*WIDTHS, scale_by=("width",))
    assert curve.outside({"rows": 500.0, "width": 800.0}) == ""
    assert curve.outside({"rows": 0.5, "width": 800.0}) == ""  # below, the edge is a launch
    assert "rows = 2000 is above the timed 1 to 1000" in curve.outside({"rows": 2000.0, "width": 800.0})
    assert "rows = 2000" in curve.outside({"rows": np.array([1.0, 2000.0]), "width": 800.0})
    assert curve.outside({"rows": 5.0, "width": 150.0}) == "width = 150 is scaled from the timed 100"
    op = replace(
        gemm("x", OpClass.HEAD, m=1.0, n=1.0, k=1.0, dtype="bf16"), shape={"rows": 2e3, "width": 800.0}
    )
    flagged = loaded(curve, made_curve(*WIDTHS, dtype="fp8", flag="derived"))
    assert "rows = 2000 is above" in flagged.cost(op, CLUSTER).flag
    assert "derived" in flagged.cost(replace(op, dtype="fp8"), CLUSTER).flag


def test_between_two_tables_of_the_same_other_dimensions_time_is_interpolated():
    places = [
        ({"hidden": hidden, "width": width}, hidden * width)
        for hidden in (100.0, 300.0)
        for width in (10.0, 40.0)
    ]
    tables = [
        power_table({"rows": [1, 1000]}, unit=1e-8 * scale**0.5, match=match) for match, scale in places
    ]
    curve = made_curve(*tables, scale_by=("hidden", "width"), between="width")
    own = {"rows": 10.0, "hidden": 100.0}
    low, high = (curve.seconds({**own, "width": width}) for width in (10.0, 40.0))
    assert curve.seconds({**own, "width": 20.0}) == pytest.approx((low * high) ** 0.5)
    assert curve.seconds({**own, "width": 36.0}) == pytest.approx(low * 3.6**0.5, rel=1e-3)
    assert curve.outside({**own, "width": 20.0}) == "width = 20 lies between the timed 10 and 40"
    assert curve.outside({**own, "width": 10.0}) == ""
    plain = replace(curve, between="")
    for width in (5.0, 10.0, 40.0, 80.0):  # at and beyond what was timed as ever
        assert curve.seconds({**own, "width": width}) == plain.seconds({**own, "width": width})
    store = Store()
    document = table_curve_document(curve, store)
    assert table_curve_from(document, store.arrays(), "x").between == "width"


def test_a_shape_that_lacks_what_a_table_asks_for_is_said():
    for variables in ({"rows": 1.0}, {"width": 100.0}):
        with pytest.raises(DataError, match=r"gemm bf16: asks for '(width|rows)'"):
            made_curve(*WIDTHS, scale_by=("width",)).seconds(variables)


def test_tables_of_one_curve_match_by_the_same_dimensions():
    other = power_table({"rows": [1, 10]}, match={"hidden": 3.0})
    with pytest.raises(DataError, match="same dimensions"):
        made_curve(WIDTHS[0], other)


@pytest.mark.parametrize("kernel", ["mla_decode", "gqa_decode", "mla_module_decode"])
def test_several_new_tokens_of_a_decode_cost_what_as_many_heads_do(kernel):
    axes = {"context": [100, 10000], "requests": [1, 100], "heads": [8, 128]}
    curve = made_curve(made_table(axes), kernel=kernel)
    shape = {"context": 3000.0, "requests": 30.0}
    for tokens in (1.0, 2.0, 3.0):
        several = curve.seconds({**shape, "heads": 16.0, "new_tokens": tokens})
        assert several == curve.seconds({**shape, "heads": 16.0 * tokens, "new_tokens": 1.0})
    assert curve.seconds({**shape, "heads": 16.0, "new_tokens": 2.0}) > curve.seconds(
        {**shape, "heads": 16.0}
    )
    by_heads = [power_table({"context": [1, 1e4]}, unit=h * 1e-6, match={"heads": h}) for h in (16.0, 32.0)]
    matched = made_curve(*by_heads, kernel=kernel)
    assert matched.seconds({"context": 10.0, "heads": 16.0, "new_tokens": 2.0}) == pytest.approx(32e-5)
    assert matched.outside({"context": 10.0, "heads": 16.0, "new_tokens": 2.0}) == ""


@pytest.mark.parametrize(
    ("new", "cached", "whole"),
    [(1.0, 0.0, 1.0), (777.0, 0.0, 777.0), (3.0, 3.0, 5.0), (3.0, 10.0, 8.0), (6.0, 17.0, 15.0 + 33 / 256)],
)
def test_a_prompt_behind_a_prefix_costs_what_a_prompt_of_as_many_pairs_does(new, cached, whole):
    """Pairs: n c + n (n + 1) / 2 = p (p + 1) / 2; for 3 behind 3, 15 = 5 x 6 / 2, for 3 behind 10, 36 = 8 x 9 / 2."""
    pairs = sum(cached + i for i in range(1, int(new) + 1))
    if whole == int(whole):
        assert pairs == whole * (whole + 1) / 2
    else:
        whole = (np.sqrt(1 + 8 * pairs) - 1) / 2
    for kernel in ("mla_prefill", "gqa_prefill", "mla_module_prefill"):
        curve = made_curve(power_table({"new_tokens": [1, 1e4]}, powers={"new_tokens": 1.7}), kernel=kernel)
        seconds = curve.seconds({"new_tokens": new, "context": cached + new})
        assert seconds == pytest.approx(1e-6 * whole**1.7)
    other = made_curve(power_table({"new_tokens": [1, 1e4]}), kernel="gemm")
    assert other.seconds({"new_tokens": new, "context": cached + new}) == pytest.approx(1e-6 * new)


# --- on disk -------------------------------------------------------------------------------------------------


def document(curves, stated):
    content = {
        "format": 2,
        "created": "2026-11-24T10:00:00+00:00",
        "perfmodel": perfmodel.__version__,
        "source": "invented",
        "clock": {"repeat_log_std": 0.02},
        "cluster": CLUSTER.model_dump(mode="json"),
        "contention": {"compute_held": 0.0},
        "curves": curves,
        "tables": stated,
    }
    return content | {"id": content_id(content)}


def written(folder, curves, npz=None):
    """A calibration folder; ``npz`` replaces the bytes of the tables, with a digest that fits."""
    store = Store()
    documents = [table_curve_document(curve, store) for curve in curves]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **store.arrays())
    content = buffer.getvalue() if npz is None else npz
    folder.mkdir()
    (folder / FILE).write_bytes(content)
    stated = {"file": FILE, "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "calibration.json").write_text(json.dumps(document(documents, stated)))
    return folder


def loaded(*curves) -> Calibration:
    """A calibration of curves, as it comes out of its file."""
    store = Store()
    documents = [table_curve_document(curve, store) for curve in curves]
    return parse(document(documents, {"sha256": ""}), name="mine", arrays=store.arrays())


FULL = made_curve(
    made_table(GRIDS[2], seed=4, match={"width": 64.0}),
    made_table(GRIDS[2], seed=5, match={"width": 128.0}),
    kernel="grouped_gemm", dtype="fp8", backend="fused", engine="sglang", scale_by=("width",), exact=("width",),
    includes=("activation", "permute"), flag="one table", note="kept",
)  # fmt: skip


def test_a_folder_gives_back_what_was_written(tmp_path):
    plain = made_curve(made_table(GRIDS[0]))
    calibration = load_calibration(str(written(tmp_path / "mine", [FULL, plain])))
    back = calibration.all_curves[0]
    for name in ("kernel", "dtype", "backend", "engine", "scale_by", "exact", "includes", "log_std", "num_rows",
                 "median_error_pct", "p90_error_pct", "source", "flag", "note"):  # fmt: skip
        assert getattr(back, name) == getattr(FULL, name), name
    assert [table.match for table in back.tables] == [table.match for table in FULL.tables]
    random = np.random.default_rng(3)
    for curve, own in zip((FULL, plain), calibration.all_curves, strict=True):
        shape = {name: np.exp(random.uniform(0, 9, 50)) for name in ("m", "n", "k")} | {"width": 128.0}
        assert np.allclose(own.seconds(shape), curve.seconds(shape), rtol=0.03, atol=0)  # slopes: 16 bits


def test_tables_that_are_damaged_missing_or_others_are_refused(tmp_path):
    folder = written(tmp_path / "mine", [FULL])
    file, whole = folder / FILE, (folder / FILE).read_bytes()
    for number, content in enumerate((whole[:-1], whole[:100] + b"x" + whole[101:], b"", None)):
        copy = tmp_path / f"copy{number}"
        copy.mkdir()
        (copy / "calibration.json").write_bytes((folder / "calibration.json").read_bytes())
        if content is not None:
            (copy / FILE).write_bytes(content)
        with pytest.raises(DataError, match=r"not the tables|can't be read"):
            load_calibration(str(copy))
    assert load_calibration(str(folder)).all_curves
    assert file.read_bytes() == whole


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_pickle_is_never_loaded(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # the payload works
    mark.unlink()
    buffer = io.BytesIO()
    np.savez(
        buffer, values=np.array([Payload(mark)], dtype=object), points=np.array([Payload(mark)], dtype=object)
    )
    whole = pickle.dumps(Payload(mark))
    for number, content in enumerate((buffer.getvalue(), whole)):
        folder = written(tmp_path / f"bad{number}", [FULL], npz=content)
        with pytest.raises(ValueError):  # a DataError is one
            load_calibration(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda curve: curve.pop("engine"),
        lambda curve: curve.pop("includes"),
        lambda curve: curve["tables"][0].pop("at"),
        lambda curve: curve["tables"][0].update(at="elsewhere"),
        lambda curve: curve["tables"][0].update(at=10**6),
        lambda curve: curve["tables"][1].update(at=curve["tables"][1]["at"] + 1),
        lambda curve: curve["tables"][0]["axes"].update(k=[10**6, 2]),
        lambda curve: curve["tables"][0]["axes"].update(k=[0]),
        lambda curve: curve["tables"][0]["axes"].update(m=[0, 5]),
        lambda curve: curve["tables"][0].update(axes=[1, 2]),
        lambda curve: curve["tables"][0]["axes"].update(m=["one", 2, 3]),
        lambda curve: curve["tables"][0].update(match={}),
        lambda curve: curve.update(rows="many"),
        lambda curve: curve.update(log_std=None),
    ],
)
def test_a_malformed_curve_is_refused(damage):
    store = Store()
    curve, arrays = table_curve_document(FULL, store), store.arrays()
    assert table_curve_from(curve, arrays, "file").kernel == "grouped_gemm"
    damage(curve)
    with pytest.raises(DataError):
        table_curve_from(curve, arrays, "file")


def test_equal_axes_are_kept_once_and_values_lie_one_after_the_other():
    store = Store()
    curve = table_curve_document(FULL, store)
    arrays = store.arrays()
    assert arrays["points"].size == sum(len(points) for points in GRIDS[2].values())
    assert arrays["values"].size == sum(table.log_seconds.size for table in FULL.tables)
    assert [table["at"] for table in curve["tables"]] == [0, FULL.tables[0].log_seconds.size]


# --- which curve answers -------------------------------------------------------------------------------------


def constant(seconds, **changes):
    """A curve that always takes ``seconds`` (to a thousandth)."""
    return made_curve(Table({"m": np.array([1.0])}, np.log(np.array([seconds]))), **changes)


def op_of(kernel, dtype="fp8", backend="", **changes):
    shape = {"m": 1.0, "bytes": 1.0, "ranks": 8.0, "heads": 16.0}
    values = {"hbm_bytes": 1.0, "dtype": dtype, "backend": backend, "shape": shape}
    return Op("x", OpClass.EXPERTS, kernel, Stream.COMPUTE, **(values | changes))


def takes(calibration, op):
    timing = calibration.cost(op, CLUSTER)
    return None if timing is None else pytest.approx(timing.seconds, rel=2e-3)


def test_an_engines_own_kernel_answers_then_nobodys_then_the_first():
    curves = [
        constant(1e-6, engine="trtllm"),
        constant(2e-6, engine="sglang"),
        constant(3e-6, engine="vllm", dtype="fp8"),
        constant(4e-6, dtype="fp8"),
    ]
    calibration = loaded(*curves)
    bf16, fp8 = op_of("gemm", "bf16"), op_of("gemm", "fp8")
    for engine, first, second in (
        ("", 1e-6, 4e-6), ("sglang", 2e-6, 4e-6), ("trtllm", 1e-6, 4e-6), ("vllm", 1e-6, 3e-6),
    ):  # fmt: skip
        own = calibration.for_engine(engine)
        assert takes(own, bf16) == first
        assert takes(own, fp8) == second
        assert own.engine == engine
    assert takes(calibration.for_engine("vllm").for_engine("sglang"), fp8) == 4e-6


@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_load_calibration_answers_for_the_engine_that_is_asked(tmp_path, engine):
    folder = written(tmp_path / "mine", [constant(1e-6, engine="trtllm"), constant(2e-6, engine="sglang")])
    expected = {"sglang": 2e-6, "trtllm": 1e-6}[engine]
    assert takes(load_calibration(str(folder), engine), op_of("gemm", "bf16")) == expected


def test_a_layout_that_was_not_measured_takes_the_next_one():
    def experts(*layouts):
        curves = [constant((i + 1) * 1e-6, kernel="grouped_gemm", dtype="fp8", backend=layout)
                  for i, layout in enumerate(layouts)]  # fmt: skip
        return loaded(*curves)

    everything = experts("masked", "contiguous", "wideep", "fused", "cutlass", "deepgemm")
    for number, layout in enumerate(("masked", "contiguous", "wideep", "fused", "cutlass", "deepgemm")):
        assert takes(everything, op_of("grouped_gemm", backend=layout)) == (number + 1) * 1e-6
    for layouts, asked, number in (
        (("wideep", "fused"), "masked", 0),
        (("fused", "wideep"), "contiguous", 1),
        (("wideep", "masked"), "fused", 0),
        (("wideep", "fused"), "cutlass", 1),
        (("fused", "cutlass"), "deepgemm", 0),
    ):
        assert takes(experts(*layouts), op_of("grouped_gemm", backend=asked)) == (number + 1) * 1e-6
    assert takes(experts("cutlass"), op_of("grouped_gemm", backend="fused")) is None
    assert takes(experts("masked"), op_of("grouped_gemm", "bf16", backend="masked")) is None


def test_a_transfer_takes_its_own_library_alone():
    link = {"stream": Stream.LINK}

    def transfer(kernel, backend):
        base = op_of(kernel, backend=backend)
        return Op(
            "x",
            base.op_class,
            kernel,
            link_bytes=1.0,
            dtype="bf16",
            backend=backend,
            shape=base.shape,
            **link,
        )

    curves = [
        constant(1e-6, kernel="all_gather", dtype="any"),
        constant(2e-6, kernel="dispatch", dtype="any"),
        constant(3e-6, kernel="combine", dtype="any", backend="deepep-normal"),
    ]
    calibration = loaded(*curves)
    assert takes(calibration, transfer("all_gather", "nccl")) == 1e-6  # torch.distributed's own library
    assert takes(calibration, transfer("all_gather", "nvls")) is None
    assert takes(calibration, transfer("dispatch", "deepep-normal")) is None
    assert takes(calibration, transfer("combine", "deepep-normal")) == 3e-6
    assert takes(calibration, transfer("combine", "deepep-low-latency")) is None


def test_what_a_fused_kernel_includes_costs_nothing_and_counts_as_calibrated():
    key = ("grouped_gemm", "fp8", "fused")
    fused = constant(
        9e-6, kernel="grouped_gemm", dtype="fp8", backend="fused", includes=("activation", "permute")
    )
    calibration = loaded(fused)
    inside = calibration.cost(op_of("activation", "bf16", inside=(key,)), CLUSTER)
    assert (inside.seconds, inside.calibrated, inside.log_std) == (0.0, True, 0.0)
    assert inside.source.startswith(INSIDE)
    assert "grouped_gemm" in inside.source
    for op in (
        op_of("activation", "bf16"),  # inside nothing
        op_of("unpermute", "bf16", inside=(key,)),  # not among what the curve includes
        op_of("activation", "bf16", inside=(("grouped_gemm", "bf16", "fused"),)),  # no such curve
    ):
        assert calibration.cost(op, CLUSTER) is None
    alone = loaded(constant(9e-6, kernel="grouped_gemm", dtype="fp8", backend="fused"))
    assert alone.cost(op_of("activation", "bf16", inside=(key,)), CLUSTER) is None


def test_an_experts_two_products_share_the_time_of_the_whole():
    axes = {"rows_per_group": [1, 10, 1e3, 1e5], "groups": [1, 10, 300]}
    table = made_table(axes, match={"hidden": 6144.0, "width": 2048.0, "skew": 0.0})
    included = ("activation", "permute", "unpermute", "reorder")
    whole = made_curve(table, kernel="grouped_gemm", dtype="fp8", backend="fused", includes=included)
    scenario = load_scenario(
        "longcat-flash-h800", ["deployment.all_to_all=all-gather", "deployment.overlap=sequential"]
    )
    assert scenario.deployment.expert_layout == "fused"
    ops = expert_ops(scenario.model.moe, 64.0, 1.0, scenario)
    assert {op.kernel for op in ops} == {"grouped_gemm", "activation", "permute", "unpermute"}
    timings = [loaded(whole).cost(op, CLUSTER) for op in ops]
    assert all(timing.calibrated for timing in timings)
    products = [op for op in ops if op.kernel == "grouped_gemm"]
    expected = whole.seconds(products[0].shape)
    assert sum(timing.seconds for timing in timings) == pytest.approx(expected, rel=2e-3)
    shares = [t.seconds / expected for op, t in zip(ops, timings, strict=True) if op.kernel == "grouped_gemm"]
    assert shares == pytest.approx([2 / 3, 1 / 3], rel=2e-3)
    alone = loaded(replace(whole, includes=()))  # each product timed by itself: no share
    assert alone.cost(products[0], CLUSTER).seconds == pytest.approx(expected, rel=2e-3)


def test_an_engines_module_stands_for_its_attention_and_for_no_other_engines():
    module = ("mla_module_decode", "fp8", "bf16")
    around = ("gemm", "bmm")
    curves = [
        constant(
            5e-6, kernel=module[0], dtype=module[1], backend=module[2], engine="trtllm", includes=around
        ),
        constant(1e-6, kernel="mla_decode", dtype="bf16"),
        constant(2e-6, kernel="gemm", dtype="fp8"),
    ]
    calibration = loaded(*curves)
    core = op_of("mla_decode", "bf16", inside=(module,))
    product_ = op_of("gemm", "fp8", inside=(module,))
    assert MODULES[module[0]] == core.kernel
    own = calibration.for_engine("trtllm")
    assert takes(own, core) == 5e-6
    assert own.cost(product_, CLUSTER).seconds == 0.0
    assert takes(own, op_of("mla_decode", "bf16")) == 1e-6  # an attention that nothing may stand for
    for engine in ("", "sglang", "vllm"):
        other = calibration.for_engine(engine)
        assert takes(other, core) == 1e-6
        assert takes(other, product_) == 2e-6


# --- calibrations that ship ----------------------------------------------------------------------------------

SHIPPED = [
    name
    for name in catalogue.names("calibrations")
    if (catalogue.calibration_path(name).parent / FILE).is_file()
]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_calibration_reads_and_answers_everywhere(name):
    """All tables pass their own checks on reading; no query, however odd, gives anything but a time."""
    calibration = load_calibration(name)
    assert calibration.id == content_id(
        calibration.document
    )  # which is not asked of those that ship when they are read
    curves = [curve for curve in calibration.all_curves if isinstance(curve, TableCurve)]
    known = {"gemm"} if name.startswith("mi3") else {"gemm", "grouped_gemm", "mla_decode", "all_reduce"}
    assert known <= {curve.kernel for curve in curves}  # of AMD's only products were published as timings
    odd = np.array([0.0, 1.0, 3.7, 1e3, 1e7])
    for curve in curves:
        assert len(tuple(curve.tables)) == len(curve.tables)
        table = curve.tables[len(curve.tables) // 2]
        shape = {"new_tokens": 1.0, "context": odd, "heads": 16.0}
        shape |= dict.fromkeys(table.axes, odd) | dict(table.match)
        shape["context"] = np.maximum(shape["context"], shape["new_tokens"])
        seconds = np.asarray(curve.seconds(shape))
        assert np.all(np.isfinite(seconds)), (curve.kernel, curve.dtype)
        assert np.all(seconds > 0.0)
        assert curve.log_std > 0.0
        assert curve.source


def test_there_are_shipped_calibrations():
    assert {"h100-sxm", "h800-sxm"} <= set(SHIPPED)


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
def test_norm_and_rope_cost_their_own_beside_sglangs_core(engine):
    """LongCat's attentions, which no measured module holds: a launch each, and bytes."""
    scenario = load_scenario(
        "longcat-flash-h800",
        ["deployment.batch_per_gpu=8", f"deployment.engine={engine}", "deployment.host.node_us=0"],
    )
    timings = {
        task.op.name: timing
        for segment in step_segments(scenario)
        for task, timing in zip(segment.tasks, segment.timings, strict=True)
    }
    for name in ("latent_norm", "rope_cache"):
        assert timings[f"attention0.{name}"].seconds == pytest.approx(3.1e-6, rel=0.05)
    whole = load_scenario("deepseek-v3-h800", ["deployment.overlap=sequential", "deployment.host.node_us=0"])
    layers = max(step_segments(whole), key=lambda segment: segment.repeat)
    inside = [
        t for task, t in zip(layers.tasks, layers.timings, strict=True) if task.op.kernel == "latent_norm"
    ]
    assert [timing.seconds for timing in inside] == [0.0]
    assert inside[0].source.startswith(INSIDE)
