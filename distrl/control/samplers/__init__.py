"""Samplers turn weights into experience."""
