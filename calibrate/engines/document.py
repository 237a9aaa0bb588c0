"""The constants file, ``data/engines/fitted.yaml``: by engine, what was selected, and how far new set-ups are off."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any

import numpy as np

from calibrate.device.curves import robust_std
from calibrate.engines.constants import CONSTANTS, START
from calibrate.engines.rows import FILES, FitRow, Job, engine_of, fit_rows, jobs, served_logs
from calibrate.engines.select import HARM, fit_constants, fit_engine, residuals
from perfmodel.engines.profile import OTHERS
from perfmodel.validation import serving
from perfmodel.validation.runs import scenario_of

ENGINES = ("sglang", "trtllm", "vllm")
MIN_ROWS = 12
"""Rows that an engine needs for constants of its own."""


def spreads(logs: Sequence[tuple[str, float]]) -> tuple[float, float]:
    """(within, between): robust spread of rows around their set-up's median, and root mean square of those medians,
    each set-up counting once: how far off a set-up of this kind is.
    """
    middle = _middles(logs)
    counts = Counter(group for group, _ in logs)
    within = [log - middle[group] for group, log in logs if counts[group] > 1]
    return robust_std(np.array(within)) if len(within) > 1 else 0.0, _rms(middle.values())


def _middles(logs: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Set-up -> median log error."""
    by_group: dict[str, list[float]] = {}
    for group, log in logs:
        by_group.setdefault(group, []).append(log)
    return {group: float(np.median(own)) for group, own in by_group.items()}


def _rms(values: Iterable[float]) -> float:
    return float(np.sqrt(np.mean(np.square([*values] or [0.0]))))


def left_out_logs(rows: Sequence[FitRow], free: frozenset[int]) -> list[tuple[str, float]]:
    """(group, log error) of every TPOT under constants fitted on the other groups: how far off new set-ups are."""
    own = [row for row in rows if row.quantity == "tpot_s"]
    found: list[tuple[str, float]] = []
    for group in sorted({row.group for row in own}):
        constants = fit_constants([row for row in rows if row.group != group], free)
        out = [row for row in own if row.group == group]
        found += [(group, float(log)) for log in residuals(out, constants)]
    return found


def no_worse(now: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """Whether a pass's errors on set-ups left out are no worse than those of the pass before, by more than HARM in any.

    A second pass is taken around the first one's result, where its predictions are better; but where two selections
    nearly tie it may choose the other one.
    """
    return all(now[name] <= was + HARM for name, was in before.items())


def document(pool: Executor, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """The constants file: by engine, rules as those of its data; ``others`` for engines without rows."""
    every = jobs()
    own = [engine for engine in ENGINES if sum(engine_of(job) == engine for job in every) >= MIN_ROWS]
    constants = dict.fromkeys(own, START)
    errors: dict[str, list[dict[str, float]]] = {}
    taken: dict[str, list[FitRow]] = {}
    for _ in range(2):
        rows = fit_rows(constants, pool, progress)
        for engine in own:
            progress(engine)
            mine = [row for row in rows if row.engine == engine]
            values, steps = fit_engine(mine, progress)
            if engine in errors and not no_worse(steps[-1], errors[engine][-1]):
                progress(f"  the pass before stands: {errors[engine][-1]}")
                continue
            constants[engine], errors[engine], taken[engine] = values, steps, mine
            progress(f"  {dict(zip([one.path for one in CONSTANTS], values, strict=True))}")
    logs = served_logs(constants, pool)
    left_out = {
        engine: left_out_logs(taken[engine], frozenset(map(int, np.flatnonzero(constants[engine]))))
        for engine in own
    }
    # seven to ten set-ups do not tell how far an engine's next one is off: what lies between them is of all engines
    known, new = (
        _rms(middle for engine in own for middle in _middles(some[engine]).values())
        for some in ({engine: logs[engine].get("tpot_s", []) for engine in own}, left_out)
    )
    date = datetime.now(UTC).date().isoformat()
    source = f"calibrate.engines, {date}: rows with role fit of {', '.join((*FILES, 'serving.csv'))}"
    result: dict[str, Any] = {}
    for engine in own:
        within, own_known = spreads(logs[engine].get("tpot_s", []))
        _, own_new = spreads(left_out[engine])
        settings: dict[str, Any] = {}
        older: list[dict[str, Any]] = []
        for one, value in zip(CONSTANTS, constants[engine], strict=True):
            end, own_settings = one.before.get(engine), settings
            if end is not None:
                own_settings = {}
                older.append({"when": {"before": end}, "set": own_settings, "source": source})
            for path, part in one.settings(_rounded(float(value))).items():
                _put(own_settings, path.split("."), _rounded(part))
        _put(settings, ["deployment", "step_log_std"], _rounded(float(np.hypot(within, max(new, known)))))
        seen = _rounded(float(np.hypot(within, known)))
        result[engine] = {
            "rows": sum(engine_of(job) == engine for job in every),
            "figures": sum(len(figures) for figures in logs[engine].values()),
            "groups": len({group for figures in logs[engine].values() for group, _ in figures}),
            "tpot_log_std": {
                "within": _rounded(within),
                "known": _rounded(own_known),
                "new": _rounded(own_new),
            },
            "left_out": [{name: _rounded(value) for name, value in step.items()} for step in errors[engine]],
            "rules": [
                {"set": settings, "source": source},
                *older,
                *(
                    {
                        "when": {"system": system, "model": model},
                        "set": {"deployment": {"step_log_std": seen}},
                        "source": f"{source}; a stack with rows of its own",
                    }
                    for system, model in sorted({_stack(job) for job in every if engine_of(job) == engine})
                ),
            ],
        }
    zero = [
        (row.group, float(log))
        for row, log in zip(rows, residuals(rows, np.zeros(len(CONSTANTS))), strict=True)
        if row.quantity == "tpot_s"
    ]
    result[OTHERS] = {
        "rules": [
            {
                "set": {"deployment": {"step_log_std": _rounded(float(np.hypot(*spreads(zero))))}},
                "source": f"{source}; of all engines, without any constant",
            }
        ]
    }
    return result


def _stack(job: Job) -> tuple[str, str]:
    """(GPU, family of the model) of a row."""
    file, record = job
    scenario = serving.scenario_of(record) if file == "serving.csv" else scenario_of(record)
    return scenario.cluster.gpu.name, scenario.model.family


def _put(document: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    head, *rest = keys
    if rest:
        _put(document.setdefault(head, {}), rest, value)
    else:
        document[head] = value


def _rounded(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")
