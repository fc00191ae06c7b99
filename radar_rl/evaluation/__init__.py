"""Comparing policies by exact replay on held-out prompts: rows, intervals, table, picture."""
