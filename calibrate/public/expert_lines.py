"""Lines of expert timings, cleaned: one kernel's times of one model over tokens, ranks and widths."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

STEPS = 4
"""Grid points per octave of rows per group."""
SLOW = 1.25
"""Times the time of more work that no row may take: repeats differ by 3-5 %."""
STRANGERS = 0.5
"""Largest part of a time that is taken off for tokens without a row: what is left bears twice its error."""
FROM_EP = 8
"""EP sizes from which the cost of such tokens is read; below it nearly every token has a row here."""
SMALL, LARGE = 256, 16
"""That cost is the slope from the fewest tokens (at least SMALL: below, launches hide it) to a quarter of the most
and more, which must be LARGE times as many."""


def extended(frame: "pd.DataFrame", reach: float = 1.0) -> "pd.DataFrame":
    """The frame with balanced lines continued to the most rows per expert of any line (column ``filled``).

    Few experts were timed with few rows only (masked: as many rows in all at every EP size) or lost those with many
    (:func:`without_strangers`). What more rows cost is per expert: the increase of the nearest line that has them,
    times the ratio of experts. A line counts that begins at most ``reach`` times where the short one ends.
    """
    import pandas as pd

    frame = frame.assign(filled=False)
    added = []
    for (hidden, width, _), rows in frame[frame["skew"] == 0.0].groupby(["hidden", "width", "skew"]):
        table = rows.pivot_table(index="rows_per_group", columns="groups", values="seconds", aggfunc="median")
        lines = {float(groups): line.dropna() for groups, line in table.items()}
        for groups, line in lines.items():
            last = float(line.index[-1])
            longer = {
                other: found
                for other, found in lines.items()
                if found.index[-1] > last and found.index[0] <= reach * last
            }
            if not longer:
                continue
            nearest = min(longer, key=lambda other: abs(np.log(other / groups)))
            found = longer[nearest]
            start = float(np.exp(np.interp(np.log(last), np.log(found.index), np.log(found))))
            for more, seconds in found[found.index > last].items():
                time = line.iloc[-1] + max(seconds - start, 0.0) * groups / nearest
                added.append((hidden, width, groups, more, groups * more, time))
    if not added:
        return frame
    names = ["hidden", "width", "groups", "rows_per_group", "rows", "seconds"]
    new = pd.DataFrame(added, columns=names).assign(skew=0.0, filled=True)
    return pd.concat([frame, new], ignore_index=True)


def idle(frame: "pd.DataFrame") -> "pd.Series":
    """Balanced rows of whole experts in which some of the rank's experts got nothing.

    TensorRT-LLM's kernels pay about 0.3 us for each such expert: 8 rows on 8 of 256 experts take 97 us, on 8 of 8 27
    us. Fewer experts are measured without idle ones, at larger EP. Experts that are cut in slices (tp above 1) are all
    on every rank, when they are timed and when they serve: there the rows with idle experts are what a small batch
    meets, and they stay.
    """
    some_idle = frame["groups"] < frame["experts"] // frame["ep"]
    return (frame["skew"] == 0.0) & (frame["tp"] == 1) & some_idle


def without_slow(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Rows less those that take ``SLOW`` times as long as more work of the same kernel and model.

    More work: as many tokens or more on as few ranks or fewer, one of them differing. Whole lines of TensorRT-LLM's
    bf16 kernels are 5 times as long as those with half the ranks: their tactic was tuned badly in that process.
    """
    parts = []
    for _, rows in frame.groupby(
        ["kernel_source", "hidden", "inter_size", "top_k", "experts", "skew"], sort=True
    ):
        tokens, ep, tp, seconds = (
            rows[name].to_numpy(dtype=float) for name in ("tokens", "ep", "tp", "seconds")
        )
        more = (tokens[:, None] <= tokens) & (ep[:, None] >= ep) & (tp[:, None] >= tp)
        least = np.where(more, seconds, np.inf).min(axis=1)
        parts.append(rows[seconds <= SLOW * least])
    return joined(parts)


