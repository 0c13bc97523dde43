"""Algorithms that learn from demonstrations."""
