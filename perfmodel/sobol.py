"""The first 64 points of a scrambled Sobol sequence: the same as ``scipy.stats.qmc.Sobol(d, scramble=True, rng=seed)``
gives, without the second that importing scipy.stats takes.

Sobol's sequence with the direction numbers of Joe and Kuo (2008, SIAM J. Sci. Comput. 30(5), 2635), scrambled by
Matousek's linear matrices and a digital shift (1998, J. Complexity 14, 527). Of 64 points only the first six direction
numbers of a dimension are needed: ``data/sobol_directions.txt`` holds them, a line per dimension.
"""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FILE = Path(__file__).resolve().parent / "data" / "sobol_directions.txt"
BITS = 30
"""Binary digits of a coordinate."""
LOG_POINTS = 6
MOST_POINTS = 2**LOG_POINTS


@cache
def _directions() -> npt.NDArray[np.int64]:
    """m_1 .. m_6 of every dimension (dimensions, 6): odd, m_k below 2^k."""
    rows = [line.split() for line in FILE.read_text("ascii").splitlines() if not line.startswith("#")]
    return np.array(rows, dtype=np.int64)


def most_dimensions() -> int:
    """Dimensions that there are direction numbers for."""
    return len(_directions())


def sobol(dimensions: int, points: int, *, seed: int) -> Floats:
    """Points (points, dimensions) in [0, 1), at most 64 of them in at most :func:`most_dimensions`.

    Raises:
        ValueError: more than that.
    """
    if points > MOST_POINTS or dimensions > most_dimensions():
        raise ValueError(f"at most {MOST_POINTS} points in {most_dimensions()} dimensions")
    rng = np.random.default_rng(seed).spawn(1)[0]  # scipy owns a generator of its own in the same way
    one = np.uint32(1)
    digits = rng.integers(2, size=(dimensions, BITS), dtype=np.uint32)
    shift = digits @ (one << np.arange(BITS, dtype=np.uint32))
    matrices = np.tril(rng.integers(2, size=(dimensions, BITS, BITS), dtype=np.uint32))
    matrices[:, np.arange(BITS), np.arange(BITS)] = 1
    # direction k as binary digits, the most significant first: m_k / 2^k
    places = np.arange(BITS)
    numbers = _directions()[:dimensions] << (BITS - 1 - np.arange(LOG_POINTS))
    bits = ((numbers[:, :, None] >> (BITS - 1 - places)) & 1).astype(np.uint32)  # (d, 6, bits)
    scrambled = np.einsum("dpk,djk->djp", matrices, bits) & one
    directions = (scrambled << (BITS - 1 - places).astype(np.uint32)).sum(axis=2, dtype=np.uint32)
    current, found = shift, [shift]
    for n in range(points - 1):  # Gray code: the next point differs by the direction of n's lowest zero bit
        current = current ^ directions[:, (~n & (n + 1)).bit_length() - 1]
        found.append(current)
    result: Floats = np.stack(found)[:points] * 2.0**-BITS
    return result
