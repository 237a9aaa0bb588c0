"""Training frameworks' own words: a launch line as keys of ``training``, and a layout as a launch line."""
