"""Algorithms with a learned value or partition function."""
