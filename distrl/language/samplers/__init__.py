"""Samplers that generate answers."""
