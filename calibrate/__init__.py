"""From timings to what perfmodel costs with: calibrations of a device, tables of public figures, measured overlap."""
