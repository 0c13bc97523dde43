"""Policies and critics for environments."""
