"""What a serving engine of a version does: its defaults, what it refuses to load, what it takes of memory; as data."""
