"""The serving simulation once more, on arrays and in compiled code: whole runs without a Python object per event.

What it computes is defined elsewhere, by :mod:`perfmodel.serving.cluster` and what that uses: function by function the
same decisions in the same order on the same numbers, so that records are equal to the last bit where a processor adds
and multiplies as Python does. A test holds both together. Everything here but :mod:`~perfmodel.serving.compiled.jit`
and :mod:`~perfmodel.serving.compiled.drive` is read by numba.
"""
