"""Stores between samplers and learner: queue and replay."""
