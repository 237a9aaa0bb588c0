"""Serving engines: what they refuse to load, and what they take of a GPU's memory."""
