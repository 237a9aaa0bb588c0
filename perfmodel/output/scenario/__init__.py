"""A scenario as text: files and commands that repeat it."""
