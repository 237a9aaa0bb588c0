"""Traces of traffic: files that people bring, in the dialects of those who write them, as one plain table."""
