"""Flat parameters, optimizers and published weights."""
