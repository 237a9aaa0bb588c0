"""When each request's outputs came, from the steps of the replica that decoded it.

Records keep gaps pooled; who had which follows from the steps: a request that decodes has an output at the end of every
decode step of its replica, from its first token on.
"""

import numpy as np

from perfmodel.serving.records import Floats, Records

ROUNDING = 1e-9
"""Seconds by which a step's start and a token's time differ for no other reason than sums."""


def request_gaps(records: Records) -> tuple[list[Floats | None], int]:
    """Gaps between a request's outputs, s, one array per request; and of how many they are not known (None).

    With drafts a step gives several tokens at once, so there are fewer gaps than tokens, as a client that counts chunks
    sees it. Not known: of requests that lost their blocks or their replica, whose steps are not all in one stretch.
    """
    found: list[Floats | None] = [None] * len(records.arrival_s)
    runs = records.load.runs
    for replica in np.unique(records.replica):
        own = runs.where((runs.replica == replica) & (runs.requests > 0.0))
        many = np.rint(own.steps).astype(np.int64)
        each = np.repeat(own.seconds / np.maximum(own.steps, 1.0), many)
        number = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
        starts = np.repeat(own.start_s, many) + each * number
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], (starts + each)[order]
        rows = np.flatnonzero(records.replica == replica)
        first = np.searchsorted(starts, records.first_token_s[rows] - ROUNDING)
        last = np.searchsorted(ends, records.end_s[rows] + ROUNDING)
        for row, begin, end in zip(rows.tolist(), first.tolist(), last.tolist(), strict=True):
            times = ends[begin:end]
            if _is_whole(records, row, times):
                found[row] = np.diff(times, prepend=records.first_token_s[row])
    return found, sum(one is None for one in found)


def _is_whole(records: Records, row: int, times: Floats) -> bool:
    """Whether these are all of a request's outputs after the first."""
    if records.preemptions[row] or records.retries[row]:
        return False
    more = int(records.output_tokens[row]) - 1
    if not more:
        return not len(times)
    return 0 < len(times) <= more and abs(times[-1] - records.end_s[row]) <= ROUNDING
