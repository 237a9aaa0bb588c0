"""Decode steps whose wire is shared with caches that come in.

Two kinds of traffic pass a GPU's adapter while it decodes: what its steps send (all-to-all, all-reduce), and caches on
their way from prefill. Where both have bytes to move each gets half of it; one that can't use up its half leaves the
rest to the other (max-min fairness). So with caches that come at a share q of the wire where nothing else is under way:

* a step's bytes have 1 - x of it, x = min(q, 1/2), and take 1 / (1 - x) times as long: the *stretch*. The step as a
  whole takes T(stretch), which is the step with an adapter that is slower by so much (``deployment.slowdown``): longer
  where transfers are exposed, as long as before where compute hides them all the same;
* caches have 1/2 of it while a step sends and all of it between. A step whose bytes take c alone sends for 2 c of its
  T(2), so caches that take what they get pass at 1 - c / T(2) of the wire: the *room*. It is asked at the shortest
  context, where it is least.

Bytes are conserved: of a step's T(1 / (1 - x)) its own bytes take c and caches at most the room's share, together no
more than the step (c <= (1 - x) T since transfers queue on one wire; with equality at the room).

A transfer may be shorter than a step: what is left of a step takes another time from the moment that caches begin or
cease to come.

Where FFNs have GPUs of their own, caches come in at attention's adapters beside the way back alone; here both ways
count and are stretched, and at least half of the wire is left to caches: more than is shared, 0.2 % of Step-3's TPOT.

Ranks step together, so the one whose wire is shared most stretches the steps of all. What is not known: how a switch or
an adapter weighs a cache's few queue pairs against the many of an all-to-all; nothing is published. Halves are what two
equal classes get. Prompts that a decode replica computes again are not stretched.
"""

from dataclasses import dataclass
from typing import Literal

from perfmodel.serving.grid import Grid
from perfmodel.spec.scenario import Scenario

Wire = Literal["", "link", "network"]
"""Which wire caches share with decode steps; "": none."""
MOST = 0.5
"""Share of a wire that caches take at most from traffic that has bytes to move."""
STRETCHES = (1.0, 4.0 / 3.0, 2.0)
"""Of the grid: shares of 0, 1/4 and 1/2."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """What decode steps and caches on the same wire take from each other."""

    decode: Grid
    """Seconds of steps over (stretch, even, requests, context)."""
    room: Grid
    """Share of the wire that caches have beside steps over (even, requests, one context)."""


def stretch_of(share: float) -> float:
    """How much longer bytes take beside caches that have such a share of their wire."""
    return 1.0 / (1.0 - min(share, MOST))


def shared_wire(scenario: Scenario, *, one_domain: bool) -> Wire:
    """The wire over which a scenario's decode replicas both step and get caches; ``one_domain``: caches come over the
    link.
    """
    gpus, cluster = scenario.deployment.num_gpus, scenario.cluster
    if one_domain:
        return "link" if gpus > 1 else ""
    within = gpus <= cluster.node.link_domain_gpus and not scenario.two_clusters
    return "" if within or cluster.network.caches_apart else "network"
