"""Charts as pure functions from rows to plotly figures, in one visual language."""
