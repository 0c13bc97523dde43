"""Tabular temporal-difference methods."""
