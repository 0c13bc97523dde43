"""Reward components and their combination (plug points `reward`, `combination`, ...)."""
