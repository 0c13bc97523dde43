"""Foundations of every package, without torch, ray or gymnasium."""
