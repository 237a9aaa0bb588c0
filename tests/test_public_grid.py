"""The fit of measured tables: monotone, robust, complete, and honest about shapes that it has not seen."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibrate.public import grid
from calibrate.public.cells import Grid, completed, monotone, refined, thinned
from calibrate.public.grid import fit, pivot
from calibrate.public.heldout import RANDOM, hold_out, shape_order
from calibrate.public.samples import Samples
from calibrate.public.timed import TIMED, table
from perfmodel.errors import DataError
from perfmodel.kernels.calibration_file import load_calibration

M = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
N = (128, 256, 512, 1024, 2048, 4096)


def seconds(m, n):
    """A launch, then bandwidth, then arithmetic."""
    return 3e-6 + n * 2e-9 + m * n * 1e-11


def rows(noise=0.0, seed=0):
    generator = np.random.default_rng(seed)
    found = [
        {"m": m, "n": n, "seconds": seconds(m, n) * np.exp(noise * generator.normal())}
        for m, n in itertools.product(M, N)
    ]
    return pd.DataFrame(found)


def samples(frame, **changes):
    given = {"kernel": "gemm", "dtype": "bf16", "backend": "", "engine": "sglang", "axes": ("m", "n")}
    return Samples(**{**given, "frame": frame, "source": "made up", **changes})


def test_clean_table_is_reproduced_and_between_its_points_stays_close():
    curve = fit(samples(rows()))
    for m, n in itertools.product(M, N):
        assert curve.seconds({"m": m, "n": n}) == pytest.approx(seconds(m, n), rel=0.011)
    assert curve.seconds({"m": 48.0, "n": 1500.0}) == pytest.approx(seconds(48, 1500), rel=0.05)
    assert curve.num_rows == len(M) * len(N)
    assert curve.note == ""


def test_more_work_is_never_faster_however_noisy_the_rows():
    table = fit(samples(rows(noise=0.4))).tables[0]
    for axis in range(2):
        assert (np.diff(table.log_seconds, axis=axis) >= 0.0).all()


def test_monotone_keeps_what_is_monotone_and_keeps_the_first_axis_when_it_does_the_second():
    values = np.log(np.array([[seconds(m, n) for n in N] for m in M]))
    assert monotone(values) == pytest.approx(values)
    rough = np.random.default_rng(1).normal(size=(30, 20, 5))
    for axis in range(3):
        assert (np.diff(monotone(rough), axis=axis) >= 0.0).all()


def test_one_slow_cell_is_left_out_told_and_does_not_lift_its_neighbours():
    frame = rows()
    frame.loc[(frame["m"] == 16) & (frame["n"] == 512), "seconds"] *= 6.0
    curve = fit(samples(frame))
    assert "1 outliers left out (m=16 n=512: 5.7 times" in curve.note
    for m in (16, 32, 64):
        assert curve.seconds({"m": m, "n": 512}) == pytest.approx(seconds(m, 512), rel=0.05)


def test_outlier_of_a_table_with_dimensions_names_them():
    frame = pd.concat([rows().assign(heads=heads) for heads in (8, 16)], ignore_index=True)
    frame.loc[(frame["heads"] == 16) & (frame["m"] == 16) & (frame["n"] == 512), "seconds"] /= 5.0
    assert "heads=16 m=16 n=512" in fit(samples(frame, match=("heads",))).note


def test_step_of_a_kernel_is_no_outlier():
    frame = rows()
    frame.loc[frame["m"] > 64, "seconds"] *= 1.8  # another tile from there on, whatever n
    curve = fit(samples(frame))
    assert "outlier" not in curve.note
    assert curve.seconds({"m": 128, "n": 512}) == pytest.approx(1.8 * seconds(128, 512), rel=0.011)


def test_step_along_the_only_axis_is_no_outlier_and_a_spike_is():
    frame = pd.DataFrame(
        {"bytes": np.array(M, dtype=float), "seconds": [1, 1, 1.1, 1.1, 3, 3.1, 3.2, 3.3, 3.4, 3.5]}
    )
    assert fit(samples(frame, axes=("bytes",))).note == ""
    frame.loc[2, "seconds"] = 2.5
    assert "bytes=4" in fit(samples(frame, axes=("bytes",))).note


def test_repeats_count_by_their_median():
    frame = pd.concat([rows(), rows(), rows().assign(seconds=lambda f: f["seconds"] * 3.0)])
    assert fit(samples(frame)).seconds({"m": 16, "n": 512}) == pytest.approx(seconds(16, 512), rel=0.011)


def test_holes_and_an_unmeasured_corner_are_filled_with_growing_times():
    frame = rows()
    hole = (frame["m"] == 32) & (frame["n"] == 1024)
    corner = (frame["m"] >= 256) & (frame["n"] >= 2048)
    curve = fit(samples(frame[~hole & ~corner]))
    assert curve.seconds({"m": 32, "n": 1024}) == pytest.approx(seconds(32, 1024), rel=0.07)
    assert curve.seconds({"m": 512, "n": 4096}) == pytest.approx(seconds(512, 4096), rel=0.3)
    assert curve.seconds({"m": 512, "n": 4096}) >= curve.seconds({"m": 128, "n": 4096})
    assert "5 of 60 grid cells interpolated" in curve.note


def test_beyond_the_edge_growth_is_at_most_proportional():
    values = np.log(np.array([[1.0, 1.0, 2.0], [1.0, 4.0, np.nan], [1.0, np.nan, np.nan]]))
    full = completed(Grid((np.array([1.0, 2.0, 4.0]),) * 2, values))
    assert np.isfinite(full).all()
    assert full[2, 1] <= np.log(8.0) + 1e-9
    assert full[1, 2] <= np.log(8.0) + 1e-9


def test_a_corner_goes_on_by_seconds_not_by_logarithms():
    contexts, requests = np.array([1024.0, 2048.0, 4096.0, 8192.0]), np.array([1.0, 32.0, 64.0, 128.0])
    truth = np.log(120.0 + np.outer(contexts, requests) * 4.5e-4)  # a fixed cost and reading the cache, us
    known = np.where(np.outer(contexts, requests) > 262144, np.nan, truth)
    full = completed(Grid((contexts, requests), known))
    assert np.isnan(known).sum() == 3
    assert np.allclose(full, truth, atol=0.04)  # in logarithms 0.1 to 0.3 too fast


def test_wide_gap_is_bridged_by_the_bend_not_by_a_straight_line():
    frame = rows()
    gap = frame["m"].between(8, 128)
    curve = fit(samples(frame[~gap], axes=("m", "n")))
    truth = np.array([seconds(m, 4096) for m in (16, 32, 64)])
    found = np.array([curve.seconds({"m": m, "n": 4096}) for m in (16, 32, 64)])
    low, high = seconds(4, 4096), seconds(256, 4096)
    straight = np.exp(np.interp(np.log([16, 32, 64]), np.log([4, 256]), np.log([low, high])))
    assert (np.abs(found / truth - 1.0) < 0.5 * np.abs(straight / truth - 1.0)).all()


def test_refined_grid_keeps_measured_points_and_has_no_wide_gap():
    points = np.array([1.0, 2.0, 16.0, 17.0, 100.0])
    values = np.log(3.0 + points)[:, None] * np.ones(2)
    fine = refined(Grid((points, np.array([1.0, 2.0])), values))
    assert (np.diff(np.log(fine.points[0])) <= np.log(2.0) + 1e-9).all()
    kept = np.isclose(fine.points[0][:, None], points).any(axis=1)
    assert fine.values[kept] == pytest.approx(values, abs=1e-9)


def test_thinned_grid_gives_every_dropped_cell_within_one_percent():
    points = np.geomspace(1.0, 4096.0, 60)
    values = np.log(5.0 + points)[:, None] + np.log(np.array([1.0, 3.0]))
    small = thinned(Grid((points, np.array([1.0, 2.0])), values))
    assert len(small.points[0]) < 40
    for column in range(2):
        again = np.interp(np.log(points), np.log(small.points[0]), small.values[:, column])
        assert np.abs(again - values[:, column]).max() <= np.log(1.01) + 1e-12
    assert small.points[0][[0, -1]] == pytest.approx(points[[0, -1]])


def test_tables_of_dimensions_scale_to_the_nearest():
    frame = pd.concat([rows().assign(width=w, seconds=lambda f, w=w: f["seconds"] * w) for w in (2, 8)])
    curve = fit(samples(frame, match=("width",), scale_by=("width",), exact=()))
    assert [table.match for table in curve.tables] == [{"width": 2.0}, {"width": 8.0}]
    own = curve.seconds({"m": 16, "n": 512, "width": 8})
    assert own == pytest.approx(8 * seconds(16, 512), rel=0.011)
    assert curve.seconds({"m": 16, "n": 512, "width": 12}) > own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": rows().head(0)}, "no rows"),
        ({"frame": rows().drop(columns="n")}, "lack n"),
        ({"frame": rows().assign(seconds=0.0)}, "above 0"),
        ({"frame": rows().assign(m=0)}, "above 0"),
    ],
)
def test_rows_that_make_no_table_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        fit(samples(change["frame"]))


def test_pivot_takes_rows_in_any_order():
    frame = rows()
    shuffled = frame.sample(frac=1.0, random_state=3)
    assert (pivot(frame, ("m", "n")).values == pivot(shuffled, ("m", "n")).values).all()


def test_hundred_thousand_cells_take_seconds(capsys):
    import time

    axes = [np.unique(np.geomspace(1, 65536, count).astype(int)) for count in (70, 45, 40)]
    cells = np.array(list(itertools.product(*axes)), dtype=float)
    noise = np.exp(0.05 * np.random.default_rng(0).normal(size=len(cells)))
    frame = pd.DataFrame(cells, columns=["m", "n", "k"])
    frame["seconds"] = (3e-6 + frame["n"] * frame["k"] * 1e-12 + frame.prod(axis=1) * 1e-15) * noise
    began = time.process_time()
    fit(samples(frame, axes=("m", "n", "k")))
    assert time.process_time() - began < 20.0


def test_held_out_shapes_are_a_fifth_chosen_by_shape_alone():
    frame = rows(noise=0.05)
    order = shape_order(frame, ("m", "n"))
    again = shape_order(frame.iloc[::-1], ("m", "n"))[::-1]
    assert (order == again).all()
    many = pd.DataFrame({"m": np.arange(1, 5001), "n": 7})
    assert (shape_order(many, ("m", "n")) < 0.2).mean() == pytest.approx(0.2, abs=0.02)


def test_held_out_rows_are_not_fitted_and_their_errors_are_the_curves():
    frame = rows(noise=0.05)
    held = hold_out(samples(frame))
    out = shape_order(frame, ("m", "n")) < 0.2
    assert held.curve.num_rows == (~out).sum()
    assert sorted(zip(held.rows["m"], held.rows["n"], strict=True)) == sorted(
        zip(frame[out]["m"], frame[out]["n"], strict=True)
    )
    predicted = np.array(
        [held.curve.seconds({"m": m, "n": n}) for m, n in zip(held.rows["m"], held.rows["n"], strict=True)]
    )
    errors = 100.0 * (predicted / held.rows["seconds"] - 1.0)
    assert held.errors[0].left_out == RANDOM
    assert held.errors[0].median_pct == pytest.approx(np.median(np.abs(errors)))
    assert held.errors[0].p90_pct == pytest.approx(np.quantile(np.abs(errors), 0.9))
    assert held.errors[0].bias_pct == pytest.approx(np.median(errors))
    assert held.curve.median_error_pct == held.errors[0].median_pct
    assert held.curve.log_std == held.errors[0].log_std > 0.0


def test_slice_is_left_out_whole_and_changes_no_shipped_curve():
    frame = rows()
    frame.loc[frame["n"] == 1024, "seconds"] *= 3.0  # nothing else tells
    slow = frame["n"] == 1024
    without, given = hold_out(samples(frame)), hold_out(samples(frame, slices={"n=1024": slow}))
    assert (without.curve.tables[0].log_seconds == given.curve.tables[0].log_seconds).all()
    error = given.errors[-1]
    assert (error.left_out, error.rows) == ("n=1024", len(M))
    assert error.bias_pct < -50.0
    assert not error.met


def test_prompts_without_cached_tokens_are_predicted_as_such():
    frame = rows().rename(columns={"m": "requests", "n": "new_tokens"})
    held = hold_out(samples(frame, kernel="mla_prefill", axes=("new_tokens", "requests")))
    assert held.errors[0].median_pct < 5.0


def test_table_too_small_to_lose_a_fifth_keeps_its_rows():
    frame = pd.DataFrame({"m": [1.0, 2.0], "seconds": [1e-6, 2e-6]})
    held = hold_out(samples(frame, axes=("m",)))
    assert held.curve.num_rows == 2
    assert held.errors == ()


def test_outlier_threshold_is_a_quarter():
    assert np.exp(grid.OUTLIER) == pytest.approx(1.25)


def test_how_each_class_was_timed_is_said_once_and_printed():
    said = [(kernel, engine) for row in TIMED for kernel in row.kernels for engine in row.engines or ("",)]
    assert len(said) == len(set(said))
    for gpu in ("h200-sxm", "gb200-nvl72"):
        for curve in load_calibration(gpu).all_curves:
            ours = {(curve.kernel, curve.engine), (curve.kernel, "")}
            assert ours & set(said), (curve.kernel, curve.engine)
    assert table() in (Path(__file__).parents[1] / "docs" / "import_tables.md").read_text()
