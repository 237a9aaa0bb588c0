"""Unit constants: the only place where a quantity changes scale.

Inside perfmodel every quantity is a float in SI: seconds, bytes, FLOP/s, bytes/s, USD. A user-facing
name carries its unit (``hbm_gb_per_s``); the loader multiplies by one of these constants and the
formatter divides by one, and nobody else does. GB is decimal and GiB is binary, never mixed.
"""

KILO = 1e3
MEGA = 1e6
GIGA = 1e9
TERA = 1e12

MILLION_NAMES = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
"""Large counts in words, short scale."""

MS = 1e-3
US = 1e-6
NS = 1e-9
HOUR = 3600.0

GB = 1e9
MB = 1e6
GIB = float(2**30)

PERCENT = 100.0

BITS_PER_BYTE = 8
"""Used for link rates that a datasheet quotes in bits."""
