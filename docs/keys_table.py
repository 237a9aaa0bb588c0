"""Writes the tables of keys into docs/scenarios.md, from the descriptions and the engines' profiles: `make keys`."""

from pathlib import Path

from perfmodel.output.catalogue.keys import BEGIN, END, keys_markdown

PAGE = Path(__file__).with_name("scenarios.md")

if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + keys_markdown() + rest.partition(END)[2])
