"""Learners of language-model runs."""
