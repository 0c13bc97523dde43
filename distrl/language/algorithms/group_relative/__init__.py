"""Algorithms whose advantages compare the answers to one prompt."""