def without_strangers(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Times less those of tokens that have no row on the rank.

    The cost of one such token is read off balanced rows of the same kernel and model (:func:`token_cost`); where too
    few EP sizes were timed, the median of the other models' of that kernel, in proportion to the hidden size.
    """
    parts = []
    for _, kernel in frame.groupby("kernel_source", sort=True):
        models = list(kernel.groupby(["hidden", "top_k", "experts"], sort=True))
        costs = {key: token_cost(rows) for key, rows in models}
        per_channel = [cost / key[0] for key, cost in costs.items() if cost is not None]
        usual = float(np.median(per_channel)) if per_channel else 0.0
        for key, rows in models:
            cost = costs[key]
            strangers = (cost if cost is not None else usual * key[0]) * (rows["tokens"] - rows["arrived"])
            parts.append(
                rows.assign(seconds=rows["seconds"] - strangers)[strangers <= STRANGERS * rows["seconds"]]
            )
    return joined(parts)


def token_cost(frame: "pd.DataFrame") -> float | None:
    """Seconds per token without a row on the rank, from one kernel's times of one model; None where not to be had.

    At each number of tokens and each width, t = w / ep + o is fitted over EP 8 and more; the cost is the median
    slope of o between few and many tokens.
    """
    slopes: list[float] = []
    balanced = frame[(frame["skew"] == 0.0) & (frame["ep"] >= FROM_EP)]
    for _, rows in balanced.groupby("width"):
        fixed: dict[int, float] = {}
        for tokens, line in rows[rows["tokens"] >= SMALL].groupby("tokens"):
            if line["ep"].nunique() < 3:
                continue
            terms = (
                np.column_stack([1.0 / line["ep"], np.ones(len(line))]) / line["seconds"].to_numpy()[:, None]
            )
            fixed[int(tokens)] = float(np.linalg.lstsq(terms, np.ones(len(line)), rcond=None)[0][1])
        if fixed and max(fixed) >= LARGE * min(fixed):
            first = min(fixed)
            many = [tokens for tokens in fixed if tokens >= max(fixed) / 4]
            slopes += [(fixed[tokens] - fixed[first]) / (tokens - first) for tokens in many]
    return max(float(np.median(slopes)), 0.0) if slopes else None


def settled(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The frame on an axis of STEPS values per octave, which each time is moved to along its own line.

    Expected loads, and 384 experts with 8 picks, leave hardly two rows on the same value, and each would be a line
    of the table. The move is at most 1 / (2 STEPS) octave, by the interpolation in (log rows per group, log time)
    between the rows of the same model, ranks and skew. Of an axis of groups, only whole experts.
    """
    keys = ["kernel_source", "hidden", "width", "top_k", "experts", "ep", "tp", "skew", "groups"]
    frame = frame.assign(groups=np.maximum(np.rint(frame["groups"]), 1.0))
    parts = []
    for _, line in frame.groupby([key for key in keys if key in frame], sort=False):
        logs = np.log2(line["rows_per_group"].to_numpy(dtype=float))
        moved = np.rint(STEPS * logs) / STEPS
        order = np.argsort(logs, kind="stable")
        times = np.log(line["seconds"].to_numpy(dtype=float))
        there = np.interp(moved, logs[order], times[order])
        fits = (moved >= logs.min() - 1e-9) & (moved <= logs.max() + 1e-9) | (np.abs(moved - logs) < 0.02)
        moved = np.where(np.abs(moved - logs) < 1e-9, logs, moved)
        parts.append(line.assign(rows_per_group=2.0**moved, seconds=np.exp(there))[fits])
    return joined(parts)


def joined(frames: Iterable["pd.DataFrame"]) -> "pd.DataFrame":
    """The frames that have rows, as one."""
    import pandas as pd

    parts = [frame for frame in frames if not frame.empty]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
