"""The program around the kernels: how a step gets onto the GPU, and what that costs the host."""

from typing import Literal

from perfmodel.spec.base import NonNegative, Spec

Launch = Literal["graph", "eager"]


class Host(Spec):
    """What the process that launches a GPU's kernels does in one step. An engine fills it in (``perfmodel.engines``);
    without one nothing is counted.

    Every rank has a host of its own, and a collective waits for the slowest.
    """

    decode: Launch = "graph"
    """How steps that only decode are launched: one replay of a captured CUDA graph, or kernel by kernel."""
    prompts: Launch = "eager"
    """How steps that carry prompt tokens are launched."""
    prepare_us: NonNegative = 0.0
    """Host time per step before its first launch: batch, attention metadata, copies, launching the graph, us."""
    asynchronous: bool = False
    """Whether the next step is prepared while the GPU runs this one: a step takes the longer of the two instead of
    their sum."""
    launch_us: NonNegative = 0.0
    """Host time per kernel that is launched eagerly, us."""
    uncounted_us: NonNegative = 0.0
    """Host time per counted launch of a step with prompt tokens, beyond ``launch_us``: kernels that nobody counted, and
    the program between them, us."""
    node_us: NonNegative = 0.0
    """Gap per kernel inside a graph, beyond what timed kernels hold already, us."""
    join_us: NonNegative = 0.0
    """Delay where an op inside a graph waits for another stream, us."""
