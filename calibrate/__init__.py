"""From measured kernel timings to the fractions that perfmodel's costs use."""
