"""Prints what ciw makes of a queueing network: PYTHON simulate_queue.py FILE.json

The file has ``arrivals`` (gaps between new customers), ``router`` (``central``, ``round-robin``, ``least``: fewest
customers, ties to the first), ``servers``, ``services`` (a list per queue, in the order in which services begin there;
one queue if central, else one per server), ``turns`` (visits of every customer) and ``pause`` (between two visits). The
output has each visit's queue (from 0), arrival, start and end there, in the order of starts, and each queue's
utilisation.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ciw

GATE = 1


class Again(ciw.routing.NodeRouting):
    """To the pause, until a customer has had all turns."""

    def __init__(self, turns: int, pause: int) -> None:
        """``pause``: the number of its node."""
        self.turns, self.pause = turns, pause

    def next_node(self, ind: Any) -> Any:
        """The pause or the exit."""
        ind.turn = getattr(ind, "turn", 0) + 1
        return self.simulation.nodes[self.pause if ind.turn < self.turns else -1]


def main() -> None:
    """Run the network until every customer has left."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    customers, services, central = len(asked["arrivals"]), asked["services"], asked["router"] == "central"
    queues = [GATE + 1 + queue for queue in range(len(services))]
    pause = queues[-1] + 1
    routers = {
        "central": lambda: ciw.routing.Direct(to=queues[0]),
        "round-robin": lambda: ciw.routing.Cycle(cycle=queues),
        "least": lambda: ciw.routing.LoadBalancing(destinations=queues, tie_break="order"),
    }
    network = ciw.create_network(
        arrival_distributions=[
            ciw.dists.Sequential([*asked["arrivals"], float("inf")]),
            *[None] * (len(queues) + 1),
        ],
        service_distributions=[
            ciw.dists.Deterministic(0.0),
            *(ciw.dists.Sequential(own) for own in services),
            ciw.dists.Deterministic(asked["pause"]),
        ],
        routing=ciw.routing.NetworkRouting(
            [
                routers[asked["router"]](),
                *(Again(asked["turns"], pause) for _ in queues),
                ciw.routing.Direct(to=GATE),
            ]
        ),
        number_of_servers=[
            float("inf"),
            *([asked["servers"]] if central else [1] * len(queues)),
            float("inf"),
        ],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(customers, method="Finish")
    visits = [one for one in simulation.get_all_records() if one.node in queues]
    visits.sort(key=lambda one: one.service_start_date)
    print(
        json.dumps(
            {
                "queue": [one.node - queues[0] for one in visits],
                "arrival": [one.arrival_date for one in visits],
                "start": [one.service_start_date for one in visits],
                "end": [one.service_end_date for one in visits],
                "utilisation": [simulation.nodes[queue].server_utilisation for queue in queues],
            }
        )
    )


if __name__ == "__main__":
    main()
