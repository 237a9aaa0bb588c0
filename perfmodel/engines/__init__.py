"""What a serving engine of a version does."""
