"""Read by the process from which the pool's are forked: what they all need is in memory once, and never collected.

Everything that was made until then is frozen: a collection in a forked process would write into every object it
visits, and so copy the pages that all share.
"""

import gc

import dashboard.results
import dashboard.traffic_runs  # noqa: F401
from dashboard.warm import warm, warm_compiled

warm()
warm_compiled()
gc.freeze()
