"""Evaluation, loading, export and serving of trained policies."""
