"""Algorithms for environments, by family."""
