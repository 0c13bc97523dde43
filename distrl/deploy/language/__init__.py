"""Evaluation, export and serving of language models."""
