"""Vectorized stepping of environments."""
