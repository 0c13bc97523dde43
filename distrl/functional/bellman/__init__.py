"""Bellman targets for action values."""
