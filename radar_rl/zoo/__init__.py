"""The embedded ``pocket`` pair, and how it was made."""
