"""Learners of environment runs."""
