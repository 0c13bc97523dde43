"""Analytic gradients of small MLPs and their losses in numpy."""
