"""The requests that a run has at hand: a window over all of them, which moves on as they come and end.

A table has a row per request that has been taken in and has not ended, and some that come next. Now and then those that
have ended are handed over and the others move together, in their order: rows are numbers in lists and heaps, and
where two are equal the lower one is first, so order must stay and every number must follow.
"""

from collections.abc import Callable, Iterator

import numpy as np

from perfmodel.serving.compiled.state import NONE, OUT, TIMED, Array
from perfmodel.serving.compiled.tables import Tables, flows_of, most_at_once
from perfmodel.serving.notes import Ints

ROWS = 32_768
"""Rows that are added at a time, at least (and as many as there are already, so that moving them costs little)."""
MARGIN = 64
"""Roots beyond those that one event may send, for some events."""

IN_POOLS, DECODING = ("waits", "holds"), ("fresh", "ends")
"""Tables of numbers of requests, with a row per request in each pool, or in the one that decodes. Whatever else names
requests by row is in :meth:`_follow`."""


class Window:
    """Which requests the tables hold; ``portions`` are rows of those that come next, whole sessions each."""

    def __init__(self, tables: Tables, portions: Iterator[Array]) -> None:
        self.tables, self._portions = tables, portions
        self.numbers: Ints = np.arange(len(tables["rows"]))
        """Which request each row is."""
        self._next = len(tables["rows"])
        w = tables.world[0]
        self._pools = int(w["num_pools"])
        w["roots_left"] = int(tables["rows"]["root"].sum())
        w["more"] = self._next < w["total"]

    @property
    def prompts(self) -> Array:
        """(n,) ROW of all requests where their prompts are computed."""
        return self.tables["rows"][-len(self.numbers) :] if len(self.numbers) else self.tables["rows"]

    def ended(self) -> Ints:
        """Rows of requests that have their last token and are still here."""
        return np.flatnonzero(self.tables["rows"]["end"][: len(self.numbers)] >= 0.0)

    def move(self, ended: Ints) -> None:
        """Those rows go, and more come where few are left that have not arrived."""
        w = self.tables.world[0]
        kept = np.delete(np.arange(len(self.numbers)), ended)
        new = self._more(len(kept), len(self.numbers) - int(w["root_at"]))
        if not len(ended) and not len(new):
            return
        before, after = len(self.numbers), len(kept) + len(new)
        where = np.full(self._pools * before + 1, NONE, dtype=np.int64)
        for p in range(self._pools):
            where[p * before + kept] = p * after + np.arange(len(kept))
        self._follow(kept, where, new)
        w["n"], w["num_rows"] = after, self._pools * after
        self.numbers = np.concatenate([self.numbers[kept], np.arange(self._next - len(new), self._next)])

    def _more(self, kept: int, ahead: int) -> Array:
        """Rows of requests that come next; none where enough of them are there."""
        w, t = self.tables.world[0], self.tables
        most = most_at_once(t)
        roots = int(w["capped"] and w["capped"] + 2 * (most + MARGIN))
        found: list[Array] = []
        while w["more"] and (
            ahead + sum(map(len, found)) < (max(ROWS, kept) if found else ROWS // 2)
            or w["roots_left"] < roots
        ):
            rows = next(self._portions)
            self._next += len(rows)
            w["roots_left"] += int(rows["root"].sum())
            w["more"] = self._next < w["total"]
            rows["child"][rows["child"] >= 0] += kept + sum(map(len, found))
            found.append(rows)
        return found[0] if len(found) == 1 else np.concatenate([t["rows"][:0], *found])

    def _follow(self, kept: Ints, where: Ints, new: Array) -> None:
        """Whoever is named by row is named by its new one, and rows come behind those that stay."""
        t, w = self.tables, self.tables.world[0]
        pools, n = self._pools, len(kept) + len(new)

        def moved(rows: Array) -> Array:
            return np.where(rows >= 0, where[np.maximum(rows, 0)], rows).astype(rows.dtype)

        def longer(table: Array, more: Array, times: int = pools) -> Array:
            """Those that stay and those that come, in each of so many pools."""
            stay = table.reshape(times, len(self.numbers), *table.shape[1:])[:, kept]
            if len(new):
                stay = np.concatenate([stay, np.broadcast_to(more, (times, *more.shape))], axis=1)
            return np.ascontiguousarray(stay.reshape(times * n, *table.shape[1:]))

        t["lists"][:, :2] = moved(t["lists"][:, :2])
        t["replicas"]["root"] = moved(t["replicas"]["root"])
        timed = np.zeros(n, TIMED)
        planned = timed[: int(w["num_timed"])]
        planned[:] = t["timed"][: len(planned)]
        planned["row"] = moved(planned["row"])
        w["first_root"] = moved(np.array([w["first_root"]]))[0]
        w["root_at"] = int(np.searchsorted(kept, w["root_at"]))
        t["rows"]["child"] = moved(t["rows"]["child"])
        rows = longer(t["rows"], new)
        if pools > 1:
            rows["tokens"][n + len(kept) :] = new[
                "prompt"
            ]  # where prompts are computed they are all of the work
            self._follow_flows(kept, moved, len(new))
        t.put(rows=rows, timed=timed, scratch=np.zeros(max(n, len(t["ranks"])), np.int32))
        for names, times in ((IN_POOLS, pools), (DECODING, 1)):
            for name in names:
                table = moved(t[name])
                nothing = np.full((len(new), table.shape[-1]), OUT, np.int32)
                t.put(**{name: longer(table, nothing, times)})

    def _follow_flows(self, kept: Ints, moved: Callable[[Array], Array], new: int) -> None:
        """Caches on their way."""
        t, planned = self.tables, int(self.tables.world["num_flow_plans"][0])
        plans = np.zeros(len(kept) + new, np.int32)
        plans[:planned] = moved(t["flow_plans"][:planned])
        more = np.full((3, new, 2), OUT, np.int32)
        t.put(
            flows=np.concatenate([t["flows"][kept], flows_of(new)]),
            flow_links=np.ascontiguousarray(np.concatenate([moved(t["flow_links"][:, kept]), more], axis=1)),
            flow_plans=plans,
        )
