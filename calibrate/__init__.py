"""From timings to the fractions that perfmodel's costs use: fits on measured kernels, with their error tables."""
