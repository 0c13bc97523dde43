"""Trained policies at work: evaluate, load, export."""
