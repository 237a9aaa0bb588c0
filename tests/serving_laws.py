"""What every served run keeps, whatever its layout: tests of layouts ask for it in one line."""

import dataclasses

import numpy as np
import pytest

from perfmodel.serving.serve import serve

TIMES = ("first_token_s", "end_s")


def equal(plain, core):
    """Every column of both, the table of steps included, bit by bit."""
    for one in dataclasses.fields(plain):
        if one.name != "load":
            first, second = getattr(plain, one.name), getattr(core, one.name)
            assert np.array_equal(first, second), one.name
    assert plain.load.span_s == core.load.span_s
    assert plain.load.prefilled_tokens == core.load.prefilled_tokens
    for name in plain.load.runs.__slots__:
        assert np.array_equal(getattr(plain.load.runs, name), getattr(core.load.runs, name)), name


def number_in_system(records):
    """Time average of the requests that have arrived and not ended, by the events' own order."""
    events = np.concatenate(
        [np.stack([records.arrival_s, np.ones(len(records.arrival_s))], 1),
         np.stack([records.end_s, -np.ones(len(records.end_s))], 1)]
    )  # fmt: skip
    events = events[np.argsort(events[:, 0], kind="stable")]
    inside = np.cumsum(events[:, 1])
    span = events[-1, 0] - events[0, 0]
    return float((inside[:-1] * np.diff(events[:, 0])).sum() / span), span


def keeps_the_laws(scenario, times=TIMES):
    """Both cores give the same bits, steps that are advanced together the times of steps one by one, requests in the
    system are arrivals times their stay (Little), and each prompt is prefilled once; the run by the plain core.
    """
    plain = serve(scenario, core="plain")
    records = plain.records
    equal(records, serve(scenario, core="compiled", fleet=plain.fleet).records)
    alone = serve(scenario, core="plain", fleet=plain.fleet, together=False).records
    for name in times:
        assert np.allclose(getattr(alone, name), getattr(records, name), rtol=1e-9), name
    inside, span = number_in_system(records)
    assert inside == pytest.approx((records.end_s - records.arrival_s).sum() / span, rel=1e-9)
    assert records.load.prefilled_tokens == records.input_tokens.sum()
    return plain
