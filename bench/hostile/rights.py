"""Giving up root's right to enter and write everything, so that closed folders are closed wherever this runs."""

import ctypes
import os
import sys

DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2
"""Capabilities (linux/capability.h)."""
_DROP_FROM_BOUNDS, _VERSION_3 = 24, 0x20080522


def without_rights() -> None:
    """Of this process and those that it starts; of somebody who is not root there is nothing to take."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for one in (DAC_OVERRIDE, DAC_READ_SEARCH):
        libc.prctl(_DROP_FROM_BOUNDS, one, 0, 0, 0)  # root gets its rights anew with each program it starts
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()  # twice effective, permitted, inheritable
    if libc.capget(header, data) == 0:
        lost = 1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH
        for place in range(3):
            data[place] &= ~lost
        libc.capset(header, data)
