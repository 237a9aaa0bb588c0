"""Prints what ciw makes of a queueing network: PYTHON simulate_queue.py FILE.json

The file has ``arrivals`` (gaps between new customers), ``services`` (in the order in which they begin), ``servers``,
``turns`` (visits of every customer) and ``pause`` (between two visits). The output has each visit's arrival and start
at the servers, in the order of starts.
"""

import json
import sys
from pathlib import Path

import ciw


def main() -> None:
    """Run the network until every customer has left."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    customers, turns = len(asked["arrivals"]), asked["turns"]
    route = [1] + [2, 1] * (turns - 1)
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*asked["arrivals"], float("inf")]), None],
        service_distributions=[
            ciw.dists.Sequential(asked["services"]),
            ciw.dists.Deterministic(asked["pause"]),
        ],
        routing=ciw.routing.ProcessBased(lambda individual, simulation: route[1:]),
        number_of_servers=[asked["servers"], float("inf")],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(customers, method="Finish")
    visits = [one for one in simulation.get_all_records() if one.node == 1]
    visits.sort(key=lambda one: one.service_start_date)
    print(
        json.dumps(
            {
                "arrival": [one.arrival_date for one in visits],
                "start": [one.service_start_date for one in visits],
            }
        )
    )


if __name__ == "__main__":
    main()
