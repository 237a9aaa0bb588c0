"""Charts as SVG text: small, the same on every machine, at home in both themes and on paper."""
