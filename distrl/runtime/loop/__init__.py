"""The training loop and its services."""
