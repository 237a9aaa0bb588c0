"""A device's kernels, timed, fitted and checked."""
