"""Reinforcement learning in environments."""
