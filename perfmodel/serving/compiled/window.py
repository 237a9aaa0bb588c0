"""The requests that a run has at hand: a window over all of them, which moves on as they come and end.

A table has a row per request that has been taken in and has not ended, and some that come next. Now and then those that
have ended are handed over and the others move together, in their order: rows are numbers in lists and heaps, and
where two are equal the lower one is first, so order must stay and every number must follow.
"""

from collections.abc import Iterator

import numpy as np

from perfmodel.serving.compiled.state import NONE, OUT, TIMED, Array
from perfmodel.serving.compiled.tables import Tables
from perfmodel.serving.notes import Ints

ROWS = 32_768
"""Rows that are added at a time, at least (and as many as there are already, so that moving them costs little)."""
MARGIN = 64
"""Roots beyond those that one event may send, for some events."""

LINKS = ("waits", "holds", "fresh", "ends")
"""Tables of numbers of requests, with a row per request. Whatever else names requests by row is in :meth:`_follow`."""


class Window:
    """Which requests the tables hold; ``portions`` are rows of those that come next, whole sessions each."""

    def __init__(self, tables: Tables, portions: Iterator[Array]) -> None:
        self.tables, self._portions = tables, portions
        self.numbers: Ints = np.arange(len(tables["rows"]))
        """Which request each row is."""
        self._next = len(tables["rows"])
        w = tables.world[0]
        w["roots_left"] = int(tables["rows"]["root"].sum())
        w["more"] = self._next < w["total"]

    def ended(self) -> Ints:
        """Rows of requests that have their last token and are still here."""
        return np.flatnonzero(self.tables["rows"]["end"] >= 0.0)

    def move(self, ended: Ints) -> None:
        """Those rows go, and more come where few are left that have not arrived."""
        w = self.tables.world[0]
        kept = np.delete(np.arange(len(self.numbers)), ended)
        new = self._more(len(kept), len(self.numbers) - int(w["root_at"]))
        if not len(ended) and not len(new):
            return
        where = np.full(len(self.numbers) + 1, NONE, dtype=np.int64)
        where[kept] = np.arange(len(kept))
        self._follow(kept, where)
        self._add(len(kept), new)
        self.numbers = np.concatenate([self.numbers[kept], np.arange(self._next - len(new), self._next)])

    def _more(self, kept: int, ahead: int) -> Array:
        """Rows of requests that come next; none where enough of them are there."""
        w, t = self.tables.world[0], self.tables
        most = int(t["replicas"]["present"].max()) + int(t["lists"][-1, 2])
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

    def _follow(self, kept: Ints, where: Ints) -> None:
        """Whoever is named by row is named by its new one."""
        t, w = self.tables, self.tables.world[0]

        def moved(rows: Array) -> Array:
            return np.where(rows >= 0, where[np.maximum(rows, 0)], rows).astype(rows.dtype)

        t["lists"][:, :2] = moved(t["lists"][:, :2])
        t["replicas"]["root"] = moved(t["replicas"]["root"])
        planned = t["timed"][: int(w["num_timed"])]
        planned["row"] = moved(planned["row"])
        w["first_root"] = moved(np.array([w["first_root"]]))[0]
        w["root_at"] = int(np.searchsorted(kept, w["root_at"]))
        own = t["rows"][kept]
        own["child"] = moved(own["child"])
        t.put(rows=own, **{name: moved(t[name][kept]) for name in LINKS})

    def _add(self, kept: int, new: Array) -> None:
        t, w = self.tables, self.tables.world[0]
        n = kept + len(new)
        if not len(new):
            w["n"] = n
            return
        links = {
            name: np.concatenate([t[name], np.full((len(new), t[name].shape[1]), OUT, np.int32)])
            for name in LINKS
        }
        timed = np.zeros(n, TIMED)
        timed[: int(w["num_timed"])] = t["timed"][: int(w["num_timed"])]
        t.put(
            rows=np.concatenate([t["rows"], new]) if kept else new,
            timed=timed,
            scratch=np.zeros(max(n, len(t["ranks"])), np.int32),
            **links,
        )
        w["n"] = n
