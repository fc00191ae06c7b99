"""Measurements that others can repeat: ``radar-rl bench NAME``."""
