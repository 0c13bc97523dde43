"""Checks of an environment against the Gymnasium API."""
