"""Environments that ship with distrl."""
